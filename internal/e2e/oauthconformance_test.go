package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

// Members that log in at one server are refreshed at the same time, and its
// answers overtake each other.
func TestOAuth_membersOfOneTokenEndpointKeepTheirOwnTokens(t *testing.T) {
	t.Parallel()
	accounts := []string{"work", "home", "spare", "fourth", "fifth"}
	c, s := startOAuth(t, accounts...)
	s.put(c, time.Now().Add(time.Hour), accounts...)
	s.send(func(w http.ResponseWriter, r *http.Request, answer map[string]any) {
		time.Sleep(rand.N(200 * time.Millisecond))
		send200(w, r, answer)
	})
	for round := 1; round <= 5; round++ {
		for _, account := range accounts {
			c.age(account, 4*time.Minute)
		}
		for _, account := range accounts {
			s.refreshed(c, account, round)
			r := c.record(account)
			for _, token := range []string{r.Access, r.Refresh} {
				if of := s.of(token); of.account != account || of.generation != round {
					t.Errorf("%s has a token of %s's refresh %d in round %d", account, of.account, of.generation, round)
				}
			}
		}
	}
	s.saw(t, 5*len(accounts), 0)
	for _, account := range accounts {
		if c.active() != account {
			c.want(200, http.MethodPost, "/credential_pool/pools/api/rotate", fmt.Sprintf(`{"to":%q}`, account), nil)
		}
		served(t, c.get("/"), account)
	}
}

// Both ways in which a client can show its secret, which holds characters that
// each of them has to escape.
func TestOAuth_clientWithASecret(t *testing.T) {
	t.Parallel()
	for _, style := range []string{"params", "header"} {
		t.Run(style, func(t *testing.T) {
			t.Parallel()
			c, s := startOAuth(t, "work")
			s.putWith(c, time.Now().Add(-time.Minute), "work", "confidential", map[string]any{"client_secret": s.secret, "auth_style": style})
			served(t, c.get("/"), "work")
			s.saw(t, 1, 0)
		})
	}
}

// startDoor starts a Caddy for clients that log in, with the real token endpoint
// behind it.
func startDoor(t *testing.T, accounts ...string) (*caddy, *authServer, phantomLogin) {
	t.Helper()
	c := newCaddy(t, accounts...)
	s := newAuthServer(t, c)
	c.start(config{members: c.vaulted(), app: looked, handler: s.door(c)})
	s.put(c, time.Now().Add(time.Hour), accounts...)
	p := c.phantoms()
	c.phantom = p.AccessToken
	return c, s, p
}

// door is the door of clients that log in.
func (s *authServer) door(c *caddy) string {
	return fmt.Sprintf("credential_pool_token %s api %s\n\tcredential_pool api %s {\n\t\tclient codex phantom\n\t}", tokenPath, s.URL, c.upstream.URL)
}

// grant asks for tokens, as a client does.
func (c *caddy) grant(form url.Values) answer {
	c.t.Helper()
	req := c.request(http.MethodPost, tokenPath, form.Encode(), "Content-Type", "application/x-www-form-urlencoded")
	req.Header.Del("Authorization")
	return c.do(req)
}

// A client holds the same tokens, byte for byte, whatever becomes of the real
// ones: what it is told to hold is what it held, and what it holds is let in.
func TestOAuth_phantomOutlivesFailoversAndRefreshes(t *testing.T) {
	t.Parallel()
	c, s, p := startDoor(t, "work", "home")
	same := func(when string) {
		t.Helper()
		equal(t, "the phantom "+when+" is the one before", c.phantoms() == p, true)
		form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {p.RefreshToken}, "client_id": {"app"}}
		a := c.grant(form)
		var got phantomLogin
		if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != http.StatusOK {
			t.Errorf("a refresh of the phantom %s: %d %s", when, a.status, a.body)
		}
		equal(t, "what the client is told to hold "+when, got.AccessToken == p.AccessToken && got.RefreshToken == p.RefreshToken, true)
	}
	served(t, c.get("/"), "work")
	same("at first")
	c.upstream.answer("work", status429)
	served(t, c.get("/"), "home")
	same("after a failover")
	c.age("home", 4*time.Minute)
	s.refreshed(c, "home", 1)
	served(t, c.get("/"), "home")
	same("after a refresh")
	c.stop()
	c.start(config{members: c.vaulted(), app: looked, handler: s.door(c)})
	served(t, c.get("/"), "home")
	same("after a restart")
	s.saw(t, 1, 0)
}

// Grants that are no refresh of a phantom are between the client and the real
// token endpoint. What the client is granted is its own.
func TestOAuth_otherGrantsGoToTheRealServer(t *testing.T) {
	t.Parallel()
	c, s, _ := startDoor(t, "work")
	clients := newAuthServer(t, newCaddy(t)) // whose tokens the client may see
	cfg := config{members: c.vaulted(), app: looked, handler: clients.door(c)}
	if err := c.load(cfg); err != nil {
		t.Fatal(err)
	}
	var got tokens
	ask := func(form url.Values) answer {
		t.Helper()
		a := c.grant(form)
		_ = json.Unmarshal([]byte(a.body), &got)
		return a
	}
	equal(t, "a password", ask(clients.password("somebody", "app")).status, http.StatusOK)
	first := got
	refresh := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {first.Refresh}, "client_id": {"app"}}
	equal(t, "a refresh token", ask(refresh).status, http.StatusOK)
	equal(t, "what came of it", clients.of(got.Refresh), issue{"somebody", clients.of(first.Refresh).login, 1})
	a := ask(refresh)
	if a.status != http.StatusBadRequest || !strings.Contains(a.body, `"error":"invalid_grant"`) {
		t.Errorf("a refresh token that was used: %d %s", a.status, a.body)
	}
	credentials := url.Values{"grant_type": {"client_credentials"}, "client_id": {"confidential"}, "client_secret": {clients.secret}}
	equal(t, "client credentials", ask(credentials).status, http.StatusOK)
	clients.saw(t, 1, 1)

	served(t, c.get("/"), "work")
	s.saw(t, 0, 0)
	equal(t, "notices", c.notices(), "[]")
}

// A credential that is no login is never refreshed, whatever stands on its host.
func TestOAuth_keyOnTheTokenHostIsLeftAlone(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home")
	s := newAuthServer(t, c)
	var api, grants []string
	mixed := http.NewServeMux()
	mixed.Handle(tokenPath, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		s.mu.Lock()
		grants = append(grants, string(body)+fmt.Sprint(r.Header))
		s.mu.Unlock()
		s.ServeHTTP(w, r)
	}))
	mixed.Handle("/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		api = append(api, r.Header.Get("Authorization"))
		s.mu.Unlock()
		c.upstream.ServeHTTP(w, r)
	}))
	s.Config.Handler = mixed
	c.start(config{
		members: c.vaulted(), app: looked,
		handler: "credential_pool api " + s.URL + " {\n\t\tclient agent {env.PHANTOM}\n\t}",
	})
	c.put("work")
	s.put(c, time.Now().Add(-time.Minute), "home")
	s.refreshed(c, "home", 1)
	before := must(os.ReadFile(c.recordPath("work")))
	c.upstream.answer("work", status(http.StatusUnauthorized))
	served(t, c.get("/"), "home")
	c.is("work", "cooling")
	equal(t, "the key's record is as it was", bytes.Equal(must(os.ReadFile(c.recordPath("work"))), before), true)
	s.saw(t, 1, 0)
	s.mu.Lock()
	defer s.mu.Unlock()
	equal(t, "requests for tokens", len(grants), 2) // the login, and its refresh
	equal(t, "requests of the API", len(api), 2)
	equal(t, "the first with the key", api[0] == "Bearer "+c.secrets["work"], true)
	for _, grant := range grants {
		if strings.Contains(grant, c.secrets["work"]) || strings.Contains(grant, url.QueryEscape(c.secrets["work"])) {
			t.Error("the key came to the token endpoint")
		}
	}
}

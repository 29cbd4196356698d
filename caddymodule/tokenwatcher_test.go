package caddymodule

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

// openTokenSite is a login site whose clients can reach the token endpoint, too.
// Requests that are not of the vault's client are answered by answer.
func openTokenSite(t *testing.T, form string, answer http.HandlerFunc) *loginSite {
	s := openLoginSite(t, form+"\n"+directive())
	s.server.set(func() {
		s.server.before = func(w http.ResponseWriter, r *http.Request) bool {
			if answer == nil || r.PostForm.Get("client_id") == "app" {
				return false
			}
			answer(w, r)
			return true
		}
	})
	s.putLogin("a", inAnHour())
	s.putLogin("b", inAnHour())
	return s
}

var watchedForms = map[string]string{
	"with an upstream":    "credential_pool_token /oauth/token POOL TOKENS",
	"without an upstream": "route /oauth/token {\ncredential_pool_token POOL\nreverse_proxy TOKENS\n}",
}

// refresh refreshes a token as a client that is not the vault.
func (s *loginSite) refresh(token string) (int, string) {
	s.t.Helper()
	return s.grant(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}, "client_id": {"another"}}.Encode())
}

func (s *loginSite) grant(body string) (int, string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, "http://"+s.door+"/oauth/token", strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", formBody)
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body) // it may break off
	return res.StatusCode, string(b)
}

func (s *loginSite) members() []memberView {
	s.t.Helper()
	var v poolView
	if err := json.Unmarshal([]byte(s.status()), &v); err != nil {
		s.t.Fatal(err)
	}
	return v.Members
}

// states are the members', and why.
func (s *loginSite) states() string {
	s.t.Helper()
	text := ""
	for _, m := range s.members() {
		text += fmt.Sprintf("%s %s %s;", m.Name, m.State, m.Reason)
	}
	return text
}

func TestTokenWatcher_aLimitBenchesWhoseTokenItIs(t *testing.T) {
	for name, form := range watchedForms {
		t.Run(name, func(t *testing.T) {
			const says = `{"error":"slow_down"}`
			s := openTokenSite(t, form, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", "300")
				w.WriteHeader(429)
				_, _ = io.WriteString(w, says)
			})
			for _, body := range []string{
				refreshForm("refresh-of-nobody"),
				refreshForm(refreshToken("b", 1)) + "&refresh_token=x",
				refreshForm(accessToken("b", 1)),
				"grant_type=authorization_code&code=" + refreshToken("b", 1),
				"token=" + refreshToken("b", 1),
				refreshForm(""),
			} {
				if code, answer := s.grant(body); code != 429 || answer != says {
					t.Errorf("%s gets %d %s", body, code, answer)
				}
				if got := s.states(); got != "a ready ;b ready ;" {
					t.Fatalf("after %s the members are %s", body, got)
				}
			}
			if code, answer := s.refresh(refreshToken("b", 1)); code != 429 || answer != says {
				t.Errorf("it gets %d %s", code, answer)
			}
			if got := s.states(); got != "a ready ;b cooling 429;" {
				t.Errorf("the members are %s", got)
			}
			if wait := time.Until(s.members()[1].Until); wait < 4*time.Minute || wait > 5*time.Minute {
				t.Errorf("b is out for %s", wait)
			}
			s.want(200)
			if grants, _ := s.server.granted(); grants > 0 {
				t.Errorf("%d grants", grants)
			}
		})
	}
}

// A client's id may be wrong, so that its token is refused says nothing yet: the
// vault asks, too.
func TestTokenWatcher_aRefusalIsTried(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"plain": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, `{"error":"invalid_grant"}`, 400) },
		"zipped": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.WriteHeader(400)
			_, _ = w.Write(encode(t, "gzip", []byte(`{"error":"invalid_grant"}`)))
		},
		"by its status": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"error":"Unauthorized"}`, http.StatusUnauthorized)
		},
		"broken off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(400)
			_, _ = io.WriteString(w, `{"error":"invalid_client"}`)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := openTokenSite(t, watchedForms["with an upstream"], answer)
			s.refresh(refreshToken("a", 1))
			for deadline := time.Now().Add(10 * time.Second); s.server.newest("a") == 1; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the vault does not refresh the login")
				}
			}
			s.want(200)
			s.refresh(refreshToken("a", 1)) // which is nobody's now
			if got := s.states(); got != "a ready ;b ready ;" {
				t.Errorf("the members are %s", got)
			}
			if grants, reuses := s.server.granted(); grants != 1 || reuses != 0 {
				t.Errorf("%d grants, %d reuses", grants, reuses)
			}
		})
	}
}

func TestTokenWatcher_whatIsNobodysFaultDoesNothing(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"invalid_request": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, `{"error":"invalid_request"}`, 400) },
		"503":             status(503, "Retry-After", "60"),
		"a redirect":      status(307, "Location", "http://127.0.0.1:1/"),
		"nothing":         func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"not readable": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			w.WriteHeader(400)
			_, _ = io.WriteString(w, `{"error":"invalid_grant"}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := openTokenSite(t, watchedForms["with an upstream"], answer)
			s.refresh(refreshToken("a", 1))
			s.want(200)
			if got := s.states(); got != "a ready ;b ready ;" {
				t.Errorf("the members are %s", got)
			}
			if log := s.logged(); strings.Contains(log, "refresh token of a member") || strings.Contains(log, "past the vault") {
				t.Error("the log tells of it")
			}
			if grants, _ := s.server.granted(); grants > 0 {
				t.Errorf("%d grants", grants)
			}
		})
	}
}

// To use a token that was used shows, and ends the client's login, too.
func TestTokenWatcher_aSuccessIsToldAndLeft(t *testing.T) {
	s := openTokenSite(t, watchedForms["with an upstream"], nil)
	if code, answer := s.refresh(refreshToken("a", 1)); code != 200 || !strings.Contains(answer, accessToken("a", 2)) {
		t.Fatalf("%d %s", code, answer)
	}
	log := s.logged()
	if !strings.Contains(log, "past the vault") || !strings.Contains(log, `"credential":"`+s.pool+`/a"`) {
		t.Error("the log does not tell of it")
	}
	if strings.Contains(log, refreshToken("a", 1)) || strings.Contains(log, accessToken("a", 2)) {
		t.Error("the log shows a token")
	}
	if got := s.states(); got != "a ready ;b ready ;" {
		t.Errorf("the members are %s", got)
	}
	if grants, reuses := s.server.granted(); grants != 1 || reuses != 0 {
		t.Errorf("%d grants, %d reuses", grants, reuses)
	}
}

// A member that has a key in the place of a login has no refresh token to show.
func TestTokenWatcher_aKeyIsLeftAlone(t *testing.T) {
	s := openTokenSite(t, watchedForms["with an upstream"], status(429))
	s.put("a", "key-of-a-member")
	for _, token := range []string{"key-of-a-member", refreshToken("a", 1)} {
		s.refresh(token)
	}
	if got := s.states(); got != "a ready ;b ready ;" {
		t.Errorf("the members are %s", got)
	}
}

func (s *loginSite) logged() string {
	s.t.Helper()
	log, err := os.ReadFile(s.log)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(log)
}

package caddymodule

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// loginSite is a Caddy whose members a and b have logins at a token server, in
// front of an API that takes the newest token of each.
type loginSite struct {
	*site
	server *tokenServer
	tokens string // the token endpoint
	api    *upstream

	mu      sync.Mutex
	answers strings.Builder // what clients got
}

func openLoginSite(t *testing.T, directive string) *loginSite {
	t.Helper()
	server := newTokenServer("a", "b")
	endpoint := httptest.NewServer(server)
	t.Cleanup(endpoint.Close)
	api := newUpstream(t)
	dir := t.TempDir()
	s := &loginSite{
		site:   &site{t: t, door: freeAddress(t), admin: freeAddress(t), pool: uniqueName(), log: filepath.Join(dir, "log")},
		server: server, tokens: endpoint.URL + "/token", api: api,
	}
	handler := api.Config.Handler
	api.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "); !server.accepts(token) {
			api.mu.Lock()
			api.hits = append(api.hits, hit{credential: token})
			api.mu.Unlock()
			w.Header().Set("X-Echo", token)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		handler.ServeHTTP(w, r)
	})
	text := fmt.Sprintf(`{
	admin %s
	metrics
	storage file_system %s
	log {
		output file %s
		level DEBUG
	}
	credential_pool {
		pool %s {
			member a
			member b
		}
	}
}
http://%s {
	log
	%s
}
`, s.admin, filepath.Join(dir, "storage"), s.log, s.pool, s.door,
		strings.NewReplacer("UPSTREAM", strings.TrimPrefix(api.URL, "http://"), "TOKENS", strings.TrimPrefix(endpoint.URL, "http://"), "POOL", s.pool).Replace(directive))
	load(t, text)
	t.Cleanup(func() { _ = caddy.Stop() })
	return s
}

// putLogin puts the newest tokens of an account.
func (s *loginSite) putLogin(account string, expires time.Time) {
	s.t.Helper()
	n := s.server.newest(account)
	body := fmt.Sprintf(`{"kind":"oauth","access_token":%q,"refresh_token":%q,"client_secret":"client-secret-1","client_id":"app","token_url":%q,"expires_at":%q}`,
		accessToken(account, n), refreshToken(account, n), s.tokens, expires.Format(time.RFC3339))
	if code, answer := s.operate(http.MethodPut, "/credential_pool/credentials/"+s.pool+"/"+account, body); code != 200 {
		s.t.Fatalf("put: %d %s", code, answer)
	}
}

// revoke makes the API refuse the account's newest access token, while its
// refresh token still works.
func (s *loginSite) revoke(account string) {
	s.server.set(func() {
		s.server.before = func(http.ResponseWriter, *http.Request) bool {
			s.server.set(func() { s.server.accounts[account].revoked = false })
			return false
		}
		s.server.accounts[account].revoked = true
	})
}

func (s *loginSite) post(body io.Reader) (int, string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, "http://"+s.door+"/v1/x", body)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+phantom)
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		s.t.Error(err)
		return 0, ""
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintln(&s.answers, res.StatusCode, res.Header, string(b))
	return res.StatusCode, string(b)
}

// postAtOnce wants n requests to be served at the price of one grant.
func (s *loginSite) postAtOnce(n int) {
	s.t.Helper()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			if code, body := s.post(strings.NewReader("hello")); code != 200 || body != "ok hello" {
				s.t.Errorf("%d %s", code, body)
			}
		})
	}
	wg.Wait()
	if grants, reuses := s.server.granted(); grants != 1 || reuses != 0 {
		s.t.Errorf("%d grants, %d reuses", grants, reuses)
	}
}

func (s *loginSite) want(code int) {
	s.t.Helper()
	if got, body := s.post(strings.NewReader("hello")); got != code || (code == 200 && body != "ok hello") {
		s.t.Fatalf("status %d, want %d: %s", got, code, body)
	}
}

func (s *loginSite) status() string {
	_, answer := s.operate(http.MethodGet, "/credential_pool/pools/"+s.pool, "")
	return answer
}

func inAnHour() time.Time { return time.Now().Add(time.Hour) }

func TestOAuth_a401IsRefreshedAndTriedAgain(t *testing.T) {
	s := openLoginSite(t, directive())
	s.putLogin("a", inAnHour())
	s.putLogin("b", inAnHour())
	s.want(200)
	s.revoke("a")
	s.want(200)
	if got := s.api.credentials(); got != "access-a-1 access-a-1 access-a-2" {
		t.Errorf("the API saw %s", got)
	}
	if answer := s.status(); strings.Contains(answer, "cooling") || !strings.Contains(answer, `"refreshed_at"`) {
		t.Errorf("the pool is %s", answer)
	}
	if _, answer := s.operate("GET", "/credential_pool/notices?limit=1", ""); !strings.Contains(answer, `"kind":"refreshed"`) {
		t.Errorf("told is %s", answer)
	}
}

func TestOAuth_many401sMakeOneGrant(t *testing.T) {
	s := openLoginSite(t, directive())
	s.putLogin("a", inAnHour())
	s.putLogin("b", inAnHour())
	s.revoke("a")
	s.postAtOnce(50)
	if got := s.api.credentials(); strings.Contains(got, "access-b") {
		t.Errorf("the API saw %s", got)
	}
}

func TestOAuth_manyRequestsMeetAnExpiredToken(t *testing.T) {
	s := openLoginSite(t, directive())
	s.server.before = func(http.ResponseWriter, *http.Request) bool { time.Sleep(200 * time.Millisecond); return false }
	s.putLogin("a", time.Now().Add(-time.Hour))
	s.postAtOnce(100)
	if got := s.api.credentials(); strings.Contains(got, "access-a-1") {
		t.Error("the expired token went upstream")
	}
}

func TestOAuth_anAccountThatIsRejectedAfterARefreshIsBenched(t *testing.T) {
	s := openLoginSite(t, directive())
	s.putLogin("a", inAnHour())
	s.putLogin("b", inAnHour())
	s.api.on("access-a-1", status(401))
	s.api.on("access-a-2", status(401))
	s.want(200)
	s.want(200)
	if got := s.api.credentials(); got != "access-a-1 access-a-2 access-b-1 access-b-1" {
		t.Errorf("the API saw %s", got)
	}
	if answer := s.status(); !strings.Contains(answer, `"state":"cooling","reason":"401"`) {
		t.Errorf("the pool is %s", answer)
	}
	s.operate("POST", "/credential_pool/pools/"+s.pool+"/rotate", `{"to":"b"}`)
	s.operate("POST", "/credential_pool/pools/"+s.pool+"/members/a/recover", "")
	s.operate("POST", "/credential_pool/pools/"+s.pool+"/rotate", `{"to":"a"}`)
	s.want(200)
	if grants, _ := s.server.granted(); grants != 1 {
		t.Errorf("%d grants for an account that is rejected again and again", grants)
	}
}

func TestOAuth_aBodyThatCanNotBeSentAgainIsNobodysFault(t *testing.T) {
	s := openLoginSite(t, directive("replay_limit 1KiB"))
	s.putLogin("a", inAnHour())
	s.putLogin("b", inAnHour())
	s.revoke("a")
	if code, _ := s.post(bytes.NewReader(make([]byte, 64<<10))); code != 401 {
		t.Errorf("status %d", code)
	}
	if answer := s.status(); strings.Contains(answer, "cooling") {
		t.Errorf("the pool is %s", answer)
	}
	s.want(200)
	if got := s.api.credentials(); got != "access-a-1 access-a-2" {
		t.Errorf("the API saw %s", got)
	}
}

func TestOAuth_aLostLoginIsLeftAndSaysSo(t *testing.T) {
	s := openLoginSite(t, directive())
	s.putLogin("a", inAnHour())
	s.putLogin("b", inAnHour())
	s.server.set(func() { s.server.accounts["a"].revoked = true })
	s.want(200)
	if got := s.api.credentials(); got != "access-a-1 access-b-1" {
		t.Errorf("the API saw %s", got)
	}
	if answer := s.status(); !strings.Contains(answer, `"state":"missing","reason":"log in again (invalid_grant)"`) {
		t.Errorf("the pool is %s", answer)
	}
	waitUntil(t, "the loss is stored", func() bool {
		_, answer := s.operate("GET", "/credential_pool/credentials/"+s.pool+"/a", "")
		return strings.Contains(answer, `"needs_login":true,"reason":"invalid_grant"`)
	})
	if _, answer := s.operate("GET", "/credential_pool/notices?limit=3", ""); !strings.Contains(answer, `"kind":"refresh_failed"`) || !strings.Contains(answer, `"reason":"invalid_grant","meaning":"auth_failed"`) {
		t.Errorf("told is %s", answer)
	}
	if out, err := s.command("", "list"); err != nil || !strings.Contains(out, "log in again (invalid_grant)") {
		t.Errorf("%v: %s", err, out)
	}
	s.server.set(func() { s.server.accounts["a"] = &tokenAccount{n: 5} })
	s.putLogin("a", inAnHour())
	if answer := s.status(); strings.Contains(answer, "missing") {
		t.Errorf("after a new login the pool is %s", answer)
	}
}

func TestOAuth_aTokenEndpointThatIsDownLeavesTheRestToTheAPI(t *testing.T) {
	s := openLoginSite(t, directive())
	s.putLogin("a", inAnHour())
	s.putLogin("b", inAnHour())
	s.revoke("a")
	s.server.set(func() {
		s.server.before = func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(503); return true }
	})
	s.want(200)
	if got := s.api.credentials(); got != "access-a-1 access-b-1" {
		t.Errorf("the API saw %s", got)
	}
	if answer := s.status(); !strings.Contains(answer, `"state":"cooling","reason":"401"`) {
		t.Errorf("the pool is %s", answer)
	}
}

func TestOAuth_beforeAnotherHandlerTheNextRequestHasTheNewToken(t *testing.T) {
	s := openLoginSite(t, withoutUpstream)
	s.putLogin("a", inAnHour())
	s.putLogin("b", inAnHour())
	s.revoke("a")
	s.want(401)
	waitUntil(t, "the login is refreshed", func() bool { grants, _ := s.server.granted(); return grants == 1 })
	waitUntil(t, "the new token is used", func() bool { code, _ := s.post(strings.NewReader("hello")); return code == 200 })
	if got := s.api.credentials(); strings.Contains(got, "access-b") || strings.Contains(s.status(), "cooling") {
		t.Errorf("the API saw %s", got)
	}
}

func waitUntil(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for range 200 {
		if holds() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("it was waited in vain until " + what)
}

func TestOAuth_canariesAreNowhereButUpstream(t *testing.T) {
	s := openLoginSite(t, directive())
	s.putLogin("a", time.Now().Add(-time.Hour))
	s.putLogin("b", inAnHour())
	s.want(200)
	s.revoke("b")
	s.server.set(func() { s.server.accounts["a"].revoked = true })
	s.operate("POST", "/credential_pool/pools/"+s.pool+"/rotate", "")
	s.want(200)
	for _, answer := range []http.HandlerFunc{
		func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "http://127.0.0.1:1/?"+r.PostForm.Get("refresh_token"))
			w.WriteHeader(307)
			_, _ = io.WriteString(w, r.PostForm.Encode())
		},
		func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, `{"access_token":5,"refresh_token":"`+r.PostForm.Get("refresh_token")+`"}`)
		},
		func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(400)
			_, _ = io.WriteString(w, `{"error":"invalid_grant","error_description":"`+r.PostForm.Encode()+`"}`)
		},
	} {
		s.server.set(func() {
			s.server.accounts["a"] = &tokenAccount{n: 1}
			s.server.before = func(w http.ResponseWriter, r *http.Request) bool { answer(w, r); return true }
		})
		asked := len(s.server.seen())
		s.putLogin("a", time.Now().Add(-time.Hour))
		waitUntil(t, "the endpoint is asked", func() bool { return len(s.server.seen()) > asked })
		s.post(strings.NewReader("hello"))
	}
	waitUntil(t, "the login is lost", func() bool { return strings.Contains(s.status(), "log in again") })
	for _, path := range []string{"/config/", "/metrics", "/credential_pool/pools", "/credential_pool/credentials", "/credential_pool/notices"} {
		s.operate("GET", path, "")
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(s.log)
	if err != nil || !strings.Contains(string(log), "must log in again") || !strings.Contains(string(log), "cred_refreshed") {
		t.Fatalf("the log tells of nothing: %v", err)
	}
	for _, account := range []string{"a", "b"} {
		for n := range 4 {
			for _, token := range []string{accessToken(account, n), refreshToken(account, n), "client-secret-1"} {
				for _, form := range []string{token, url.QueryEscape(token), strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(token)), "=")} {
					if strings.Contains(string(log), form) {
						t.Errorf("%s stands in the log: %s", token, regexp.MustCompile(`.*`+regexp.QuoteMeta(form)+`.*`).FindString(string(log)))
					}
					if strings.Contains(s.seen.String()+s.answers.String(), form) {
						t.Errorf("%s stands in an answer", token)
					}
				}
			}
		}
	}
}

func TestOAuth_aReloadInMidRefreshBurnsNothing(t *testing.T) {
	s := openLoginSite(t, directive())
	s.server.before = func(http.ResponseWriter, *http.Request) bool { time.Sleep(time.Second); return false }
	s.putLogin("a", time.Now().Add(-time.Hour))
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.post(strings.NewReader("hello"))
	}()
	waitUntil(t, "the endpoint is asked", func() bool { return len(s.server.seen()) == 1 })
	_, config := s.operate("GET", "/config/", "")
	if code, answer := s.operate("POST", "/load", strings.Replace(config, `"members"`, `"park_for":"1m","members"`, 1)); code != 200 {
		t.Fatalf("%d %s", code, answer)
	}
	<-done
	s.want(200)
	if grants, reuses := s.server.granted(); grants != 1 || reuses != 0 {
		t.Errorf("%d grants, %d reuses", grants, reuses)
	}
}

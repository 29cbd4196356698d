package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// tokenEndpoint gives out tokens whose refresh tokens work once.
type tokenEndpoint struct {
	*httptest.Server
	c *caddy

	mu             sync.Mutex
	accounts       map[string]string // by the refresh token that works
	grants, reuses int
	granted        chan struct{} // if it is set: told of each grant, whose answer then never comes
}

func newTokenEndpoint(c *caddy) *tokenEndpoint {
	e := &tokenEndpoint{c: c, accounts: make(map[string]string)}
	e.Server = httptest.NewServer(http.HandlerFunc(e.serve))
	c.t.Cleanup(e.Close)
	return e
}

func (e *tokenEndpoint) serve(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	e.mu.Lock()
	account, ok := e.accounts[r.PostForm.Get("refresh_token")]
	if !ok {
		e.reuses++
		e.mu.Unlock()
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"error":"invalid_grant"}`))
		return
	}
	delete(e.accounts, r.PostForm.Get("refresh_token"))
	next := e.c.canary()
	e.accounts[next] = account
	e.grants++
	granted := e.granted
	e.mu.Unlock()
	if granted != nil {
		close(granted)
		<-r.Context().Done()
		return
	}
	time.Sleep(100 * time.Millisecond)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"access_token": e.c.account(account), "refresh_token": next, "expires_in": 3600})
}

func (e *tokenEndpoint) counts() (grants, reuses int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.grants, e.reuses
}

// login puts a login of the account that ends then.
func (e *tokenEndpoint) login(account string, expires time.Time) {
	e.c.t.Helper()
	refresh := e.c.canary()
	e.mu.Lock()
	e.accounts[refresh] = account
	e.mu.Unlock()
	access := e.c.account(account)
	if expires.Before(time.Now()) {
		access = e.c.account("expired")
	}
	e.c.want(200, http.MethodPut, "/credential_pool/credentials/api/"+account, fmt.Sprintf(
		`{"kind":"oauth","access_token":%q,"refresh_token":%q,"expires_at":%q,"token_url":%q,"client_id":"app"}`,
		access, refresh, expires.UTC().Format(time.RFC3339), e.URL), nil)
}

// lostIn is until when a login that was lost has shown it after a kill: the lock
// of the killed process has to grow old, and then its intent.
const lostIn = 60 * time.Second

func TestFault_killedBetweenGrantAndStore(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home")
	cfg := config{members: c.vaulted()}
	c.start(cfg)
	c.upstream.answer("expired", status(http.StatusUnauthorized))
	e := newTokenEndpoint(c)
	e.login("home", time.Now().Add(time.Hour))
	e.granted = make(chan struct{})
	e.login("work", time.Now().Add(-time.Minute))
	<-e.granted
	c.kill()

	e.mu.Lock()
	e.granted = nil
	e.mu.Unlock()
	c.start(cfg)
	c.is("home", "ready")
	served(t, c.get("/"), "home")
	for deadline := time.Now().Add(lostIn); c.member("work").State != "missing" && time.Now().Before(deadline); {
		time.Sleep(200 * time.Millisecond)
	}
	if m := c.member("work"); m.Reason != "log in again (invalid_grant)" {
		t.Errorf("work is %s (%s)", m.State, m.Reason)
	}
	served(t, c.get("/"), "home")
	if grants, reuses := e.counts(); grants != 1 || reuses != 1 {
		t.Errorf("%d grants, %d attempts with the used token", grants, reuses)
	}
	e.login("work", time.Now().Add(time.Hour))
	c.is("work", "ready")
}

func TestFault_twoProcessesMeetAnExpiredToken(t *testing.T) {
	t.Parallel()
	const rounds = 5
	other := newCaddy(t, "work")
	identity := other.identity()
	other.setenv("IDENTITY", identity)
	c := newCaddy(t, "work")
	c.watch(canary{strings.TrimPrefix(identity, "AGE-SECRET-KEY-1")})
	c.setenv("IDENTITY", identity)
	other.storage, other.upstream = c.storage, c.upstream
	cfg := config{members: c.vaulted(), app: "vault {\nidentity {env.IDENTITY}\n}\nsync_interval 100ms"}
	c.start(cfg)
	other.start(cfg)
	e := newTokenEndpoint(c)
	for range rounds {
		e.login("work", time.Now().Add(-time.Minute))
		eventually(t, "both have it", func() bool {
			return c.member("work").State == "ready" && other.member("work").State == "ready"
		})
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				one := []*caddy{c, other}[i%2]
				if a := one.get("/"); a.status != http.StatusOK {
					t.Errorf("status %d", a.status)
				}
			})
		}
		wg.Wait()
	}
	if grants, reuses := e.counts(); grants != rounds || reuses != 0 {
		t.Errorf("%d grants in %d rounds, %d reuses", grants, rounds, reuses)
	}
}

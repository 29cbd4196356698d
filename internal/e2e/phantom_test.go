package e2e

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// grantEndpoint is a real token endpoint. It keeps what it was sent, which must
// be no phantom.
type grantEndpoint struct {
	*httptest.Server
	mu   sync.Mutex
	seen []string
}

func newGrantEndpoint(t *testing.T) *grantEndpoint {
	e := new(grantEndpoint)
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		e.mu.Lock()
		e.seen = append(e.seen, fmt.Sprint(r.Method, " ", r.Header.Get("Content-Type"), " ", len(body), " ", sha256.Sum256(body), " ", err))
		e.mu.Unlock()
		if text := fmt.Sprint(r.URL, r.Header, string(body)); strings.Contains(text, "cpr_") || strings.Contains(text, "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.") {
			t.Errorf("a phantom came to the real token endpoint: %.300s", text)
		}
		w.WriteHeader(http.StatusTeapot)
	}))
	t.Cleanup(e.Close)
	return e
}

// hits returns what it was sent since the last call.
func (e *grantEndpoint) hits() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	seen := e.seen
	e.seen = nil
	return seen
}

// phantomDoor is the door of clients that log in, and their token endpoint.
func (c *caddy) phantomDoor(e *grantEndpoint) config {
	return config{handler: fmt.Sprintf("credential_pool_token /oauth/token api %s\n\tcredential_pool api %s {\n\t\tclient codex phantom\n\t}", e.URL, c.upstream.URL)}
}

func (c *caddy) phantoms() (p phantomLogin) {
	c.t.Helper()
	c.want(http.StatusOK, http.MethodGet, "/credential_pool/phantom/api", "", &p)
	return p
}

// as makes a request as a client with that token, and returns the status.
func (c *caddy) as(token string) int {
	c.t.Helper()
	return c.do(c.request(http.MethodGet, "/", "", "Authorization", "Bearer "+token)).status
}

// tokenRequest is a request to the token endpoint.
func (c *caddy) tokenRequest(form url.Values) *http.Request {
	req := must(http.NewRequest(http.MethodPost, c.url("/oauth/token"), strings.NewReader(form.Encode())))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return req
}

func refreshOf(token string) url.Values {
	return url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}
}

// refreshed fails the test unless the refresh of a phantom brings the same again.
func (c *caddy) refreshed(p phantomLogin) {
	c.t.Helper()
	a := c.do(c.tokenRequest(refreshOf(p.RefreshToken)))
	equal(c.t, "the answer to a refresh", a.body, fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","expires_in":86400,"refresh_token":%q,"id_token":%q}`+"\n",
		p.AccessToken, p.RefreshToken, p.IDToken))
	equal(c.t, "its status and header", []any{a.status, a.header.Get("Cache-Control"), a.header.Get("Pragma")}, "[200 no-store no-cache]")
}

// beside prepares another Caddy for the same accounts, upstream and storage.
func (c *caddy) beside() *caddy {
	other := newCaddy(c.t, c.accounts...)
	other.upstream, other.secrets, other.storage = c.upstream, c.secrets, c.storage
	for name, secret := range c.secrets {
		other.setenv("KEY_"+name, secret)
	}
	return other
}

// Two processes that have one storage have one phantom, byte for byte, whatever
// happens to either. What one of them makes or revokes counts at the other.
func TestPhantom_twoProcessesOnOneStorage(t *testing.T) {
	t.Parallel()
	e := newGrantEndpoint(t)
	c := newCaddy(t, "work", "home")
	other := c.beside()
	cfg := c.phantomDoor(e)
	c.start(cfg)
	other.start(cfg)

	// Both make the key at once.
	var theirs phantomLogin
	var made sync.WaitGroup
	made.Go(func() { theirs = other.phantoms() })
	p := c.phantoms()
	made.Wait()
	equal(t, "the other's are the same", theirs == p, true)
	same := func(after string) {
		t.Helper()
		for _, c := range []*caddy{c, other} {
			c.phantom = p.AccessToken
			equal(t, "after "+after+" they are the same", c.phantoms() == p, true)
			equal(t, "after "+after+" the access token gets", c.as(p.AccessToken), 200)
			c.refreshed(p)
		}
	}
	same("they were made")
	c.upstream.answer("work", status429)
	served(t, c.get("/"), "home")
	same("a failover")
	c.upstream.answer("work", nil)
	c.want(200, http.MethodPost, "/credential_pool/pools/api/members/work/recover", "", nil)
	c.want(200, http.MethodPost, "/credential_pool/pools/api/rotate", "", nil)
	same("a rotate")
	reloaded := cfg
	reloaded.app = "notice_window 1m"
	if err := c.load(reloaded); err != nil {
		t.Fatal(err)
	}
	same("a reload")
	c.kill()
	c.start(cfg)
	other.stop()
	other.start(cfg)
	same("a restart of both")

	for round := range 3 {
		old := p
		must(c.pooled("", "phantom", "--rotate"))
		p = c.phantoms()
		equal(t, fmt.Sprintf("rotate %d: the revoked one gets", round), c.as(old.AccessToken), 401)
		if round%2 == 0 {
			equal(t, "the new one gets at once, at the other", other.as(p.AccessToken), 200)
		} else {
			other.refreshed(p)
		}
		eventually(t, "the other refuses the revoked one, too", func() bool { return other.as(old.AccessToken) == 401 })
		a := other.do(other.tokenRequest(refreshOf(old.RefreshToken)))
		equal(t, "a revoked refresh token is refused", a.status == 400 && strings.Contains(a.body, `"invalid_grant"`), true)
		same("a revocation")
	}
	equal(t, "the real token endpoint was asked", e.hits(), "[]")
}

// What is not ours passes byte for byte, however it is sent.
func TestPhantom_otherGrantsPassOverEveryProtocol(t *testing.T) {
	t.Parallel()
	e := newGrantEndpoint(t)
	c := startCaddy(t, config{handler: "credential_pool_token /oauth/token api " + e.URL}, "work")
	p := c.phantoms()
	h2 := &http.Transport{Protocols: new(http.Protocols)}
	h2.Protocols.SetUnencryptedHTTP2(true)
	h1 := &http.Transport{ExpectContinueTimeout: time.Minute}
	t.Cleanup(func() { h2.CloseIdleConnections(); h1.CloseIdleConnections() })
	const form = "application/x-www-form-urlencoded"
	for proto, transport := range map[string]*http.Transport{"HTTP/1.1": h1, "HTTP/2.0": h2} {
		for _, chunked := range []bool{false, true} {
			for _, expect := range []string{"", "100-continue"} {
				ask := func(body string) *http.Response {
					var r io.Reader = strings.NewReader(body)
					if chunked {
						r = struct{ io.Reader }{r}
					}
					req := must(http.NewRequest(http.MethodPost, c.url("/oauth/token"), r))
					req.Header.Set("Content-Type", form)
					if expect != "" {
						req.Header.Set("Expect", expect)
					}
					res := must(transport.RoundTrip(req))
					_, _ = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
					equal(t, "the protocol", res.Proto, proto)
					return res
				}
				how := fmt.Sprintf("%s, chunked: %t, %s", proto, chunked, expect)
				for _, size := range []int{50, 64<<10 - 1, 64 << 10, 64<<10 + 1, 1 << 20} {
					start := "grant_type=refresh_token&refresh_token=rt_real&p="
					body := start + strings.Repeat("p", size-len(start))
					equal(t, fmt.Sprintf("%s: %d bytes get", how, size), ask(body).StatusCode, http.StatusTeapot)
					equal(t, fmt.Sprintf("%s: of %d bytes, the endpoint got", how, size), e.hits(),
						[]string{fmt.Sprint("POST ", form, " ", size, " ", sha256.Sum256([]byte(body)), " ", nil)})
				}
				equal(t, how+": a phantom gets", ask(refreshOf(p.RefreshToken).Encode()).StatusCode, 200)
				equal(t, how+": a revocation of a phantom gets", ask("token="+p.RefreshToken).StatusCode, 400)
			}
		}
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions} {
			res := must(transport.RoundTrip(must(http.NewRequest(method, c.url("/oauth/token?a=b"), nil))))
			_ = res.Body.Close()
			equal(t, method+" gets", res.StatusCode, http.StatusTeapot)
			equal(t, "of "+method+", the endpoint got", e.hits(), []string{fmt.Sprint(method, "  0 ", sha256.Sum256(nil), " ", nil)})
		}
	}
}

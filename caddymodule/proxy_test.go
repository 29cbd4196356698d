package caddymodule

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/vault"
)

// What reverse_proxy does besides a request's one way to the upstream.

func TestProxy_healthChecksGoOutBare(t *testing.T) {
	u := newUpstream(t)
	checked := make(chan string, 100)
	u.on("", func(w http.ResponseWriter, r *http.Request) {
		checked <- r.URL.Path
		w.WriteHeader(http.StatusOK)
	})
	d := open(t, u, "", directive("health_uri /healthy\nhealth_interval 50ms"))
	if path := <-checked; path != "/healthy" {
		t.Errorf("the check asks for %s", path)
	}
	<-checked
	d.want(200)
}

func TestProxy_aRequestThatComesBackMeetsNoMemberTwice(t *testing.T) {
	u := newUpstream(t)
	u.on("credential-a", status(429))
	u.on("credential-b", status(429))
	d := open(t, u, "", directive("lb_retries 3\nlb_try_interval 10ms\nlb_retry_match {\nmethod POST\nexpression {rp.status_code} == 429\n}"))
	d.want(429)
	if got := u.credentials(); got != "credential-a credential-b" {
		t.Errorf("the upstream saw %s", got)
	}
}

func TestProxy_aRequestThatComesBackHasItsBodyOrFails(t *testing.T) {
	for name, tt := range map[string]struct {
		first  http.HandlerFunc
		match  string
		status int
		hits   int
	}{
		"after a broken connection it is replayed": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "method POST", 200, 2},
		"after an answer it is recorded no longer": {status(503), "expression {rp.status_code} == 503", 502, 1},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			var refused atomic.Bool
			u.on("credential-a", func(w http.ResponseWriter, r *http.Request) {
				if refused.CompareAndSwap(false, true) {
					tt.first(w, r)
				}
			})
			d := open(t, u, "", directive("lb_retries 3\nlb_try_interval 10ms\nlb_retry_match {\n"+tt.match+"\n}"))
			d.want(tt.status)
			hits := u.seen()
			if len(hits) != tt.hits {
				t.Errorf("%d attempts, want %d", len(hits), tt.hits)
			}
			for _, h := range hits {
				if h.body != "hello" {
					t.Errorf("the upstream got the body %q", h.body)
				}
			}
		})
	}
}

// upstreamUses returns how many configs use the upstream, by Caddy's own count.
func upstreamUses(t *testing.T, d *door, u *upstream) int {
	t.Helper()
	res, err := http.Get("http://" + d.admin + "/reverse_proxy/upstreams")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var list []struct{ Address string }
	if err := json.NewDecoder(res.Body).Decode(&list); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, up := range list {
		if up.Address == strings.TrimPrefix(u.URL, "http://") {
			n++
		}
	}
	return n
}

func TestProxy_aConfigThatFailsHoldsNoUpstream(t *testing.T) {
	u, other := newUpstream(t), newUpstream(t)
	d := open(t, u, "", directive())
	broken := fmt.Sprintf(`{"admin": {"listen": %q}, "apps": {
		"credential_pool": {"pools": {%q: {"members": [{"name": "a", "secret": "{env.TEST_CREDENTIAL_A}"}]}}},
		"http": {"servers": {"x": {"listen": ["127.0.0.1:0"], "routes": [{"handle": [{
			"handler": "credential_pool", "pool": %q, "allow_any_client": true,
			"proxy": {"upstreams": [{"dial": %q}], "handle_response": [{"routes": [{"handle": [{"handler": "none"}]}]}]}
		}]}]}}}
	}}`, d.admin, d.pool, d.pool, strings.TrimPrefix(other.URL, "http://"))
	for range 3 {
		if err := caddy.Load([]byte(broken), true); err == nil {
			t.Fatal("it loads")
		}
	}
	if n := upstreamUses(t, d, other); n != 0 {
		t.Errorf("the upstream of the config that failed is still held")
	}
	if n := upstreamUses(t, d, u); n != 1 {
		t.Errorf("the upstream of the running config is listed %d times", n)
	}
	d.want(200)
}

// poolOfTwo is a pool without a Caddy around it.
func poolOfTwo(tb testing.TB, name string) *servedPool {
	tb.Helper()
	sp, err := (&PoolConfig{Members: []Member{{Name: "a"}, {Name: "b"}}}).served()
	if err != nil {
		tb.Fatal(err)
	}
	sp.Pool = pool.New(pool.Config{Members: sp.names}, pool.NewState(name, nil))
	for i, name := range sp.names {
		if err := sp.arm(i, vault.Credential{ID: "id-of-" + name, Kind: vault.KindStatic, Secret: vault.NewSecret("credential-of-" + name)}); err != nil {
			tb.Fatal(err)
		}
	}
	return sp
}

func TestCredentials_oneThatIsJustBeingReplacedServes(t *testing.T) {
	sp := poolOfTwo(t, "replaced")
	x := &exchange{pool: sp, handler: &Handler{OnExhausted: onExhaustedServe}}
	// The first of the two steps of a replacement.
	sp.armed[0].Store(&armed{identity: "another"})
	lease, a, err := x.first(t.Context(), time.Now())
	if err != nil || a == nil || lease.Member() != "a" {
		t.Fatalf("got %v, %v", a, err)
	}
	sp.SetCredential("a", "another")
	lease.Report(time.Now(), pool.Verdict{Meaning: pool.RateLimited, Reason: "429"})
	if st := sp.Status(time.Now()).Members[0]; st.State != pool.StateReady {
		t.Errorf("the new credential is %s for what the old lease reports", st.State)
	}
}

func TestProxy_aBorrowedRequestGetsNoCredential(t *testing.T) {
	u, other := newUpstream(t), newUpstream(t)
	u.on("credential-a", status(503))
	d := open(t, u, "", directive("@down status 503\nhandle_response @down {\nreverse_proxy "+strings.TrimPrefix(other.URL, "http://")+" {\ntransport credential_pool\n}\n}"))
	if res, _ := d.do(http.MethodGet, "/", ""); res.StatusCode != 502 {
		t.Errorf("status %d", res.StatusCode)
	}
	if hits := other.seen(); len(hits) != 0 {
		t.Errorf("another upstream got %+v", hits)
	}
}

func TestProxy_goesThroughNoProxyOfTheClients(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "", directive())
	for _, option := range []string{
		`"network_proxy": {"from": "url", "url": "{http.request.header.X-Proxy}"}`,
		`"forward_proxy_url": "http://{http.request.host}:3128"`,
	} {
		err := caddy.Load([]byte(fmt.Sprintf(`{"admin": {"listen": %q}, "apps": {
			"credential_pool": {"pools": {%q: {"members": [{"name": "a", "secret": "{env.TEST_CREDENTIAL_A}"}]}}},
			"http": {"servers": {"x": {"listen": ["127.0.0.1:0"], "routes": [{"handle": [{
				"handler": "credential_pool", "pool": %q, "allow_any_client": true,
				"proxy": {"upstreams": [{"dial": "127.0.0.1:1"}], "transport": {"protocol": "http", %s}}
			}]}]}}}
		}}`, d.admin, d.pool, d.pool, option)), true)
		if err == nil || !strings.Contains(err.Error(), "holds a placeholder of the request") {
			t.Errorf("%s: %v", option, err)
		}
	}
}

func TestProxy_theClientsTrailersHoldNoCredential(t *testing.T) {
	for form, text := range map[string]string{"with upstream": directive(), "without": withoutUpstream} {
		t.Run(form, func(t *testing.T) {
			u := newUpstream(t)
			got := make(chan http.Header, 1)
			u.on("credential-a", func(w http.ResponseWriter, r *http.Request) {
				got <- r.Trailer.Clone()
				w.WriteHeader(http.StatusOK)
			})
			d := open(t, u, "", text)
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, d.url, io.NopCloser(strings.NewReader("hello")))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+phantom)
			req.Trailer = http.Header{"Authorization": {"Bearer own"}, "X-Api-Key": {"own"}, "X-Token": {phantom}, "X-Sum": {"42"}}
			res, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if trailer := <-got; len(trailer) == 0 || trailer.Get("X-Sum") != "42" || len(trailer.Values("Authorization"))+len(trailer.Values("X-Api-Key"))+len(trailer.Values("X-Token")) != 0 {
				t.Errorf("the upstream got the trailers %v", trailer)
			}
		})
	}
}

func TestProxy_whatFollowsCannotChangeThePoolsCredential(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "", "route {\ncredential_pool POOL {\nclient agent "+phantom+"\n}\nrequest_header Authorization Bearer \"Bearer x\"\nreverse_proxy UPSTREAM\n}")
	for range 3 {
		d.do(http.MethodGet, "/", "")
	}
	for _, h := range u.seen() {
		if got := h.header.Get("Authorization"); got != "Bearer x credential-a" {
			t.Errorf("the upstream got %q", got)
		}
	}
}

func TestWithoutUpstream_aBodyThatIsCutIsJudged(t *testing.T) {
	u := newUpstream(t)
	u.on("credential-a", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"code":"insufficient_quota"}`)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	d := open(t, u, "", withoutUpstream)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+phantom)
	if res, err := http.DefaultTransport.RoundTrip(req); err == nil {
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
	}
	d.want(200)
	if got := u.credentials(); got != "credential-a credential-b" {
		t.Errorf("the upstream saw %s", got)
	}
}

// closeHook calls f when the body is closed, as an answer that is thrown away is.
type closeHook struct {
	io.Reader
	f func()
}

func (c closeHook) Close() error { c.f(); return nil }

func TestRetries_aBodyThatOutgrowsTheRecording(t *testing.T) {
	for name, tt := range map[string]struct {
		before bool // the answer comes
		want   string
	}{
		"before the answer: it is given back": {true, "[longer than that]"},
		"after it: the next attempt reads on": {false, "[ longer than that]"},
	} {
		t.Run(name, func(t *testing.T) {
			limit := int64(4)
			x := &exchange{pool: poolOfTwo(t, "outgrown"), handler: &Handler{OnExhausted: onExhaustedServe, ReplayLimit: &limit}}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1/", io.NopCloser(strings.NewReader("longer than that")))
			if err != nil {
				t.Fatal(err)
			}
			req.ContentLength = -1
			var bodies []string
			res, err := x.roundTrip(req, roundTripper(func(out *http.Request) (*http.Response, error) {
				var read []byte
				if tt.before || len(bodies) > 0 {
					read, _ = io.ReadAll(out.Body)
				}
				bodies = append(bodies, string(read))
				// net/http may read on while the answer is being thrown away.
				readOn := func() { _, _ = io.ReadAll(out.Body) }
				return &http.Response{StatusCode: 429, Header: http.Header{}, ContentLength: -1, Body: closeHook{strings.NewReader("refused"), readOn}}, nil
			}))
			if err != nil {
				t.Fatal(err)
			}
			answer, _ := io.ReadAll(res.Body)
			if got := fmt.Sprint(bodies); got != tt.want || res.StatusCode != 429 || string(answer) != "refused" {
				t.Errorf("got %d %q after the attempts %s, want %s", res.StatusCode, answer, got, tt.want)
			}
		})
	}
}

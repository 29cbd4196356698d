package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

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

func TestCredentials_areReplacedUnderLoadWithoutAnError(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "member a\nmember b {env.TEST_CREDENTIAL_B}", directive())
	app, err := runningApp()
	if err != nil {
		t.Fatal(err)
	}
	put := func(n int) {
		c := vault.Credential{Name: d.pool + "/a", Kind: vault.KindStatic, Secret: vault.NewSecret(fmt.Sprint("credential-a-", n))}
		if _, err := app.putCredential(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	put(0)
	if _, err := app.pools[d.pool].Rotate(time.Now(), "a", 0); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if res, body := d.do(http.MethodPost, "/", "x"); res.StatusCode != 200 {
					t.Errorf("status %d: %s", res.StatusCode, body)
					return
				}
			}
		})
	}
	for n := range 200 {
		put(n)
	}
	close(done)
	load.Wait()
}

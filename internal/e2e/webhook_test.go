package e2e

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// delivery is a webhook's request.
type delivery struct {
	header http.Header
	body   []byte
	notice notice
	at     time.Time
}

// receiver takes webhooks and keeps them.
type receiver struct {
	*httptest.Server
	mu        sync.Mutex
	answer    http.HandlerFunc
	delivered []delivery
}

// receiver makes a receiver, and lets the config find it: {env.HOOK} is its
// URL, {env.HOOK_SECRET} the secret that it returns.
func (c *caddy) receiver(t *testing.T) (r *receiver, secret string) {
	r = new(receiver)
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		d := delivery{header: req.Header, body: body, at: time.Now()}
		if err := json.Unmarshal(body, &d.notice); err != nil {
			t.Errorf("a webhook's body: %v", err)
		}
		c.add("a webhook", append([]byte(strings.Join(req.Header["Webhook-Signature"], " ")), body...))
		r.mu.Lock()
		r.delivered = append(r.delivered, d)
		answer := r.answer
		r.mu.Unlock()
		if answer != nil {
			answer(w, req)
		}
	}))
	t.Cleanup(func() {
		r.CloseClientConnections()
		r.Close()
	})
	path := newCanary() // the URL is a secret too
	c.watch(path)
	c.setenv("HOOK", r.URL+"/"+path.core)
	secret = c.webhookSecret("HOOK_SECRET")
	return r, secret
}

// webhookSecret makes a secret for webhooks in a variable of that name.
func (c *caddy) webhookSecret(name string) string {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	encoded := base64.StdEncoding.EncodeToString(key)
	c.watch(canary{string(key)})
	c.watch(canary{encoded[:32]})
	c.setenv(name, "whsec_"+encoded)
	return "whsec_" + encoded
}

func (r *receiver) deliveries() []delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]delivery(nil), r.delivered...)
}

func (r *receiver) answers(h http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = h
}

func TestFault_webhookIsVerifiedByTheReferenceLibrary(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home")
	r, secret := c.receiver(t)
	next := c.webhookSecret("HOOK_NEXT_SECRET")
	c.start(config{app: "notify webhook {env.HOOK} {\nsecret {env.HOOK_SECRET}\nsecret {env.HOOK_NEXT_SECRET}\n}"})
	c.upstream.answer("work", status429)
	served(t, c.get("/"), "home")
	eventually(t, "the notice is delivered", func() bool { return len(r.deliveries()) == 1 })

	d := r.deliveries()[0]
	equal(t, "notice", []string{d.notice.Kind, d.notice.Pool, d.notice.From, d.notice.To, d.notice.Reason, d.notice.Meaning},
		"[failover api work home 429 rate_limited]")
	equal(t, "message", d.notice.Message, `Pool "api" failed over from "work" to "home" after rate limit (429).`)
	equal(t, "id", d.header.Get("webhook-id"), d.notice.ID)
	for i, s := range []string{secret, next} {
		verifier := must(standardwebhooks.NewWebhook(s))
		if err := verifier.Verify(d.body, d.header); err != nil {
			t.Errorf("secret %d: %v", i, err)
		}
		for at := range d.body {
			flipped := append([]byte(nil), d.body...)
			flipped[at] ^= 1
			if verifier.Verify(flipped, d.header) == nil {
				t.Fatalf("byte %d can be flipped", at)
			}
		}
		old := d.header.Clone()
		old.Set("webhook-timestamp", "1400000000")
		if verifier.Verify(d.body, old) == nil {
			t.Error("an old timestamp is taken")
		}
		if must(standardwebhooks.NewWebhook(c.webhookSecret("UNUSED"))).Verify(d.body, d.header) == nil {
			t.Error("another secret verifies")
		}
	}
}

func TestWebhook_isSentAgainUntilItIsTaken(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home")
	r, secret := c.receiver(t)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect is followed") }))
	defer elsewhere.Close()
	c.start(config{app: "notify webhook {env.HOOK} {\nsecret {env.HOOK_SECRET}\n}"})
	answers := []http.HandlerFunc{status(500), status(307, "Location", elsewhere.URL), status(204)}
	r.answers(func(w http.ResponseWriter, req *http.Request) { answers[len(r.deliveries())-1](w, req) })
	c.upstream.answer("work", status429)
	served(t, c.get("/"), "home")
	eventually(t, "three attempts", func() bool { return len(r.deliveries()) == 3 })

	verifier := must(standardwebhooks.NewWebhook(secret))
	all := r.deliveries()
	for i, d := range all {
		equal(t, "id", d.notice.ID, all[0].notice.ID)
		if err := verifier.Verify(d.body, d.header); err != nil {
			t.Errorf("attempt %d: %v", i, err)
		}
	}
	if wait := all[1].at.Sub(all[0].at); wait < 500*time.Millisecond || wait > 3*time.Second {
		t.Errorf("the first wait is %s, want about 1s", wait)
	}
	equal(t, "timestamps are new", all[0].header.Get("webhook-timestamp") != all[2].header.Get("webhook-timestamp"), true)
	eventually(t, "it is counted", func() bool { return c.metric(`notices_total{kind="failover",outcome="delivered"}`) == "1" })
	equal(t, "retried", c.metric(`notices_total{kind="failover",outcome="retried"}`), 2)
}

func TestWebhook_severalReceivers(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home")
	first, _ := c.receiver(t)
	c.setenv("FIRST", first.URL)
	second, _ := c.receiver(t)
	c.start(config{app: "notify webhook {env.FIRST} {\nsecret {env.HOOK_SECRET}\n}\nnotify webhook {env.HOOK} {\nsecret {env.HOOK_SECRET}\n}"})
	c.want(200, http.MethodPost, "/credential_pool/pools/api/rotate", "", nil)
	eventually(t, "both are told", func() bool { return len(first.deliveries()) == 1 && len(second.deliveries()) == 1 })
}

func TestFault_receiverThatHangs(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home")
	r, _ := c.receiver(t)
	hung := newGate(t)
	r.answers(hung.before(status(200)))
	c.start(config{app: "notify webhook {env.HOOK} {\nsecret {env.HOOK_SECRET}\n}"})
	c.upstream.answer("work", status429)
	began := time.Now()
	served(t, c.get("/"), "home")
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the request took %s", took)
	}
	hung.wait(t, 1)
	// The queue is bounded, and what does not fit is counted.
	for range 1100 {
		c.want(200, http.MethodPost, "/credential_pool/pools/api/members/work/park", `{"for":"1h"}`, nil)
		c.want(200, http.MethodPost, "/credential_pool/pools/api/members/work/recover", "", nil)
	}
	eventually(t, "dropped notices are counted", func() bool {
		return c.metric(`notices_total{kind="parked",outcome="dropped"}`) != ""
	})
	served(t, c.get("/"), "home")
	began = time.Now()
	c.stop()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("Caddy took %s to stop", took)
	}
}

func TestWebhook_whatIsQueuedIsSentAtShutdown(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home")
	r, _ := c.receiver(t)
	c.start(config{app: "notify webhook {env.HOOK} {\nsecret {env.HOOK_SECRET}\n}"})
	for range 20 {
		c.want(200, http.MethodPost, "/credential_pool/pools/api/members/work/park", `{"for":"1h"}`, nil)
		c.want(200, http.MethodPost, "/credential_pool/pools/api/members/work/recover", "", nil)
	}
	c.stop()
	if n := len(r.deliveries()); n < 20 {
		t.Errorf("%d notices were delivered", n)
	}
}

func TestWebhook_whatIsQueuedOutlivesAReload(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home")
	r, _ := c.receiver(t)
	r.answers(status(503, "Retry-After", "600"))
	cfg := config{app: "notify webhook {env.HOOK} {\nsecret {env.HOOK_SECRET}\n}"}
	c.start(cfg)
	c.want(200, http.MethodPost, "/credential_pool/pools/api/members/work/park", `{"for":"1h"}`, nil)
	c.want(200, http.MethodPost, "/credential_pool/pools/api/members/work/recover", "", nil)
	eventually(t, "the first attempt", func() bool { return len(r.deliveries()) == 1 })
	r.answers(status(200))
	cfg.app += "\nnotice_window 31s"
	began := time.Now()
	if err := c.load(cfg); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("the reload took %s", took)
	}
	eventually(t, "both are delivered", func() bool { return c.total("notices_total", `outcome="delivered"`) == 2 })
	equal(t, "dropped", c.total("notices_total", `outcome="dropped"`), 0)
	kinds := []string{}
	for _, d := range r.deliveries() {
		kinds = append(kinds, d.notice.Kind)
	}
	equal(t, "attempts", kinds, "[parked parked member_recovered]")
}

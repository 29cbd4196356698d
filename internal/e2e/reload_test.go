package e2e

import (
	"fmt"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// benchTime is longer than any test.
const benchTime = 24 * time.Hour

// bench has the first account refused once, for benchTime.
func (c *caddy) bench() {
	c.t.Helper()
	c.upstream.answer("work", status(429, "Retry-After", fmt.Sprint(benchTime.Seconds())))
	served(c.t, c.get("/"), "home")
	c.upstream.answer("work", nil)
	c.upstream.forget()
	c.until = c.member("work").Until
}

// benched fails the test unless all is still as bench left it.
func (c *caddy) benched(when string) {
	c.t.Helper()
	if m := c.member("work"); m.State != "cooling" || m.Until.Sub(c.until).Abs() > time.Second {
		c.t.Errorf("%s: work is %s until %s, want cooling until %s", when, m.State, m.Until, c.until)
	}
	equal(c.t, when+": active", c.active(), "home")
	served(c.t, c.get("/"), "home")
}

func TestRestart_benchesSurvive(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, config{}, "work", "home")
	c.bench()
	c.stop()
	c.start(config{})
	c.benched("after a restart")

	c.want(200, http.MethodPost, "/credential_pool/pools/api/members/home/park", `{"for":"1h"}`, nil)
	eventually(t, "the park is saved", func() bool { return strings.Contains(c.savedState(), "parked_until") })
	c.kill()
	c.start(config{})
	c.is("home", "parked")
	served(t, c.get("/"), "home") // nobody else is left

	c.stop()
	c.setenv("KEY_work", c.account("work")) // another secret, another account
	c.start(config{})
	c.is("work", "ready")
}

func (c *caddy) savedState() string {
	b, err := os.ReadFile(filepath.Join(c.storage, "credential_pool/state/api.json"))
	if err != nil && !os.IsNotExist(err) {
		c.t.Fatal(err)
	}
	return string(b)
}

func TestRestart_damagedStateIsNotFatal(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"torn":    `{"version":1,"active":"ho`,
		"foreign": "\x00\x01\x02",
		"newer":   `{"version":1000,"active":"home"}`,
		"far off": `{"version":1,"active":"home","records":[{"member":"work","identity":"x","cooling_until":"9999-01-01T00:00:00Z"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCaddy(t, "work", "home")
			if err := os.MkdirAll(filepath.Join(c.storage, "credential_pool/state"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(c.storage, "credential_pool/state/api.json"), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			c.start(config{})
			if a := c.get("/"); a.status != http.StatusOK {
				t.Errorf("got %d", a.status)
			}
			if strings.HasPrefix(name, "torn") && !strings.Contains(string(c.log.all()), "api.json") {
				t.Error("the log does not name the file")
			}
			if name == "newer" {
				c.want(200, http.MethodPost, "/credential_pool/pools/api/rotate", "", nil)
				c.stop()
				equal(t, "a newer version's file", c.savedState(), content)
			}
		})
	}
}

func TestReload_keepsBenchesAndCounters(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, config{}, "work", "home")
	c.bench()
	for n := range 5 {
		if err := c.load(config{door: fmt.Sprintf("retries %d", n+1)}); err != nil {
			t.Fatal(err)
		}
		c.benched("after a reload")
	}
	equal(t, "notices", c.notices(), "[failover work>home 429]")
	equal(t, "failovers", c.metric(`failovers_total{meaning="rate_limited",pool="api"}`), 1)

	// The order is the config's, and members come and go.
	c.setenv("KEY_spare", c.account("spare"))
	if err := c.load(config{members: "member spare {env.KEY_home}\nmember home {env.KEY_home}\nmember work {env.KEY_work}"}); err != nil {
		t.Fatal(err)
	}
	c.benched("in another order")
	if err := c.load(config{members: "member home {env.KEY_home}"}); err != nil {
		t.Fatal(err)
	}
	served(t, c.get("/"), "home")
	if err := c.load(config{}); err != nil {
		t.Fatal(err)
	}
	c.benched("after a config without it")
}

// tally counts what became of requests.
type tally struct{ asked, cut, wrong atomic.Int32 }

// work makes one request after the other.
func (n *tally) work(c *caddy, stop <-chan struct{}, ask func() *http.Request) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Millisecond):
		}
		a, err := c.try(ask())
		n.asked.Add(1)
		switch {
		case err != nil:
			n.cut.Add(1)
		case a.status != http.StatusOK:
			n.wrong.Add(1)
		}
	}
}

func TestFault_reloadsUnderLoad(t *testing.T) {
	t.Parallel()
	const interval = 100 * time.Millisecond
	duration := endurance(t, 15*time.Second)
	plain := freePort(t)
	c := newCaddy(t, "work", "home")
	cfg := config{sites: "http://127.0.0.1:" + plain + " {\nreverse_proxy " + c.upstream.URL + "\n}"}
	c.start(cfg)
	c.bench()

	stop := make(chan struct{})
	var load sync.WaitGroup
	var through, alone tally
	for range 2 {
		load.Go(func() {
			through.work(c, stop, func() *http.Request { return c.request(http.MethodPost, "/", "a question") })
		})
		load.Go(func() {
			alone.work(c, stop, func() *http.Request {
				return must(http.NewRequest(http.MethodPost, "http://127.0.0.1:"+plain, strings.NewReader("a question")))
			})
		})
	}
	reloads := 0
	for end := time.Now().Add(duration); time.Now().Before(end); time.Sleep(interval) {
		cfg.global = fmt.Sprintf("\tgrace_period %ds", 10+reloads) // else nothing is reloaded
		if err := c.load(cfg); err != nil {
			t.Error(err)
		}
		reloads++
	}
	close(stop)
	load.Wait()
	equal(t, "wrong answers", through.wrong.Load(), 0)
	// Caddy cuts a few connections at each reload, whatever the handler. How
	// many of each kind is chance, so they may differ by four standard
	// deviations.
	cut, cutAlone := float64(through.cut.Load()), float64(alone.cut.Load())
	if cut > cutAlone+4*math.Sqrt(cut+cutAlone)+4 {
		t.Errorf("%v of %d connections were cut, but only %v of %d with reverse_proxy alone", cut, through.asked.Load(), cutAlone, alone.asked.Load())
	}
	if reloads < 20 || through.asked.Load() < 100 {
		t.Errorf("only %d reloads and %d requests", reloads, through.asked.Load())
	}
	for _, h := range c.upstream.seen() {
		if h.account == "work" {
			t.Fatal("the benched account was used")
		}
	}
	c.benched("after the reloads")
	equal(t, "notices", c.notices(), "[failover work>home 429]")
}

func TestFault_configThatFailsToLoad(t *testing.T) {
	t.Parallel()
	taken := must(net.Listen("tcp", "127.0.0.1:0"))
	defer taken.Close()
	c := startCaddy(t, config{}, "work", "home", "spare")
	c.bench()
	good := c.caddyfile(config{})
	newPool := strings.NewReplacer("pool api", "pool other", "credential_pool api", "credential_pool other")
	for _, tt := range []struct{ name, caddyfile, says string }{
		{"a brace is missing", good + "\nhttp://127.0.0.1:1 {", ""},
		{"an unknown word", c.caddyfile(config{pool: "memberr x"}), "memberr"},
		{"an unset variable", c.caddyfile(config{members: "member work {env.NOT_SET_AT_ALL}"}), "env.NOT_SET_AT_ALL"},
		{"a secret in the config", c.caddyfile(config{members: "member work sk-literal"}), "work"},
		{"an unknown provider", c.caddyfile(config{pool: "provider nobody"}), "nobody"},
		{"an unknown pool", strings.Replace(good, "credential_pool api", "credential_pool nobody", 1), "nobody"},
		{"a webhook without a secret", c.caddyfile(config{app: "notify webhook http://127.0.0.1:1/"}), "secret"},
		{"a field that no account has", c.caddyfile(config{pool: `inject header X-Key {credential.other}`}), "field"},
		{"an address that is taken", c.caddyfile(config{sites: "http://" + taken.Addr().String() + " {\nrespond 200\n}"}), "in use"},
		{"another pool and an address that is taken", newPool.Replace(c.caddyfile(config{sites: "http://" + taken.Addr().String() + " {\nrespond 200\n}"})), "in use"},
	} {
		err := c.loadText(tt.caddyfile)
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: got %v, want an error that says %q", tt.name, err, tt.says)
		}
		c.benched(tt.name)
		// The routes answer with the state that requests see, and steer it.
		c.want(200, http.MethodPost, "/credential_pool/pools/api/rotate", `{"to":"spare","park_for":"1h"}`, nil)
		served(t, c.get("/"), "spare")
		c.want(200, http.MethodPost, "/credential_pool/pools/api/rotate", `{"to":"home","park_for":"1h"}`, nil)
		c.want(200, http.MethodPost, "/credential_pool/pools/api/members/spare/recover", "", nil)
		c.benched(tt.name + ", steered")
	}
	// A change while nothing could be loaded is not lost in the next config.
	if err := c.load(config{door: "retries 2"}); err != nil {
		t.Fatal(err)
	}
	c.benched("after a good config")
}

func TestReload_byTheCommand(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, config{}, "work", "home")
	c.bench()
	if err := os.WriteFile(c.path("Caddyfile"), []byte(c.caddyfile(config{door: "on_exhausted reject"})), 0o600); err != nil {
		t.Fatal(err)
	}
	c.reloaded = true
	if out, err := c.command("", "reload", "--config", c.path("Caddyfile"), "--address", c.address); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c.benched("after the command")
}

package e2e

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// enduring is whether tests take the time that they need to find what is rare.
func enduring() bool { return os.Getenv("CREDENTIAL_POOL_ENDURANCE") != "" }

// endurance is how long a test goes on: as long as CREDENTIAL_POOL_ENDURANCE
// says ("10m"), and otherwise for a short time that suits every change.
func endurance(t *testing.T, short time.Duration) time.Duration {
	t.Helper()
	if !enduring() {
		return short
	}
	d, err := time.ParseDuration(os.Getenv("CREDENTIAL_POOL_ENDURANCE"))
	if err != nil || d <= 0 {
		t.Fatalf("CREDENTIAL_POOL_ENDURANCE: %q is no duration", os.Getenv("CREDENTIAL_POOL_ENDURANCE"))
	}
	return d
}

// total returns the sum of a metric's values whose labels hold the text.
func (c *caddy) total(metric, label string) (sum float64) {
	c.t.Helper()
	for line := range strings.Lines(c.admin(http.MethodGet, "/metrics", "").body) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.HasPrefix(name, "caddy_credential_pool_"+metric+"{") && strings.Contains(name, label) && !strings.Contains(name, `pool="loaded"`) {
			sum += must(strconv.ParseFloat(value, 64))
		}
	}
	return sum
}

// seeded returns what all chance follows from, which CREDENTIAL_POOL_SEED repeats.
func seeded(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if given := os.Getenv("CREDENTIAL_POOL_SEED"); given != "" {
		seed = must(strconv.ParseUint(given, 10, 64))
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("CREDENTIAL_POOL_SEED=%d", seed)
		}
	})
	return seed
}

// Random faults of the upstream, clients that leave, and an operator who never
// rests. At the end every request is accounted for.
func TestEndurance_everythingAtOnce(t *testing.T) {
	needProc(t)
	t.Parallel()
	duration := endurance(t, 10*time.Second)
	seed := seeded(t)
	c := newCaddy(t, "fixed", "work", "home", "spare")
	hook, _ := c.receiver(t)
	cfg := config{
		members: "member fixed {env.KEY_fixed}\nmember work\nmember home\nmember spare",
		app:     "notify webhook {env.HOOK} {\nsecret {env.HOOK_SECRET}\n}",
		quiet:   enduring(), // the log of an hour at debug level takes long to search
	}
	c.start(cfg)
	for _, name := range c.accounts[1:] {
		c.put(name)
	}
	s := newStorm(c, seed)
	taken := s.webhooks(hook)
	began := time.Now()
	s.blow(duration/5, 50, cfg)
	before := c.vitals()
	s.blow(duration-duration/5, 50, cfg)
	after := c.vitals()
	t.Logf("at first %s; in the end %s", before, after)
	if after.goroutines > before.goroutines+10 || after.files > before.files+10 || after.resident > before.resident*5/4+32<<20 {
		t.Errorf("at first %s, but in the end %s", before, after)
	}
	s.account(t)
	s.bounded(t, time.Since(began))
	s.delivered(t, taken)
}

// account fails the test unless every request is explained and counted.
func (s *storm) account(t *testing.T) {
	t.Helper()
	l, c := s.ledger, s.c
	retries, meanings, kinds := 0, make(map[string]int), make(map[string]int)
	wrong := 0
	for id := range s.asked {
		o, attempts := l.outcomes[id], l.attempts[id]
		if why := l.explain(id, c.accounts); why != "" {
			if wrong++; wrong <= 20 {
				t.Errorf("request %d: %s: %+v, %+v", id, why, o, attempts)
			}
		}
		kinds[fmt.Sprint(o.status)]++
		for _, a := range attempts {
			meanings[a.fault.meaning()]++
		}
		if len(attempts) > 0 {
			retries += len(attempts) - 1 - repeats(o, attempts)
		}
	}
	t.Logf("%d requests, %d attempts, answers by status %v, by meaning %v, %d retries, %d acts of the operator", s.asked, l.numbers, kinds, meanings, retries, s.acts)
	equal(t, "requests that the upstream knows and the client does not", len(l.outcomes), s.asked)
	equal(t, "retries", c.total("retries_total", ""), retries)
	for _, meaning := range []string{"ok", "overloaded", "request_error", "rate_limited", "auth_failed", "quota_exhausted"} {
		equal(t, meaning, c.total("requests_total", `meaning="`+meaning+`"`), meanings[meaning])
	}
	if most := s.asked / 20; kinds["0"] > most {
		t.Errorf("%d requests were cut by reloads, of %d", kinds["0"], s.asked)
	}
}

// bounded fails the test if there are more notices than there can be: in each
// window, and after each act of the operator, every failover (12 pairs, 3
// reasons), every exhaustion (4 members, 3 reasons) and every missing credential
// once, and as many recoveries as exhaustions.
func (s *storm) bounded(t *testing.T, took time.Duration) {
	t.Helper()
	const window, each = 30 * time.Second, 12*3 + 2*4*3 + 4
	told := s.c.total("notices_total", `outcome="told"`)
	most := each*(s.acts+2*int(took/window)+2) + s.acts
	t.Logf("%v notices, %v of them failovers", told, s.c.total("failovers_total", ""))
	if told > float64(most) {
		t.Errorf("%v notices, want at most %d", told, most)
	}
	equal(t, "notices kept", len(s.c.notices()), min(int(told), 1000))
}

// told is what a receiver of webhooks knows.
type told struct {
	mu       sync.Mutex
	attempts int
	refused  int
	taken    map[string]int // by the notice's id
}

func (r *told) look() (taken map[string]int, refused int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.taken), r.refused
}

// webhooks has the receiver refuse one attempt in twenty.
func (s *storm) webhooks(hook *receiver) *told {
	r := &told{taken: make(map[string]int)}
	hook.answers(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.attempts++
		if s.dice("webhook", r.attempts)%20 == 0 {
			r.refused++
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		r.taken[req.Header.Get("webhook-id")]++
	})
	return r
}

// delivered fails the test unless the receiver has got every notice once, though
// it refuses some attempts, and configs are replaced meanwhile.
func (s *storm) delivered(t *testing.T, r *told) {
	t.Helper()
	c := s.c
	all := int(c.total("notices_total", `outcome="told"`))
	outcome := func(o string) int { return int(c.total("notices_total", `outcome="`+o+`"`)) }
	eventually(t, "every notice is delivered", func() bool { return outcome("delivered") >= all })
	taken, refused := r.look()
	for id, times := range taken {
		if times > 1 {
			t.Errorf("notice %s was delivered %d times", id, times)
		}
	}
	t.Logf("%d notices delivered, %d attempts refused", len(taken), refused)
	equal(t, "notices that came", len(taken), all)
	equal(t, "notices delivered", outcome("delivered"), all)
	equal(t, "notices dropped or given up", outcome("dropped")+outcome("failed"), 0)
}

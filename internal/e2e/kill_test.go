package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// scribe puts one secret after the other for one member, and knows which of
// them may be found in the vault: each secret is an account of its own. They are
// used again after a while: each one is searched for in all that is written.
type scribe struct {
	c       *caddy
	member  string
	from    string // begins the accounts' names
	stored  string // the last account that was taken
	pending string // an account whose put has not been answered
	puts    int
}

// put puts the next secret. It reports whether that was answered.
func (s *scribe) put() bool {
	s.puts++
	s.pending = fmt.Sprintf("%s%s-%d", s.from, s.member, s.puts%20)
	a, err := s.c.try(s.c.putRequest(s.member, s.pending))
	switch {
	case err != nil:
		return false
	case a.status != http.StatusOK:
		s.c.t.Errorf("put %s: %d %s", s.pending, a.status, a.body)
		return false
	}
	s.stored, s.pending = s.pending, ""
	return true
}

// check fails the test unless the member serves with the secret that was stored
// last, or with the one whose put was cut off.
func (s *scribe) check() {
	s.c.t.Helper()
	if m := s.c.member(s.member); m.State == "missing" {
		s.c.t.Errorf("%s is missing: %s", s.member, m.Reason)
		return
	}
	s.c.want(http.StatusOK, http.MethodPost, "/credential_pool/pools/api/rotate", fmt.Sprintf(`{"to":%q}`, s.member), nil)
	a := s.c.get("/")
	by, ok := strings.CutPrefix(a.body, "served by ")
	if !ok || (by != s.stored && by != s.pending) {
		s.c.t.Errorf("got %d %q, want %s or %q", a.status, a.body, s.stored, s.pending)
	}
	s.stored, s.pending = by, ""
}

// killed has the scribes put, and the operator rotate, until Caddy is killed
// after that time. It returns how many puts were begun.
func (c *caddy) killed(scribes []*scribe, after time.Duration) int {
	var all sync.WaitGroup
	var puts atomic.Int32
	for _, s := range scribes {
		all.Go(func() {
			for s.put() {
				puts.Add(1)
				_, _ = c.try(must(http.NewRequest(http.MethodPost, c.adminURL+"/credential_pool/pools/api/rotate", nil)))
			}
			puts.Add(1)
		})
	}
	time.Sleep(after)
	c.kill()
	all.Wait()
	return int(puts.Load())
}

func TestFault_killedWhileItWrites(t *testing.T) {
	t.Parallel()
	puts, kills, longest := 100, 8, 900*time.Millisecond // the state is written each half second
	if enduring() {
		puts, kills = 1000, 60
	}
	seed := rand.Uint64()
	chance := rand.New(rand.NewPCG(seed, 0))
	c := newCaddy(t, "work", "home", "spare")
	cfg := config{members: c.vaulted(), quiet: true}
	var scribes []*scribe
	c.start(cfg)
	for _, name := range c.accounts {
		s := &scribe{c: c, member: name}
		scribes = append(scribes, s)
		equal(t, "the first put", s.put(), true)
	}
	done, killed, states := 0, 0, 0
	for ; (killed < kills || done < puts) && !t.Failed(); killed++ {
		done += c.killed(scribes, time.Duration(chance.Int64N(int64(longest))))
		if saved := c.savedState(); saved != "" {
			states++
			if !json.Valid([]byte(saved)) {
				t.Errorf("the state is torn: %q", saved)
			}
		}
		c.start(cfg)
		for _, s := range scribes {
			s.check()
		}
		if strings.Contains(c.log.since(), "damaged") {
			t.Error("the saved state is damaged")
		}
	}
	var list struct {
		Credentials []struct{ Name, Error string }
	}
	c.want(http.StatusOK, http.MethodGet, "/credential_pool/credentials", "", &list)
	equal(t, "records", list.Credentials, "[{api/home } {api/spare } {api/work }]")
	t.Logf("%d puts, %d kills, %d times with a saved state (seed %d)", done, killed, states, seed)
}

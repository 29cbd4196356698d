package e2e

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Two processes on one storage whose tokens end together, again and again, in
// one and the same login: one refresh token used twice would end it.
func TestFault_tokensEndTogetherOnTwoProcesses(t *testing.T) {
	t.Parallel()
	rounds := 10
	if enduring() {
		rounds = 100
	}
	accounts := []string{"work", "home", "spare", "fourth", "fifth"}
	one, other := pair(t, accounts...)
	s := newAuthServer(t, one, other)
	s.send(func(w http.ResponseWriter, r *http.Request, answer map[string]any) {
		time.Sleep(150 * time.Millisecond) // as a server that is far away
		send200(w, r, answer)
	})
	s.put(one, time.Now().Add(time.Hour), accounts...)
	eventually(t, "both have all", func() bool {
		return one.member("fifth").State == "ready" && other.member("fifth").State == "ready"
	})
	var ending atomic.Bool
	var all sync.WaitGroup
	defer func() {
		ending.Store(true)
		all.Wait()
	}()
	for i := range 10 {
		all.Go(func() {
			for !ending.Load() {
				if a, err := []*caddy{one, other}[i%2].try(one.request(http.MethodGet, "/", "")); err != nil || a.status != http.StatusOK {
					t.Errorf("a request: %d, %v", a.status, err)
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	for round := 1; round <= rounds && !t.Failed(); round++ {
		for _, account := range accounts {
			// Not due before both have seen it; and then the active one's end, at
			// which both have requests, mostly comes before they look.
			one.rewrite(account, 0, 1200*time.Millisecond)
		}
		for _, account := range accounts {
			s.refreshed(one, account, round)
		}
	}
	s.saw(t, rounds*len(accounts), 0)
	for _, c := range []*caddy{one, other} {
		for _, account := range accounts {
			c.is(account, "ready")
		}
	}
}

// The process that holds the lock of a login stops in the midst of a refresh, for
// longer than a lock is respected, and goes on. Meanwhile the other one serves.
func TestFault_holderOfTheLockStopsInMidRefresh(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		stopped   time.Duration
		meanwhile func(t *testing.T, other *caddy, s *authServer) (stays record) // what must not be overwritten
		again     bool                                                           // the server lets a refresh token be used again
	}{
		"and its tokens are the newest": {stopped: 15 * time.Second},
		"and the operator puts another login": {
			stopped: 15 * time.Second,
			meanwhile: func(_ *testing.T, other *caddy, s *authServer) record {
				s.put(other, time.Now().Add(time.Hour), "work")
				return other.record("work")
			},
		},
		// By then the other process takes the refresh for one that has come to
		// nothing, and this server lets it use the refresh token again.
		"and the other one has refreshed it since": {
			stopped: 30 * time.Second,
			meanwhile: func(t *testing.T, other *caddy, s *authServer) record {
				before := other.record("work").Refresh
				eventually(t, "the other one refreshes it", func() bool { return other.record("work").Refresh != before })
				return other.record("work")
			},
			again: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one, other := pair(t, "work", "home")
			s := newAuthServer(t, one, other)
			s.store.keeps.Store(tt.again)
			s.put(one, time.Now().Add(time.Hour), "work", "home")
			eventually(t, "the other one has both", func() bool { return other.member("home").State == "ready" })
			held := newGate(t)
			s.send(held.held)
			pause(other)
			one.age("work", 4*time.Minute)
			held.wait(t, 1) // the tokens are granted
			pause(one)
			resume(other)
			s.send(send200)
			began := time.Now()
			var stays record
			serving(t, other, 14*time.Second)
			if tt.meanwhile != nil {
				stays = tt.meanwhile(t, other, s)
			}
			serving(t, other, time.Until(began.Add(tt.stopped)))
			held.open()
			resume(one)
			if tt.meanwhile == nil {
				s.refreshed(one, "work", 1)
				stays = one.record("work")
			}
			for _, c := range []*caddy{one, other} {
				serving(t, c, 3*time.Second)
				eventually(t, "it serves with the tokens that are stored", func() bool {
					c.upstream.forget()
					served(t, c.get("/"), "work")
					return c.upstream.seen()[0].header.Get("Authorization") == "Bearer "+stays.Access
				})
			}
			if now := one.record("work"); now.ID != stays.ID || now.Generation != stays.Generation || now.Access != stays.Access || now.Refresh != stays.Refresh || now.Intent {
				t.Errorf("the record of generation %d was overwritten with one of generation %d", stays.Generation, now.Generation)
			}
			if !tt.again {
				s.saw(t, 1, 0)
				equal(t, "notices of failed refreshes", one.told("refresh_failed")+other.told("refresh_failed"), 0)
			}
			grants := len(s.grants())
			one.age("work", time.Minute) // its refresh token works
			eventually(t, "it is refreshed again", func() bool { return len(s.grants()) > grants })
			eventually(t, "that is stored", func() bool { return !one.record("work").Intent && one.record("work").Access != stays.Access })
			equal(t, "granted", s.grants()[grants].granted, true)
		})
	}
}

func pause(c *caddy)  { _ = c.cmd.Process.Signal(syscall.SIGSTOP) }
func resume(c *caddy) { _ = c.cmd.Process.Signal(syscall.SIGCONT) }

// serving fails the test unless the active account serves for that time, without
// a pause that anybody would notice.
func serving(t *testing.T, c *caddy, within time.Duration) {
	t.Helper()
	never(t, within, "a request is not served, or late", func() bool {
		began := time.Now()
		a := c.get("/")
		return a.body != "served by work" || time.Since(began) > 2*time.Second
	})
}

// told counts the notices of a kind.
func (c *caddy) told(kind string) (n int) {
	c.t.Helper()
	for _, told := range c.notices() {
		if strings.HasPrefix(told, kind+" ") {
			n++
		}
	}
	return n
}

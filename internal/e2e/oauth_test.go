package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// looked is a config that lets Caddy look at the vault often.
const looked = "sync_interval 100ms"

// startOAuth starts a Caddy whose accounts log in at a server that is started,
// too. Nobody is logged in yet.
func startOAuth(t *testing.T, accounts ...string) (*caddy, *authServer) {
	t.Helper()
	c := newCaddy(t, accounts...)
	c.start(config{members: c.vaulted(), app: looked, global: "\tmetrics"})
	return c, newAuthServer(t, c)
}

// waiting returns how many requests have no answer yet.
func (c *caddy) waiting() (n int) {
	c.t.Helper()
	for line := range strings.Lines(c.admin(http.MethodGet, "/metrics", "").body) {
		var of int
		if labels, value, ok := strings.Cut(line, "} "); ok && strings.HasPrefix(labels, "caddy_http_requests_in_flight{") {
			_, _ = fmt.Sscan(value, &of)
			n = max(n, of)
		}
	}
	return n
}

// refreshed waits until the vault holds tokens that were refreshed so often.
func (s *authServer) refreshed(c *caddy, account string, times int) {
	c.t.Helper()
	eventually(c.t, fmt.Sprint(account, " is refreshed ", times, " times, and that is stored"), func() bool {
		return s.of(c.record(account).Refresh).generation == times
	})
}

func TestFault_hundredRequestsMeetATokenThatHasEnded(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		left time.Duration // of the token, as far as Caddy knows
		hits int           // at the API
	}{
		"as Caddy knows":        {-time.Minute, 100},
		"as only the API knows": {time.Hour, 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, s := startOAuth(t, "work", "home")
			held := newGate(t)
			s.send(held.held)
			s.put(c, time.Now().Add(time.Hour), "home")
			s.put(c, time.Now().Add(tt.left), "work")
			s.end("work")
			answers := make([]answer, 100)
			var all sync.WaitGroup
			for i := range answers {
				all.Go(func() { answers[i], _ = c.try(c.request(http.MethodPost, "/", "a question")) })
			}
			held.wait(t, 1)
			eventually(t, "all wait for the tokens", func() bool { return c.waiting() >= 100 })
			held.open()
			all.Wait()
			for _, a := range answers {
				served(t, a, "work")
			}
			s.saw(t, 1, 0)
			equal(t, "upstream hits", len(c.upstream.seen()), tt.hits)
			equal(t, "notices", c.notices(), "[refreshed work> ]")
		})
	}
}

func TestFault_answerWithoutARefreshTokenKeepsTheOldOne(t *testing.T) {
	t.Parallel()
	c, s := startOAuth(t, "work")
	s.store.keeps.Store(true)
	s.send(with(map[string]any{"refresh_token": nil}))
	s.put(c, time.Now().Add(-time.Minute), "work")
	for n := 1; n <= 3; n++ {
		eventually(t, "it is refreshed", func() bool { return len(s.grants()) == n && !c.record("work").Intent })
		served(t, c.get("/"), "work")
		equal(t, "the stored refresh token is the first one", s.of(c.record("work").Refresh).generation, 0)
		s.end("work")
		if n < 3 {
			c.age("work", -time.Second)
		}
	}
	s.saw(t, 3, 0)
}

// What is no answer of a token endpoint is nobody's fault: the token that is
// there serves on, and the next attempt finds the login as it was.
func TestFault_tokenEndpointIsOutOfOrder(t *testing.T) {
	t.Parallel()
	var elsewhere atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	t.Cleanup(other.Close)
	page := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(code)
			_, _ = io.WriteString(w, "<!doctype html><title>Back soon</title><p>invalid_grant, access_token, refresh_token")
		}
	}
	for reason, answers := range map[string]http.HandlerFunc{
		"307":            status(http.StatusTemporaryRedirect, "Location", other.URL+"/token"),
		"302":            status(http.StatusFound, "Location", other.URL+"/token"),
		"500":            page(http.StatusInternalServerError),
		"503":            status(http.StatusServiceUnavailable, "Retry-After", "1"),
		"429":            status(http.StatusTooManyRequests, "Retry-After", "1"),
		"400":            page(http.StatusBadRequest),
		"no_token":       page(http.StatusOK),
		"no_token, null": refusal(http.StatusOK, `{"access_token":null,"refresh_token":"a new one"}`),
		"unreachable":    func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"timeout": func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
			case <-time.After(time.Minute):
			}
		},
	} {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			c, s := startOAuth(t, "work", "home")
			s.put(c, time.Now().Add(time.Hour), "work", "home")
			before := c.record("work")
			var asked atomic.Int32
			s.refuse(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				answers(w, r)
			})
			c.age("work", 4*time.Minute)
			eventually(t, "the endpoint is asked", func() bool { return asked.Load() > 0 })
			code, _, _ := strings.Cut(reason, ",")
			failed := fmt.Sprintf("[refresh_failed work> %s]", code)
			for deadline := time.Now().Add(2 * patience); fmt.Sprint(c.notices()) != failed; time.Sleep(50 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("told %s, want %s", c.notices(), failed)
				}
				began := time.Now()
				served(t, c.get("/"), "work")
				if took := time.Since(began); took > 2*time.Second {
					t.Errorf("a request took %s", took)
				}
			}
			served(t, c.get("/"), "work")
			c.is("work", "ready")
			if after := c.record("work"); after.Access != before.Access || after.Refresh != before.Refresh || after.ID != before.ID || after.Lost != "" {
				t.Error("the login has changed in the vault")
			}
			if n := asked.Load(); n > 2 {
				t.Errorf("the endpoint was asked %d times", n)
			}
			s.refuse(nil)
			s.refreshed(c, "work", 1)
			served(t, c.get("/"), "work")
			s.saw(t, 1, 0)
			equal(t, "notices", c.notices(), fmt.Sprintf("[refresh_failed work> %s refreshed work> ]", code))
			equal(t, "requests where a redirect leads", elsewhere.Load(), 0)
		})
	}
}

// A request whose token has ended waits for another one, and not for long.
func TestFault_tokenEndpointHangsAndTheTokenHasEnded(t *testing.T) {
	t.Parallel()
	c, s := startOAuth(t, "work", "home")
	s.put(c, time.Now().Add(time.Hour), "home")
	s.refuse(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	s.put(c, time.Now().Add(-time.Minute), "work")
	began := time.Now()
	served(t, c.get("/"), "home")
	if took := time.Since(began); took > 13*time.Second {
		t.Errorf("the request took %s", took)
	}
}

func TestFault_oddLifetimesDoNotLoop(t *testing.T) {
	t.Parallel()
	lives := []any{0, -1, nil, "3600", "soon", "", 0.5, 1e300, true, map[string]any{"seconds": 1}, 1}
	accounts := make([]string, 0, len(lives))
	for i := range lives {
		accounts = append(accounts, fmt.Sprint("odd-", i))
	}
	c, s := startOAuth(t, accounts...)
	for i, life := range lives {
		s.send(with(map[string]any{"expires_in": life}))
		s.put(c, time.Now().Add(-time.Minute), accounts[i])
		s.refreshed(c, accounts[i], 1)
	}
	never(t, 5*time.Second, "a login is refreshed once more", func() bool { return len(s.grants()) > len(lives) })
	for _, account := range accounts {
		c.is(account, "ready")
		if c.active() != account {
			c.want(200, http.MethodPost, "/credential_pool/pools/api/rotate", fmt.Sprintf(`{"to":%q}`, account), nil)
		}
		served(t, c.get("/"), account)
	}
	s.saw(t, len(lives), 0)
}

// Clients leave while they wait for tokens, while their request is made again
// with the new ones, and in the midst of an answer.
func TestFault_clientsLeaveAroundARefresh(t *testing.T) {
	needProc(t)
	t.Parallel()
	const clients = 20
	c, s := startOAuth(t, "work", "home")
	s.put(c, time.Now().Add(time.Hour), "work", "home")
	served(t, c.get("/"), "work")
	goroutines, files := c.goroutines(), c.files()
	leave := func(what, method, body string, reached func()) {
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for range clients {
			all.Go(func() {
				if _, err := c.try(c.request(method, "/", body).WithContext(ctx)); err == nil {
					t.Errorf("%s: an answer came to its end", what)
				}
			})
		}
		reached()
		cancel()
		all.Wait()
	}

	held := newGate(t)
	s.send(held.held)
	s.put(c, time.Now().Add(-time.Minute), "work")
	// The server sees that a client has left once its body was read, which waits for
	// the tokens, too: that is known of those without one.
	leave("while they wait for tokens", http.MethodGet, "", func() {
		held.wait(t, 1)
		eventually(t, "all wait", func() bool { return c.waiting() >= clients })
	})
	eventually(t, "they have left", func() bool { return c.waiting() <= 1 })
	held.open()
	s.refreshed(c, "work", 1)
	served(t, c.get("/"), "work")

	s.send(send200)
	s.put(c, time.Now().Add(time.Hour), "work") // tokens that are new are not refreshed when they are rejected
	s.end("work")
	stream := newGate(t)
	work := s.guard("work")
	c.upstream.answer("work", func(w http.ResponseWriter, r *http.Request) {
		if s.rejects(r) {
			work(w, r)
			return
		}
		stream.before(work)(w, r)
	})
	leave("while the request is made again", http.MethodPost, "a question", func() { stream.wait(t, clients) })
	s.refreshed(c, "work", 1)

	c.upstream.answer("work", func(w http.ResponseWriter, r *http.Request) {
		for n := 0; r.Context().Err() == nil; n++ {
			event(w, n)
			if n == 0 {
				stream.arrived <- struct{}{}
			}
			time.Sleep(time.Millisecond)
		}
	})
	leave("in the midst of an answer", http.MethodPost, "a question", func() { stream.wait(t, clients) })

	c.upstream.answer("work", work)
	served(t, c.get("/"), "work")
	c.upstream.CloseClientConnections()
	eventually(t, "no goroutine and no connection is left", func() bool {
		return c.goroutines() <= goroutines+5 && c.files() <= files+5
	})
	c.is("work", "ready")
	s.saw(t, 2, 0)
	equal(t, "notices", c.notices(), "[refreshed work>  refreshed work> ]")
}

// An answer that is lost on the way takes the refresh token with it. The next
// attempt shows that, and nobody insists.
func TestFault_answerOfTheTokenEndpointIsLost(t *testing.T) {
	t.Parallel()
	c, s := startOAuth(t, "work", "home")
	s.put(c, time.Now().Add(time.Hour), "work", "home")
	s.send(lost)
	c.age("work", 4*time.Minute)
	eventually(t, "it is tried once more", func() bool { return len(s.grants()) == 2 })
	s.send(send200)
	eventually(t, "the login is lost", func() bool { return c.member("work").State == "missing" })
	c.mustLogIn(t, "work")
	served(t, c.get("/"), "home")
	never(t, 2*time.Second, "it is tried again", func() bool { return len(s.grants()) > 2 })
	s.saw(t, 1, 1)
	s.put(c, time.Now().Add(time.Hour), "work")
	c.is("work", "ready")
}

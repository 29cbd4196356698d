package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/caddyserver/certmagic"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/vault"
)

func TestRefresh_aheadOfTheEndAndKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t)
		h.put("a", time.Now().Add(time.Hour))
		in := h.start()
		defer in.stop()
		id := h.stored("a").ID
		time.Sleep(54*time.Minute - time.Second)
		if grants, _ := h.server.granted(); grants != 0 {
			t.Fatalf("%d grants before it is time", grants)
		}
		time.Sleep(time.Minute + 5*time.Second)
		if grants, _ := h.server.granted(); grants != 1 {
			t.Fatalf("%d grants when it is time", grants)
		}
		c := h.stored("a")
		if c.ID != id || c.Generation != 2 || c.Secret.Reveal() != accessToken("a", 2) || c.OAuth.RefreshToken.Reveal() != refreshToken("a", 2) || !c.OAuth.Intent.IsZero() {
			t.Errorf("stored is generation %d of %s with %s", c.Generation, c.ID, c.Secret.Reveal())
		}
		if got := in.token(); got != accessToken("a", 2) {
			t.Errorf("a request gets %s", got)
		}
		if e := in.told(pool.Refreshed); len(e) != 1 || e[0].From != "a" || !e[0].Until.Equal(c.OAuth.ExpiresAt) {
			t.Errorf("told: %v", e)
		}
		if h.server.styles[0] != "params" {
			t.Errorf("auth style %s", h.server.styles[0])
		}
	})
}

func TestRefresh_manyRequestsMeetAnExpiredToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t)
		h.put("a", time.Now().Add(-time.Minute))
		h.server.before = func(http.ResponseWriter, *http.Request) bool { time.Sleep(time.Second); return false }
		in := h.start()
		defer in.stop()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if got := in.token(); got != accessToken("a", 2) {
					t.Errorf("a request gets %s", got)
				}
			})
		}
		wg.Wait()
		if grants, reuses := h.server.granted(); grants != 1 || reuses != 0 {
			t.Errorf("%d grants, %d reuses", grants, reuses)
		}
	})
}

func TestRefresh_theClientLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t)
		h.put("a", time.Now().Add(-time.Minute))
		h.server.before = func(http.ResponseWriter, *http.Request) bool { time.Sleep(5 * time.Second); return false }
		in := h.start()
		defer in.stop()
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		lease, _ := in.sp.Acquire(time.Now(), "")
		in.sp.arms(ctx, time.Now(), lease)
		if ctx.Err() == nil {
			t.Error("the client did not leave")
		}
		time.Sleep(5 * time.Second)
		if c := h.stored("a"); c.Generation != 2 {
			t.Error("the refresh has not come to its end")
		}
	})
}

func TestRefresh_anAnswerWithoutRefreshTokenKeepsTheOldOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t)
		h.put("a", time.Now().Add(-time.Minute))
		h.server.shape = func(answer map[string]any) { delete(answer, "refresh_token") }
		in := h.start()
		defer in.stop()
		if got := in.token(); got != accessToken("a", 2) {
			t.Errorf("a request gets %s", got)
		}
		if got := h.stored("a").OAuth.RefreshToken.Reveal(); got != refreshToken("a", 1) {
			t.Errorf("the refresh token is %s", got)
		}
	})
}

func TestRefresh_oddLifetimesDoNotLoop(t *testing.T) {
	for name, tc := range map[string]struct {
		expiresIn any
		most      int // grants in two hours
	}{
		"0": {0, 3}, "negative": {-5, 3}, "missing": {nil, 3}, "words": {"soon", 3}, "an object": {map[string]any{}, 3},
		"a string": {"3600", 3}, "huge": {1e18, 1}, "a fraction": {0.5, 3}, "a second": {1, 161},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHousehold(t)
				h.put("a", time.Now().Add(-time.Minute))
				h.server.shape = func(answer map[string]any) {
					if answer["expires_in"] = tc.expiresIn; tc.expiresIn == nil {
						delete(answer, "expires_in")
					}
				}
				in := h.start()
				defer in.stop()
				time.Sleep(2 * time.Hour)
				grants, reuses := h.server.granted()
				if grants < 1 || grants > tc.most || reuses != 0 {
					t.Errorf("%d grants, at most %d wanted; %d reuses", grants, tc.most, reuses)
				}
				times := h.server.times()
				for i := 1; i < len(times); i++ {
					if pause := times[i].Sub(times[i-1]); pause < refreshPause {
						t.Errorf("a pause of %s", pause)
					}
				}
				if got := in.token(); got != accessToken("a", h.server.newest("a")) {
					t.Errorf("a request gets %s", got)
				}
			})
		})
	}
}

func TestRefresh_troubleAtTheEndpointBenchesNobody(t *testing.T) {
	for reason, answer := range map[string]func(http.ResponseWriter, *http.Request){
		"307": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://elsewhere.example.com/token")
			w.WriteHeader(http.StatusTemporaryRedirect)
		},
		"no_token": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>invalid_grant</html>") },
		"503":      func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		"502": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadGateway)
			_, _ = io.WriteString(w, `{"error":"invalid_grant"}`)
		},
		"timeout":     func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"unreachable": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(reason, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHousehold(t)
				h.put("a", time.Now().Add(time.Hour))
				h.server.before = func(w http.ResponseWriter, r *http.Request) bool { answer(w, r); return true }
				in := h.start()
				defer in.stop()
				time.Sleep(58 * time.Minute)
				before := time.Now()
				if got := in.token(); got != accessToken("a", 1) || time.Since(before) != 0 {
					t.Errorf("a request gets %s after %s", got, time.Since(before))
				}
				if st := in.state(0); st.State != pool.StateReady || st.Failures != 0 {
					t.Errorf("the member is %s", st.State)
				}
				if n := len(h.server.seen()); n < 3 || n > 20 {
					t.Errorf("%d attempts", n)
				}
				if e := in.told(pool.RefreshFailed); len(e) != 1 || e[0].Reason != reason || e[0].Meaning.Benches() {
					t.Errorf("told: %+v", e)
				}
				h.server.set(func() { h.server.before = nil })
				time.Sleep(refreshMaxWait + refreshMaxWait/2 + time.Minute)
				if got := in.token(); !h.server.accepts(got) {
					t.Errorf("when it works again, a request gets %s", got)
				}
				for _, hit := range h.server.seen() {
					if hit != "POST /token" {
						t.Errorf("the server saw %s", hit)
					}
				}
			})
		})
	}
}

func TestRefresh_isCountedByHowItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t)
		h.put("a", time.Now().Add(time.Hour))
		in := h.start()
		defer in.stop()
		counted := make(map[string]float64)
		since := func() (more string) {
			for _, outcome := range []string{refreshDone, refreshFailed, refreshLost} {
				now := testutil.ToFloat64(counters.refreshes.WithLabelValues("codex", "a", outcome))
				if n := now - counted[outcome]; n > 0 {
					more += fmt.Sprintf("%s %v;", outcome, n)
				}
				counted[outcome] = now
			}
			return more
		}
		since()
		time.Sleep(58 * time.Minute)
		if got := since(); got != "refreshed 1;" {
			t.Errorf("after a refresh: %s", got)
		}
		h.server.set(func() {
			h.server.before = func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(503); return true }
		})
		attempts := len(h.server.seen())
		time.Sleep(time.Hour)
		attempts = len(h.server.seen()) - attempts
		if got := since(); attempts < 2 || got != fmt.Sprintf("failed %d;", attempts) {
			t.Errorf("after %d attempts that failed: %s", attempts, got)
		}
		h.server.set(func() { h.server.before, h.server.accounts["a"].revoked = nil, true })
		time.Sleep(time.Hour)
		if got := since(); got != "lost 1;" {
			t.Errorf("after the login was lost: %s", got)
		}
	})
}

func TestRefresh_aHangingEndpointIsNotWaitedForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t)
		h.put("a", time.Now().Add(-time.Minute))
		h.server.before = func(_ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true }
		in := h.start()
		defer in.stop()
		before := time.Now()
		if got := in.token(); got != accessToken("a", 1) || time.Since(before) != refreshWait {
			t.Errorf("a request gets %s after %s", got, time.Since(before))
		}
	})
}

func TestRefresh_aLostLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t)
		h.put("a", time.Now().Add(time.Hour))
		h.put("b", time.Now().Add(10*time.Hour))
		h.server.accounts["a"].revoked = true
		in := h.start()
		in.token()
		time.Sleep(57 * time.Minute)
		if st := in.state(0); st.State != pool.StateMissing || st.Reason != "log in again (invalid_grant)" {
			t.Errorf("the member is %s: %s", st.State, st.Reason)
		}
		if got := in.token(); got != accessToken("b", 1) {
			t.Errorf("a request gets %s", got)
		}
		if e := in.told(pool.RefreshFailed); len(e) != 1 || e[0].Reason != "invalid_grant" || e[0].Meaning != pool.AuthFailed {
			t.Errorf("told: %+v", e)
		}
		if c := h.stored("a"); c.OAuth.Lost != "invalid_grant" || c.Secret.Reveal() != accessToken("a", 1) {
			t.Errorf("stored: %+v", c.OAuth)
		}
		in.stop()
		hits := len(h.server.seen())
		again := h.start()
		defer again.stop()
		time.Sleep(time.Hour)
		if st := again.state(0); st.Reason != "log in again (invalid_grant)" || len(h.server.seen()) != hits {
			t.Errorf("after a restart: %s, %d further requests", st.Reason, len(h.server.seen())-hits)
		}
		h.server.set(func() { h.server.accounts["a"] = &tokenAccount{n: 7} })
		h.put("a", time.Now().Add(time.Hour))
		time.Sleep(defaultSyncInterval + time.Second)
		if st := again.state(0); st.State != pool.StateReady {
			t.Errorf("after a new login: %s", st.Reason)
		}
	})
}

func TestRefresh_aLostAnswerCostsOneLoginAndOneFurtherAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t)
		h.put("a", time.Now().Add(-time.Minute))
		h.put("b", time.Now().Add(10*time.Hour))
		h.server.lose = true
		in := h.start()
		defer in.stop()
		time.Sleep(10 * time.Minute)
		if st := in.state(0); st.Reason != "log in again (invalid_grant)" || len(h.server.seen()) != 2 {
			t.Errorf("the member is %s, after %d requests", st.Reason, len(h.server.seen()))
		}
		if got := in.token(); got != accessToken("b", 1) {
			t.Errorf("a request gets %s", got)
		}
	})
}

func TestRefresh_theEndpointSaysWhenToComeBack(t *testing.T) {
	for retryAfter, tc := range map[string]struct{ least, most time.Duration }{
		"120": {2 * time.Minute, 3 * time.Minute}, "1000000000": {15 * time.Minute, 16 * time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := newHousehold(t)
			h.put("a", time.Now().Add(-time.Minute))
			h.server.before = func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Retry-After", retryAfter)
				w.WriteHeader(http.StatusTooManyRequests)
				return true
			}
			in := h.start()
			defer in.stop()
			time.Sleep(tc.least - time.Second)
			h.server.set(func() { h.server.before = nil })
			if n := len(h.server.seen()); n != 1 {
				t.Errorf("after %s: %d requests", retryAfter, n)
			}
			time.Sleep(tc.most - tc.least)
			if grants, _ := h.server.granted(); grants != 1 || in.state(0).State != pool.StateReady {
				t.Errorf("after %s: %d grants", retryAfter, grants)
			}
		})
	}
}

func TestRefresh_aTokenThatAnotherInstanceHasReplacedCostsNoGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t)
		h.put("a", time.Now().Add(time.Hour))
		one, two := h.start(), h.start()
		defer one.stop()
		defer two.stop()
		old := two.sp.armed[0].Load()
		for _, in := range []*instance{one, two} {
			a := in.sp.logins[0].await(t.Context(), in.sp.armed[0].Load(), rejected)
			if a.same(old) || a.generation != 2 {
				t.Errorf("the tokens are of generation %d", a.generation)
			}
		}
		// One that is rejected as soon as it is there is not refreshed again.
		if a := two.sp.logins[0].await(t.Context(), two.sp.armed[0].Load(), rejected); a.generation != 2 {
			t.Errorf("the tokens are of generation %d", a.generation)
		}
		if grants, _ := h.server.granted(); grants != 1 {
			t.Errorf("%d grants", grants)
		}
	})
}

func TestRefresh_aPutInMidRefreshStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t)
		h.put("a", time.Now().Add(-time.Minute))
		h.server.before = func(http.ResponseWriter, *http.Request) bool { time.Sleep(3 * time.Second); return false }
		in := h.start()
		defer in.stop()
		time.Sleep(2 * time.Second) // the endpoint is being asked
		c := h.stored("a")
		login := *c.OAuth
		login.ExpiresAt = time.Now().Add(time.Hour)
		c.Secret, c.OAuth = vault.NewSecret("access-of-the-operator"), &login
		info, err := in.app.putCredential(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if got := in.token(); got != "access-of-the-operator" || h.stored("a").ID != info.ID {
			t.Errorf("a request gets %s", got)
		}
	})
}

func TestRefresh_aRemovalInMidRefreshStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t)
		h.put("a", time.Now().Add(-time.Minute))
		h.server.before = func(http.ResponseWriter, *http.Request) bool { time.Sleep(3 * time.Second); return false }
		in, other := h.start(), h.start()
		defer in.stop()
		defer other.stop()
		time.Sleep(2 * time.Second) // the endpoint is being asked
		if err := other.app.deleteCredential(t.Context(), "codex/a"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if _, err := h.vault().Get(t.Context(), "codex/a"); !errors.Is(err, vault.ErrNotFound) {
			t.Errorf("the login is back: %v", err)
		}
		if st := in.state(0); st.State != pool.StateMissing {
			t.Errorf("the member is %s", st.State)
		}
	})
}

func TestRefresh_aLossThatCanNotBeStoredIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t)
		h.put("a", time.Now().Add(-time.Minute))
		h.server.accounts["a"].revoked = true
		h.fillDiskAtTheGrant()
		in := h.start()
		defer in.stop()
		time.Sleep(time.Minute)
		if st := in.state(0); st.Reason != "log in again (invalid_grant)" || len(h.server.seen()) != 1 {
			t.Errorf("the member is %s, after %d requests", st.Reason, len(h.server.seen()))
		}
		h.storage.failing(nil)
		time.Sleep(2 * storeMaxWait)
		if h.stored("a").OAuth.Lost == "" {
			t.Error("the mark was not stored when it could be")
		}
	})
}

func TestRefresh_noGrantWithoutAStorageThatWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t)
		h.put("a", time.Now().Add(-time.Minute))
		h.storage.failing(errors.New("read-only file system"))
		in := h.start()
		defer in.stop()
		time.Sleep(time.Minute)
		if len(h.server.seen()) != 0 {
			t.Error("the token endpoint was asked")
		}
		if e := in.told(pool.RefreshFailed); len(e) != 1 || e[0].Reason != "storage" {
			t.Errorf("told: %+v", e)
		}
		h.storage.failing(nil)
		time.Sleep(2 * refreshMaxWait)
		if got := in.token(); got != accessToken("a", h.server.newest("a")) || h.server.newest("a") < 2 {
			t.Errorf("afterwards a request gets %s", got)
		}
	})
}

func TestRefresh_tokensThatCanNotBeStoredServeAndAreStoredLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t)
		h.put("a", time.Now().Add(-time.Minute))
		h.fillDiskAtTheGrant()
		in := h.start()
		if got := in.token(); got != accessToken("a", 2) {
			t.Errorf("a request gets %s", got)
		}
		time.Sleep(time.Minute) // looks at the old record must change nothing
		if got := in.token(); got != accessToken("a", 2) || h.stored("a").Generation != 1 {
			t.Errorf("a minute later a request gets %s", got)
		}
		h.storage.failing(nil)
		in.stop() // waits for it
		if c := h.stored("a"); c.Generation != 2 || c.OAuth.RefreshToken.Reveal() != refreshToken("a", 2) {
			t.Errorf("stored is generation %d", c.Generation)
		}
		if e := in.told(pool.Refreshed); len(e) != 1 {
			t.Errorf("told: %v", e)
		}
	})
}

func TestRefresh_afterACrash(t *testing.T) {
	for name, tc := range map[string]struct {
		granted bool
		want    pool.MemberState
		reason  string
		token   string
	}{
		"before the grant":            {false, pool.StateReady, "", accessToken("a", 2)},
		"between the grant and store": {true, pool.StateMissing, "log in again (invalid_grant)", accessToken("b", 1)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHousehold(t)
				h.put("a", time.Now().Add(-time.Minute))
				h.put("b", time.Now().Add(10*time.Hour))
				if _, err := h.vault().Begin(t.Context(), h.stored("a"), time.Now(), "a process that is no more"); err != nil {
					t.Fatal(err)
				}
				if tc.granted {
					h.server.accounts["a"].n++
				}
				in := h.start()
				in.token()
				// The other process may only have been stopped for a moment.
				time.Sleep(intentTime - refreshWait - time.Second)
				if len(h.server.seen()) != 0 {
					t.Error("the other process was not waited for")
				}
				time.Sleep(15 * time.Second)
				if st := in.state(0); st.State != tc.want || st.Reason != tc.reason {
					t.Errorf("the member is %s: %s", st.State, st.Reason)
				}
				if got := in.token(); got != tc.token {
					t.Errorf("a request gets %s", got)
				}
				if st := in.state(1); st.State != pool.StateReady {
					t.Errorf("the other member is %s", st.State)
				}
				in.stop()
				if len(h.server.seen()) != 1 {
					t.Errorf("%d attempts with the old token", len(h.server.seen()))
				}
			})
		})
	}
}

func TestRefresh_theOtherProcessComesToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t)
		h.put("a", time.Now().Add(-time.Minute))
		begun, err := h.vault().Begin(t.Context(), h.stored("a"), time.Now(), "a process that was stopped")
		if err != nil {
			t.Fatal(err)
		}
		in := h.start()
		defer in.stop()
		time.Sleep(15 * time.Second)
		h.refreshed(begun, "late")
		time.Sleep(30 * time.Second)
		if got := in.token(); got != "access-late" || len(h.server.seen()) != 0 {
			t.Errorf("a request gets %s after %d grants", got, len(h.server.seen()))
		}
	})
}

func TestRefresh_anotherInstanceHasWonTheRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t)
		h.put("a", time.Now().Add(-time.Minute))
		h.server.before = func(http.ResponseWriter, *http.Request) bool {
			h.refreshed(h.stored("a"), "other") // with no regard to any lock
			h.server.set(func() { h.server.accounts["a"].n++ })
			return false
		}
		in := h.start()
		defer in.stop()
		if got := in.token(); got != "access-other" || h.stored("a").OAuth.Lost != "" {
			t.Errorf("a request gets %s", got)
		}
		if st := in.state(0); st.State != pool.StateReady {
			t.Errorf("the member is %s: %s", st.State, st.Reason)
		}
	})
}

func TestRefresh_twoInstancesUseNoTokenTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t)
		h.put("a", time.Now().Add(10*time.Minute))
		h.put("b", time.Now().Add(10*time.Minute))
		one, two := h.start(), h.start()
		defer one.stop()
		defer two.stop()
		const rounds = 100
		for range rounds {
			time.Sleep(8 * time.Minute) // a token of 10 min is refreshed 2.5 min before its end
			for _, in := range []*instance{one, two} {
				if !h.server.accepts(in.token()) { // the other one has only just refreshed it
					time.Sleep(defaultSyncInterval + time.Second)
				}
				if got := in.token(); !h.server.accepts(got) {
					t.Fatalf("a request gets %s", got)
				}
			}
		}
		grants, reuses := h.server.granted()
		if reuses != 0 || grants < 2*rounds {
			t.Errorf("%d grants, %d reuses", grants, reuses)
		}
		if n := len(one.told(pool.Refreshed)) + len(two.told(pool.Refreshed)); n != grants {
			t.Errorf("%d grants were told %d times", grants, n)
		}
	})
}

// meetsTwoInstances lets n requests at once meet an expired token on two
// instances, in so many rounds.
func (h *household) meetsTwoInstances(rounds, n int) {
	h.t.Helper()
	h.server.before = func(http.ResponseWriter, *http.Request) bool { time.Sleep(200 * time.Millisecond); return false }
	for round := range rounds {
		h.put("a", time.Now().Add(-time.Minute))
		instances := []*instance{h.start(), h.start()}
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				if got := instances[i%2].token(); got != accessToken("a", round+2) {
					h.t.Errorf("round %d: a request gets %s", round, got)
				}
			})
		}
		wg.Wait()
		for _, in := range instances {
			in.stop()
		}
	}
	if grants, reuses := h.server.granted(); grants != rounds || reuses != 0 {
		h.t.Errorf("%d grants, %d reuses", grants, reuses)
	}
}

func TestRefresh_anExpiredTokenMeetsTwoInstances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { newHousehold(t).meetsTwoInstances(100, 10) })
}

func TestRefresh_anExpiredTokenMeetsTwoInstancesOnOneFolder(t *testing.T) {
	h := newHousehold(t)
	h.disk = &certmagic.FileStorage{Path: t.TempDir()}
	h.meetsTwoInstances(3, 20)
}

func TestRefresh_endsABenchForTheOldToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t)
		h.put("a", time.Now().Add(7*time.Minute))
		in := h.start()
		defer in.stop()
		time.Sleep(5 * time.Minute)
		lease, _ := in.sp.Acquire(time.Now(), "")
		lease.Report(time.Now(), pool.Verdict{Meaning: pool.AuthFailed, Reason: "401"})
		if st := in.state(0); st.State != pool.StateCooling {
			t.Fatalf("the member is %s", st.State)
		}
		time.Sleep(time.Minute)
		if st := in.state(0); st.State != pool.StateReady || st.Failures != 1 {
			t.Errorf("the member is %s with %d failures", st.State, st.Failures)
		}
	})
}

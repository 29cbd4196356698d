package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/vault"
)

const recordOfA = "credential_pool/credentials/codex/a.age"

// static is a key that the operator puts.
func static(name, secret string) vault.Credential {
	return vault.Credential{Name: name, Kind: vault.KindStatic, Secret: vault.NewSecret(secret)}
}

func TestRefresh_aWriteThatHangsIsNotFinishedAfterALaterOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t)
		h.put("a", time.Now().Add(-time.Minute))
		process := newProcess()
		var goOn func()
		hung := make(chan (<-chan struct{}), 1)
		h.server.before = func(http.ResponseWriter, *http.Request) bool {
			var begun <-chan struct{}
			begun, goOn = h.storage.hangNext("store")
			hung <- begun
			return false
		}
		before := h.startIn(process)
		go before.token()
		<-<-hung
		after := h.startIn(process) // a reload
		start := time.Now()
		if _, err := after.app.putCredential(t.Context(), static("codex/a", "key-of-the-operator")); !errors.Is(err, errEarlierChange) || time.Since(start) != vaultTime {
			t.Errorf("the put: %v after %s", err, time.Since(start))
		}
		if _, err := after.app.putCredential(t.Context(), static("codex/b", "key-of-b")); err != nil {
			t.Errorf("that of another credential: %v", err)
		}
		goOn()
		synctest.Wait()
		if c := h.stored("a"); c.Generation != 2 {
			t.Errorf("stored is generation %d", c.Generation)
		}
		if _, err := after.app.putCredential(t.Context(), static("codex/a", "key-of-the-operator")); err != nil {
			t.Errorf("the put when the storage works again: %v", err)
		}
		before.stop()
		after.stop()
		if c := h.stored("a"); c.Kind != vault.KindStatic || after.token() != "key-of-the-operator" {
			t.Error("the put has not stayed")
		}
	})
}

func TestRefresh_theLockIsKeptUntilAWriteThatHangsHasLanded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t)
		h.put("a", time.Now().Add(-time.Minute))
		begun, goOn := h.storage.hangNext("store")
		one := h.start()
		go one.token()
		<-begun
		two := h.start()
		go two.token()
		time.Sleep(time.Minute)
		if hits := h.server.seen(); len(hits) != 0 {
			t.Error("the token endpoint was asked, while a write that hangs could undo what comes of it")
		}
		goOn()
		time.Sleep(refreshMaxWait)
		if c := h.stored("a"); c.Generation < 2 {
			t.Errorf("stored is generation %d", c.Generation)
		}
		if _, reuses := h.server.granted(); reuses != 0 {
			t.Errorf("%d reuses", reuses)
		}
		one.stop()
		two.stop()
	})
}

func TestRefresh_theNextConfigTakesOverWhatIsNotStored(t *testing.T) {
	for name, reload := range map[string]func(h *household, p *process, before *instance) *instance{
		"a reload": func(h *household, p *process, before *instance) *instance {
			after := h.startIn(p)
			go before.stop()
			time.Sleep(stopTime + vaultTime)
			return after
		},
		"the pool was gone for a while": func(h *household, p *process, before *instance) *instance {
			before.stop()
			time.Sleep(time.Hour)
			return h.startIn(p)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHousehold(t)
				h.put("a", time.Now().Add(-time.Minute))
				h.server.shape = func(answer map[string]any) { answer["expires_in"] = 24 * 60 * 60 }
				h.fillDiskAtTheGrant()
				process := newProcess()
				before := h.startIn(process)
				before.token()
				after := reload(h, process, before)
				defer after.stop()
				if got := after.token(); got != accessToken("a", 2) || h.stored("a").Generation != 1 {
					t.Errorf("after a reload a request gets %s", got)
				}
				time.Sleep(time.Minute)
				h.storage.failing(nil)
				time.Sleep(2 * storeMaxWait)
				if c := h.stored("a"); c.Generation != 2 || c.OAuth.RefreshToken.Reveal() != refreshToken("a", 2) {
					t.Errorf("stored is generation %d", c.Generation)
				}
				if grants, reuses := h.server.granted(); grants != 1 || reuses != 0 {
					t.Errorf("%d grants, %d reuses", grants, reuses)
				}
				if e := after.told(pool.RefreshFailed); len(e) != 0 || len(after.told(pool.Refreshed)) != 1 {
					t.Errorf("told: %v", e)
				}
				if _, left := process.unstored.newer(h.stored("a").ID, 0); left {
					t.Error("the tokens are still taken for not stored")
				}
			})
		})
	}
}

func TestRefresh_whatIsNotStoredGivesWayToTheOperator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t)
		h.put("a", time.Now().Add(-time.Minute))
		h.fillDiskAtTheGrant()
		process := newProcess()
		before := h.startIn(process)
		before.token()
		id := h.stored("a").ID
		before.stop()
		h.storage.failing(nil)
		h.server.set(func() { h.server.accounts["a"] = &tokenAccount{n: 7}; h.server.before = nil })
		h.put("a", time.Now().Add(time.Hour))
		after := h.startIn(process)
		defer after.stop()
		time.Sleep(time.Minute)
		if got := after.token(); got != accessToken("a", 7) || h.stored("a").Generation != 1 || h.stored("a").ID == id {
			t.Errorf("a request gets %s", got)
		}
	})
}

// One that was stopped between its read and its write can't be kept from that
// write, since storages don't compare. What it has undone is written again.
func TestRefresh_aRecordThatWasSetBackIsRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t)
		h.put("a", time.Now().Add(-time.Minute))
		old, _ := h.storage.Load(t.Context(), recordOfA)
		one, two := h.start(), h.start()
		defer one.stop()
		defer two.stop()
		two.token()
		time.Sleep(defaultSyncInterval + time.Second)
		grants, _ := h.server.granted()
		for range 3 {
			if err := h.storage.Store(t.Context(), recordOfA, old); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * defaultSyncInterval)
			if c := h.stored("a"); c.Generation != 2 {
				t.Fatalf("stored is generation %d", c.Generation)
			}
		}
		time.Sleep(time.Hour)
		now, reuses := h.server.granted()
		if grants != 1 || now < 6 || reuses != 0 {
			t.Errorf("%d grants, then %d; %d reuses", grants, now, reuses)
		}
	})
}

func TestRefresh_aHolderThatWasStoppedOverwritesNothingNewer(t *testing.T) {
	for _, stoppedAt := range []string{"its read", "the answer", "its last read"} {
		t.Run(stoppedAt, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHousehold(t)
				h.put("a", time.Now().Add(-time.Minute))
				holder := h.start()
				var begun <-chan struct{}
				goOn := func() {}
				hang := func() { begun, goOn = h.storage.hangNext("load") }
				asked := make(chan struct{})
				switch stoppedAt {
				case "its read":
					hang()
				case "the answer", "its last read":
					h.server.before = func(http.ResponseWriter, *http.Request) bool {
						if stoppedAt == "its last read" {
							hang()
						}
						h.server.set(func() { h.server.before = nil })
						close(asked)
						if stoppedAt == "the answer" {
							time.Sleep(15 * time.Second)
						}
						return false
					}
				}
				go holder.token()
				if stoppedAt != "its read" {
					<-asked
				}
				if begun != nil {
					<-begun
				}
				// Its lock has grown stale, and another one does without.
				h.storage.steal("credential_pool.refresh.codex.a")
				h.refreshed(h.stored("a"), "newer")
				time.Sleep(15 * time.Second)
				goOn()
				time.Sleep(15 * time.Second)
				if got := h.stored("a").Secret.Reveal(); got != "access-newer" || holder.token() != got {
					t.Errorf("stored is %s, a request gets %s", got, holder.token())
				}
				holder.stop()
			})
		})
	}
}

// steal takes a lock from whoever has it.
func (s *sharedStorage) steal(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[name]()
	s.held[name] = func() {}
}

func TestRefresh_anUnlockThatHangsHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t)
		h.put("a", time.Now().Add(-time.Minute))
		in := h.start()
		in.app.storage = &pickyLocks{sharedStorage: h.storage, hang: true, tries: 2}
		start := time.Now()
		if got := in.token(); got != accessToken("a", 2) || time.Since(start) != 0 {
			t.Errorf("a request gets %s after %s", got, time.Since(start))
		}
		in.stop()
		if took := time.Since(start); took != unlockTime {
			t.Errorf("the config's end took %s", took)
		}
		time.Sleep(time.Minute)
	})
}

func TestRefresh_manyLoginsAskAFewAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t)
		h.accounts = nil
		for i := range 50 {
			h.accounts = append(h.accounts, fmt.Sprintf("m%d", i))
		}
		h.server = newTokenServer(h.accounts...)
		for _, name := range h.accounts {
			h.put(name, time.Now().Add(-time.Minute))
		}
		var mu sync.Mutex
		asking, most, locked := 0, 0, 0
		h.server.before = func(http.ResponseWriter, *http.Request) bool {
			mu.Lock()
			asking++
			most, locked = max(most, asking), max(locked, h.storage.locked())
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			defer mu.Unlock()
			asking--
			return false
		}
		in := h.start()
		defer in.stop()
		time.Sleep(6 * time.Second)
		if grants, reuses := h.server.granted(); grants != 50 || reuses != 0 {
			t.Errorf("%d grants, %d reuses", grants, reuses)
		}
		// Those that store what they got have a lock, those that wait have none.
		if most != maxGrants || locked > 2*maxGrants {
			t.Errorf("%d at once, with %d locks", most, locked)
		}
	})
}

// locked returns how many locks are held.
func (s *sharedStorage) locked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held)
}

func TestRefresh_anAccountThatIsAlwaysRejected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t)
		h.put("a", time.Now().Add(7*24*time.Hour))
		h.server.shape = func(answer map[string]any) { answer["expires_in"] = 7 * 24 * 60 * 60 }
		in := h.start()
		defer in.stop()
		reject := func() {
			lease, err := in.sp.Acquire(time.Now(), "")
			if err != nil {
				t.Fatal(err)
			}
			in.sp.logins[0].await(t.Context(), in.sp.armed[0].Load(), rejected)
			lease.Report(time.Now(), pool.Verdict{Meaning: pool.AuthFailed, Reason: "401"})
		}
		for end := time.Now().Add(24 * time.Hour); time.Now().Before(end); time.Sleep(10 * time.Second) {
			reject()
		}
		times := h.server.times()
		if len(times) < 24 || len(times) > 40 {
			t.Errorf("%d grants in a day", len(times))
		}
		if last := times[len(times)-1].Sub(times[len(times)-2]); last > refreshMaxPause+time.Minute {
			t.Errorf("the last pause is %s", last)
		}
		// One success, and the next rejection finds the login as any other.
		time.Sleep(refreshMaxPause)
		in.sp.SetMissing("b", "")
		lease, _ := in.sp.Acquire(time.Now(), "")
		lease.Report(time.Now(), pool.Verdict{Meaning: pool.OK})
		before := len(h.server.times())
		reject()
		time.Sleep(refreshPause * 3)
		reject()
		if n := len(h.server.times()) - before; n != 2 {
			t.Errorf("%d grants after a success", n)
		}
	})
}

func TestRefresh_theClockOfTheInstanceThatRefreshedIsAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t)
		h.put("a", time.Now().Add(time.Hour))
		c := h.stored("a")
		login := *c.OAuth
		login.RefreshedAt = time.Now().Add(24 * time.Hour)
		c.OAuth = &login
		c.Generation++
		if _, err := h.vault().Refreshed(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		in := h.start()
		defer in.stop()
		time.Sleep(refreshPause + time.Second)
		if a := in.sp.logins[0].await(t.Context(), in.sp.armed[0].Load(), rejected); a.generation != 3 {
			t.Errorf("the tokens are of generation %d", a.generation)
		}
	})
}

func TestRefresh_aLoginOfWhichNoEndIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHousehold(t)
		h.put("a", time.Time{})
		in := h.start()
		defer in.stop()
		time.Sleep(48 * time.Hour)
		if n := len(h.server.seen()); n != 0 {
			t.Errorf("%d requests before it was rejected", n)
		}
		if a := in.sp.logins[0].await(t.Context(), in.sp.armed[0].Load(), rejected); a.generation != 2 {
			t.Errorf("the tokens are of generation %d", a.generation)
		}
	})
}

func TestRefresh_intentsOfOthersAreWaitedFor(t *testing.T) {
	for name, tc := range map[string]struct {
		own  bool
		time time.Duration // of the intent, from now
		wait time.Duration
	}{
		"just now":              {false, 0, intentTime},
		"a while ago":           {false, -10 * time.Second, intentTime - 10*time.Second},
		"long ago":              {false, -time.Hour, 0},
		"by a clock ahead":      {false, 10 * time.Second, intentTime + 10*time.Second},
		"by a clock far ahead":  {false, 24 * time.Hour, 0},
		"this process's own":    {true, 0, 0},
		"of another generation": {false, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHousehold(t)
				h.put("a", time.Now().Add(-time.Minute))
				process := newProcess()
				by := "a process that is no more"
				if tc.own {
					by = process.id
				}
				c, err := h.vault().Begin(t.Context(), h.stored("a"), time.Now().Add(tc.time), by)
				if err != nil {
					t.Fatal(err)
				}
				if name == "of another generation" {
					h.server.set(func() { h.server.accounts["a"].n = 2 })
					c.Generation++
					c.OAuth.RefreshToken = vault.NewSecret(refreshToken("a", 2))
					if _, err := h.vault().Refreshed(t.Context(), c); err != nil {
						t.Fatal(err)
					}
				}
				in := h.startIn(process)
				defer in.stop()
				start := time.Now()
				time.Sleep(time.Minute)
				grants := h.server.times()
				if len(grants) != 1 {
					t.Fatalf("%d grants", len(grants))
				}
				if waited := grants[0].Sub(start); waited < tc.wait || waited > tc.wait+2*refreshTick {
					t.Errorf("it was waited for %s", waited)
				}
			})
		})
	}
}

// A client that leaves while its request waits for new tokens leaves the account
// as it is.
func TestOAuth_aClientThatLeavesBlamesNobody(t *testing.T) {
	s := openLoginSite(t, directive())
	goOn := make(chan struct{})
	s.putLogin("a", inAnHour())
	s.putLogin("b", inAnHour())
	s.want(200)
	s.revoke("a")
	heal := s.server.before
	s.server.set(func() {
		s.server.before = func(w http.ResponseWriter, r *http.Request) bool { <-goOn; return heal(w, r) }
	})
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.door+"/v1/x", strings.NewReader("hello"))
		req.Header.Set("Authorization", "Bearer "+phantom)
		res, err := http.DefaultTransport.RoundTrip(req)
		if err == nil {
			err = res.Body.Close()
		}
		left <- err
	}()
	waitUntil(t, "the endpoint is asked", func() bool { return len(s.server.seen()) == 1 })
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the client: %v", err)
	}
	waitUntil(t, "the request has ended", func() bool {
		log, err := os.ReadFile(s.log)
		return err == nil && strings.Count(string(log), `"handled request"`) == 2
	})
	if answer := s.status(); strings.Contains(answer, "cooling") || strings.Contains(answer, `"failures":1`) {
		t.Errorf("the pool is %s", answer)
	}
	close(goOn)
	s.want(200)
	if got := s.api.credentials(); strings.Contains(got, "access-b") {
		t.Errorf("the API saw %s", got)
	}
}

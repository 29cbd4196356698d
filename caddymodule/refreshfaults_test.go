package caddymodule

import (
	"context"
	"errors"
	"net/http"
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
				h.server.before = func(http.ResponseWriter, *http.Request) bool {
					h.storage.failing(errors.New("the disk is full"))
					return false
				}
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
		h.server.before = func(http.ResponseWriter, *http.Request) bool {
			h.storage.failing(errors.New("the disk is full"))
			return false
		}
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
				c := h.stored("a")
				login := *c.OAuth
				login.RefreshToken, login.ExpiresAt = vault.NewSecret("refresh-newer"), time.Now().Add(time.Hour)
				c.Secret, c.OAuth = vault.NewSecret("access-newer"), &login
				c.Generation++
				if _, err := h.vault().Refreshed(t.Context(), c); err != nil {
					t.Fatal(err)
				}
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

// pickyLocks heed the context, and give a lock back only at the third attempt.
type pickyLocks struct {
	*sharedStorage
	mu    sync.Mutex
	tries int
	hang  bool
}

func (s *pickyLocks) Lock(_ context.Context, name string) error {
	return s.sharedStorage.Lock(context.Background(), name)
}

func (s *pickyLocks) Unlock(ctx context.Context, name string) error {
	s.mu.Lock()
	s.tries++
	tries := s.tries
	s.mu.Unlock()
	if s.hang {
		time.Sleep(time.Minute)
	}
	if err := ctx.Err(); err != nil && !s.hang {
		return err
	}
	if tries%3 != 0 {
		return errors.New("try again")
	}
	return s.sharedStorage.Unlock(ctx, name)
}

func TestLockWithin_aLateLockIsGivenBackToAStorageThatHeedsTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &pickyLocks{sharedStorage: newSharedStorage()}
		release, _ := s.locks.take(t.Context(), "x")
		if _, err := lockWithin(t.Context(), s, "x", time.Second); !errors.Is(err, errLocked) {
			t.Errorf("error %v", err)
		}
		release()
		time.Sleep(10 * time.Second)
		unlock, err := lockWithin(t.Context(), s, "x", time.Second)
		if err != nil {
			t.Fatal(err)
		}
		unlock()
		if s.tries != 6 {
			t.Errorf("%d attempts to give two locks back", s.tries)
		}
	})
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

package caddymodule

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestLockWithin_aLateLockIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSharedStorage()
		stubborn := &stubbornLocks{sharedStorage: s}
		release, _ := s.locks.take(t.Context(), "x")
		before := time.Now()
		if _, err := lockWithin(t.Context(), stubborn, "x", time.Second); !errors.Is(err, errLocked) || time.Since(before) != time.Second {
			t.Errorf("error %v after %s", err, time.Since(before))
		}
		release()
		synctest.Wait()
		unlock, err := lockWithin(t.Context(), stubborn, "x", time.Second)
		if err != nil {
			t.Fatal(err)
		}
		unlock()
	})
}

// stubbornLocks take no notice of the context.
type stubbornLocks struct{ *sharedStorage }

func (s *stubbornLocks) Lock(_ context.Context, name string) error {
	return s.sharedStorage.Lock(context.Background(), name)
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

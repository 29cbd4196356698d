package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/caddyserver/certmagic"
)

// turns lets one at a time have each name. The zero value is ready.
type turns struct {
	mu     sync.Mutex
	byName map[string]*turn
}

// turn is kept as long as somebody has it or waits for it.
type turn struct {
	taken chan struct{}
	users int
}

// take waits for its turn until the context ends, and returns what gives it to
// the next one.
func (t *turns) take(ctx context.Context, name string) (release func(), err error) {
	n := t.enter(name)
	select {
	case n.taken <- struct{}{}:
		release = func() {
			<-n.taken
			t.leave(name, n)
		}
	case <-ctx.Done():
		t.leave(name, n)
		return nil, ctx.Err()
	}
	if err := ctx.Err(); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

func (t *turns) enter(name string) *turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byName == nil {
		t.byName = make(map[string]*turn)
	}
	n, ok := t.byName[name]
	if !ok {
		n = &turn{taken: make(chan struct{}, 1)}
		t.byName[name] = n
	}
	n.users++
	return n
}

func (t *turns) leave(name string, n *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.users--; n.users == 0 {
		delete(t.byName, name)
	}
}

// unlockTime bounds what is waited for a storage that does not give a lock back,
// and unlockTries how often it is asked to.
const (
	unlockTime  = 5 * time.Second
	unlockTries = 5
)

// errLocked is returned for a lock that can't be had in time.
var errLocked = errors.New("the lock in the storage was not to be had")

// lockWithin takes a lock of the storage. Some storages don't listen to the
// context while they wait, so the call is left behind after the limit; if it gets
// the lock after all, it gives it back.
func lockWithin(ctx context.Context, storage certmagic.Storage, name string, limit time.Duration) (unlock func(), err error) {
	// Some storages hold the lock only as long as this context lives.
	lockCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	giveBack := func() {
		defer cancel()
		// One that stays would be kept until the process ends.
		ctx := context.WithoutCancel(ctx)
		_, _ = backoff.Retry(ctx, func() (struct{}, error) {
			_, err := within(ctx, unlockTime, func(ctx context.Context) (struct{}, error) {
				return struct{}{}, storage.Unlock(ctx, name)
			})
			if errors.Is(err, errStorageSilent) || errors.Is(err, fs.ErrNotExist) {
				err = backoff.Permanent(err) // it is still at it, or others have found it stale
			}
			return struct{}{}, err
		}, backoff.WithMaxTries(unlockTries))
	}
	locked := make(chan error) // without a buffer, so that it is known whether anyone took it
	go func() {
		err := storage.Lock(lockCtx, name)
		select {
		case locked <- err:
		case <-lockCtx.Done():
			if err == nil {
				giveBack()
			}
		}
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-locked:
		if err != nil {
			cancel()
			return nil, fmt.Errorf("%w: %w", errLocked, err)
		}
		return giveBack, nil
	case <-timer.C:
		err = fmt.Errorf("%w within %s", errLocked, limit)
	case <-ctx.Done():
		err = fmt.Errorf("%w: %w", errLocked, ctx.Err())
	}
	cancel()
	return nil, err
}

package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
)

// turns lets one at a time have each name. The zero value is ready.
type turns struct {
	mu     sync.Mutex
	byName map[string]chan struct{}
}

// take waits for its turn until the context ends, and returns what gives it to
// the next one.
func (t *turns) take(ctx context.Context, name string) (release func(), err error) {
	t.mu.Lock()
	if t.byName == nil {
		t.byName = make(map[string]chan struct{})
	}
	turn, ok := t.byName[name]
	if !ok {
		turn = make(chan struct{}, 1)
		t.byName[name] = turn
	}
	t.mu.Unlock()
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// unlockTime bounds what is waited for a storage that does not give a lock back.
const unlockTime = 5 * time.Second

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
		_, _ = within(lockCtx, unlockTime, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, storage.Unlock(ctx, name)
		})
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

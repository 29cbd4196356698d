package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/credentialpool/caddy-credential-pool/vault"
)

const (
	// refreshTick is how often it is looked whether a login is to be refreshed.
	refreshTick = time.Second

	// refreshLock bounds the wait for the lock of a login, which another
	// instance may hold while it makes a grant and stores it.
	refreshLock = 30 * time.Second

	// intentTime is for how long the refresh that another process has begun may
	// still come to its end, if that process has lost its lock.
	intentTime = grantTime + 5*time.Second

	// stopTime is what a refresh is given to store its tokens when Caddy stops.
	stopTime = grantTime + 5*time.Second
)

// What is waited between the attempts to store new tokens.
const (
	storeFirstWait = 200 * time.Millisecond
	// storeMaxWait is short, so that no other instance tries the old refresh
	// token before the new one is stored.
	storeMaxWait = 5 * time.Second
	// storeLastWait is the longest when the config has ended, and the process
	// may, too.
	storeLastWait = time.Second
)

// refresher is what the logins of one config are refreshed with.
type refresher struct {
	app    *App
	client *http.Client

	// ctx ends when the config does. It ends the waits before a grant, and
	// nothing after it.
	ctx     context.Context
	cancel  context.CancelFunc
	mu      sync.Mutex // guards stopped, and running from being waited for too early
	stopped bool
	running sync.WaitGroup

	// over is closed when what is not stored by then is left to the next config.
	over chan struct{}
}

func (a *App) newRefresher() *refresher {
	ctx, cancel := context.WithCancel(context.Background())
	return &refresher{app: a, client: newTokenClient(), ctx: ctx, cancel: cancel, over: make(chan struct{})}
}

// start runs f, unless the config has ended.
func (r *refresher) start(f func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return false
	}
	r.running.Go(f)
	return true
}

// stop lets nothing begin any more, and gives what is under way some time. Tokens
// that were granted and are not stored by then are left to the next config.
func (r *refresher) stop() {
	r.mu.Lock()
	r.stopped = true
	r.mu.Unlock()
	r.cancel()
	done := make(chan struct{})
	go func() {
		r.running.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(stopTime):
		r.app.logger.Error("not waiting any longer for the refresh of a login; if its tokens are not stored before the process ends, it must log in again")
	}
	close(r.over)
}

// read returns the record as it is stored now.
func (r *refresher) read(ctx context.Context, name string) (vault.Credential, error) {
	return within(ctx, vaultTime, func(ctx context.Context) (vault.Credential, error) { return r.app.vault.Get(ctx, name) })
}

// lock takes a login's lock, in this process and in the storage, and between the
// two its turn among those who ask token endpoints, which ends with asked.
func (r *refresher) lock(name, identity string) (asked, unlock func(), err error) {
	release, err := r.app.process.refreshes.take(r.ctx, identity)
	if err != nil {
		return nil, nil, errLocked
	}
	select {
	case r.app.process.grants <- struct{}{}:
		asked = sync.OnceFunc(func() { <-r.app.process.grants })
	case <-r.ctx.Done():
		release()
		return nil, nil, errLocked
	}
	// File storage drops slashes from the names of locks.
	giveBack, err := lockWithin(r.ctx, r.app.storage, "credential_pool.refresh."+strings.ReplaceAll(name, "/", "."), refreshLock)
	if err != nil {
		asked()
		release()
		return nil, nil, err
	}
	return asked, func() { r.unlock(name, giveBack, release) }, nil
}

// unlock gives the lock back once no write of this process is under way that
// would come after another one's.
func (r *refresher) unlock(name string, giveBack, release func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer release()
		if end, err := r.app.process.changes.take(context.Background(), r.app.record(name)); err == nil {
			defer end()
		}
		giveBack()
	}()
	select {
	case <-done:
	case <-time.After(unlockTime):
		r.app.logger.Warn("the lock of a login is not given back yet: the storage does not answer", zap.String("credential", name))
	}
}

// errHandedOver is returned for a write that the next config is to make.
var errHandedOver = errors.New("the config has ended before the storage took it")

// insist repeats a write until the storage takes it, also after the config has
// ended, for a while. The error is errHandedOver, or says that it is not to be
// made any more: the record was replaced, removed, or refreshed by somebody else.
// After the first failure, failing is called.
func (r *refresher) insist(name string, write func(context.Context) (vault.Credential, error), failing func(error)) (vault.Credential, error) {
	waits := backoff.NewExponentialBackOff()
	waits.InitialInterval, waits.MaxInterval, waits.Multiplier = storeFirstWait, storeMaxWait, 2
	for failed := false; ; failed = true {
		c, err := changing(context.Background(), r.app, name, write)
		if err == nil || errors.Is(err, vault.ErrStale) || errors.Is(err, vault.ErrNotFound) || errors.Is(err, vault.ErrInvalid) {
			return c, err
		}
		if !failed {
			failing(err)
		}
		if !r.pause(waits.NextBackOff()) {
			return c, errHandedOver
		}
	}
}

// pause waits, and less if the config ends. It reports false if there is to be no
// further attempt.
func (r *refresher) pause(wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.ctx.Done():
		time.Sleep(min(wait, storeLastWait))
	}
	select {
	case <-r.over:
		return false
	default:
		return true
	}
}

package caddymodule

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/caddyserver/certmagic"

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
	storeMaxWait   = 30 * time.Second
	// storeLastWait is the longest when the config has ended, and the process
	// may, too.
	storeLastWait = time.Second
)

// refreshTurns lets one refresh of each login be made in this process, also
// while two configs overlap in a reload.
var refreshTurns turns

// processID tells this process from others in what it notes in the vault.
var processID = rand.Text()

// refresher is what the logins of one config are refreshed with.
type refresher struct {
	vault   *vault.Vault
	storage certmagic.Storage
	logger  *zap.Logger
	client  *http.Client
	turns   *turns
	by      string

	// change makes one change of the vault after the other, with a bound.
	change func(ctx context.Context, change func(context.Context) (vault.Credential, error)) (vault.Credential, error)

	// ctx ends when the config does. It ends the waits before a grant, and
	// nothing after it.
	ctx     context.Context
	cancel  context.CancelFunc
	mu      sync.Mutex // guards stopped, and running from being waited for too early
	stopped bool
	running sync.WaitGroup
}

func (a *App) newRefresher() *refresher {
	ctx, cancel := context.WithCancel(context.Background())
	return &refresher{
		vault: a.vault, storage: a.storage, logger: a.logger, client: newTokenClient(),
		turns: &refreshTurns, by: processID, ctx: ctx, cancel: cancel,
		change: func(ctx context.Context, change func(context.Context) (vault.Credential, error)) (vault.Credential, error) {
			return changing(ctx, a, change)
		},
	}
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

// stop lets nothing begin any more, and gives what is under way some time: a
// token that was granted and not stored is lost.
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
		r.logger.Error("not waiting any longer for the refresh of a login; if its tokens are not stored before the process ends, it must log in again")
	}
}

// read returns the record as it is stored now.
func (r *refresher) read(ctx context.Context, name string) (vault.Credential, error) {
	return within(ctx, vaultTime, func(ctx context.Context) (vault.Credential, error) { return r.vault.Get(ctx, name) })
}

// lock takes the login's lock, in this process and in the storage.
func (r *refresher) lock(name string) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(r.ctx, refreshLock)
	defer cancel()
	release, err := r.turns.take(ctx, name)
	if err != nil {
		return nil, errLocked
	}
	// File storage drops slashes from the names of locks.
	giveBack, err := lockWithin(r.ctx, r.storage, "credential_pool.refresh."+strings.ReplaceAll(name, "/", "."), refreshLock)
	if err != nil {
		release()
		return nil, err
	}
	return func() {
		giveBack()
		release()
	}, nil
}

// insist repeats a write until the storage takes it, also after the config has
// ended. The error says that it is not to be made any more: the record was
// replaced, removed, or refreshed by somebody else. After the first failure,
// failing is called.
func (r *refresher) insist(write func(context.Context) (vault.Credential, error), failing func(error)) (vault.Credential, error) {
	waits := backoff.NewExponentialBackOff()
	waits.InitialInterval, waits.MaxInterval, waits.Multiplier = storeFirstWait, storeMaxWait, 2
	for failed := false; ; failed = true {
		c, err := r.change(context.Background(), write)
		if err == nil || errors.Is(err, vault.ErrStale) || errors.Is(err, vault.ErrNotFound) || errors.Is(err, vault.ErrInvalid) {
			return c, err
		}
		if !failed {
			failing(err)
		}
		r.pause(waits.NextBackOff())
	}
}

// pause waits, and less if the config ends.
func (r *refresher) pause(wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.ctx.Done():
		time.Sleep(min(wait, storeLastWait))
	}
}

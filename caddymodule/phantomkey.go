package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/credentialpool/caddy-credential-pool/vault"
)

const (
	// recheckPause is the least time between two looks at the key that clients
	// can cause.
	recheckPause = time.Second

	// recheckWait bounds what a client waits for one.
	recheckWait = 3 * time.Second

	// keyRetryAfter is after how many seconds a client is to come again while the
	// key can't be read.
	keyRetryAfter = "5"
)

// phantomKeeper is what an app remembers of the key of the phantoms.
type phantomKeeper struct {
	// mu makes one look after the other, so that an older key does not come
	// after a newer one.
	mu   sync.Mutex
	seen look
	key  vault.Secret // that the pools' phantoms are made from

	// wanted holds one while next has not begun.
	wanted chan struct{}
	asking sync.Mutex
	next   *recheck
}

// recheck is one more look at the key, for all who ask for it before it begins.
type recheck struct {
	done chan struct{}
	err  error
}

// lookAtPhantoms makes the phantoms of all pools from the key that is now in the
// vault. It reads the key each time: revoked phantoms must not live on because a
// storage has no times of modification.
func (a *App) lookAtPhantoms(ctx context.Context) error {
	a.phantoms.mu.Lock()
	defer a.phantoms.mu.Unlock()
	key, err := a.vault.PhantomKey(ctx)
	meaning := "the key of the phantom tokens is not usable; clients that hold one are turned away"
	switch {
	case err == nil:
		err = a.setPhantoms(key.Key)
	case errors.Is(err, vault.ErrNotFound):
		err = nil // nobody has asked for one yet
		a.dropPhantoms()
	case aboutRecord(err):
		a.dropPhantoms()
	default:
		meaning = "the key of the phantom tokens can't be looked at; what is in memory goes on serving"
	}
	a.logTrouble(&a.phantoms.seen, meaning, "phantom", err)
	return err
}

// errNoPhantoms is returned while there is no key of the phantoms.
var errNoPhantoms = errors.New("there is no key of the phantom tokens")

// phantomsWith returns the pool's phantoms if what a client shows is one of them.
// It may be one of a key that another process has made since the last look, so
// there is one more look before it returns nil. The error says that the key can't
// be read, or is not there, as in a storage that is not mounted yet: then nobody
// knows.
func (a *App) phantomsWith(ctx context.Context, sp *servedPool, shown func(*phantomTokens) bool) (*phantomTokens, error) {
	if p := sp.phantoms.Load(); p != nil && shown(p) {
		return p, nil
	}
	if err := a.phantoms.recheck(ctx); err != nil {
		return nil, err
	}
	switch p := sp.phantoms.Load(); {
	case p == nil:
		return nil, errNoPhantoms
	case shown(p):
		return p, nil
	}
	return nil, nil
}

// recheck waits for a look at the key that begins from now on.
func (k *phantomKeeper) recheck(ctx context.Context) error {
	k.asking.Lock()
	if k.next == nil {
		k.next = &recheck{done: make(chan struct{})}
		k.wanted <- struct{}{}
	}
	check := k.next
	k.asking.Unlock()
	timer := time.NewTimer(recheckWait)
	defer timer.Stop()
	select {
	case <-check.done:
		return check.err
	case <-timer.C:
		return errStorageSilent
	case <-ctx.Done():
		return ctx.Err()
	}
}

// begin returns who waits for the look that begins now.
func (k *phantomKeeper) begin() *recheck {
	k.asking.Lock()
	defer k.asking.Unlock()
	check := k.next
	k.next = nil
	return check
}

// recheckPhantoms looks at the key when clients ask for it, until the context
// ends.
func (a *App) recheckPhantoms(ctx context.Context) {
	var looking patient[struct{}]
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.phantoms.wanted:
		}
		check := a.phantoms.begin()
		_, check.err = looking.call(ctx, vaultTime, func(ctx context.Context) (struct{}, error) {
			return struct{}{}, a.lookAtPhantoms(ctx)
		})
		close(check.done)
		select {
		case <-ctx.Done():
			return
		case <-time.After(recheckPause):
		}
	}
}

func (a *App) setPhantoms(key vault.Secret) error {
	if key.Reveal() == a.phantoms.key.Reveal() {
		return nil
	}
	for name, sp := range a.pools {
		p, err := newPhantomTokens(key, name)
		if err != nil {
			return err
		}
		sp.phantoms.Store(p)
	}
	a.phantoms.key = key
	return nil
}

func (a *App) dropPhantoms() {
	if a.phantoms.key.IsZero() {
		return
	}
	a.phantoms.key = vault.Secret{}
	for _, sp := range a.pools {
		sp.phantoms.Store(nil)
	}
}

// canHavePhantoms returns an error that says what to configure, if phantoms
// can't be made.
func (a *App) canHavePhantoms() error {
	if err := a.vault.CanPut(); err != nil {
		return fmt.Errorf("phantom tokens: %w", err)
	}
	return nil
}

// makePhantoms makes the key of the phantoms if there is none, and returns it as
// it is in the vault.
func (a *App) makePhantoms(ctx context.Context) (vault.PhantomKey, error) {
	return a.changePhantoms(ctx, a.vault.MakePhantomKey)
}

// rotatePhantoms revokes all phantoms.
func (a *App) rotatePhantoms(ctx context.Context) (vault.PhantomKey, error) {
	key, err := a.changePhantoms(ctx, a.vault.RotatePhantomKey)
	if err == nil {
		a.logger.Named("audit").Info("All phantom tokens were revoked: they are made from a new key.",
			zap.String("action", "phantoms_rotated"))
	}
	return key, err
}

// changePhantoms makes a change of the key and puts it into use.
func (a *App) changePhantoms(ctx context.Context, change func(context.Context) (vault.PhantomKey, error)) (vault.PhantomKey, error) {
	return within(ctx, vaultTime, func(ctx context.Context) (vault.PhantomKey, error) {
		key, err := change(ctx)
		if err == nil {
			err = a.lookAtPhantoms(ctx)
		}
		return key, err
	})
}

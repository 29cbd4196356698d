package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"go.uber.org/zap"

	"github.com/credentialpool/caddy-credential-pool/vault"
)

// phantomKeeper is what an app remembers of the key of the phantoms.
type phantomKeeper struct {
	// mu makes one look after the other, so that an older key does not come
	// after a newer one.
	mu   sync.Mutex
	seen look
	key  vault.Secret // that the pools' phantoms are made from
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
		err = nil
		a.dropPhantoms(noPhantoms)
	case aboutRecord(err):
		a.dropPhantoms(nil)
	default:
		meaning = "the key of the phantom tokens can't be looked at; what is in memory goes on serving"
	}
	a.logTrouble(&a.phantoms.seen, meaning, "phantom", err)
	return err
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

func (a *App) dropPhantoms(instead *phantomTokens) {
	a.phantoms.key = vault.Secret{}
	for _, sp := range a.pools {
		sp.phantoms.Store(instead)
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

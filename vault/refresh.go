package vault

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrStale: the credential was replaced, or refreshed by somebody else, since it
// was read.
var ErrStale = errors.New("the credential has changed since")

// Begin notes in the record of c, a login, that a refresh is about to be made by
// that process, which also shows that the storage takes writes. It returns the
// credential as it is stored now. The error wraps ErrStale, is one of Get's, or
// is the storage's; then nothing may be sent to the token endpoint.
func (v *Vault) Begin(ctx context.Context, c Credential, now time.Time, by string) (Credential, error) {
	c = c.with(func(o *OAuth) { o.Intent = Intent{now.UTC(), c.Generation, by} })
	isOurs := func(stored Credential) bool { return stored.Generation == c.Generation }
	if err := v.replace(ctx, c, isOurs); err != nil {
		return Credential{}, err
	}
	// Where the storage's lock has failed, two can come this far. The later one
	// to write goes on.
	stored, err := v.Get(ctx, c.Name)
	if err != nil {
		return Credential{}, err
	}
	if stored.ID != c.ID || !isOurs(stored) || stored.OAuth == nil || stored.OAuth.Intent.By != by {
		return Credential{}, fmt.Errorf("credential %q: %w", c.Name, ErrStale)
	}
	return c, nil
}

// Refreshed stores c, a login with new tokens, which has the ID of the stored one
// and a higher generation. It returns the credential as it is stored now; that
// may be by an earlier call which seemed to fail. The error wraps ErrStale if the
// stored generation is as high or higher: nothing newer is ever overwritten.
func (v *Vault) Refreshed(ctx context.Context, c Credential) (Credential, error) {
	c = c.with(func(o *OAuth) { o.Intent, o.Lost = Intent{}, "" })
	err := v.replace(ctx, c, func(stored Credential) bool { return stored.Generation < c.Generation })
	if !errors.Is(err, ErrStale) {
		return c, err
	}
	stored, getErr := v.Get(ctx, c.Name)
	if getErr == nil && stored.ID == c.ID && stored.Generation == c.Generation && stored.Secret.Reveal() == c.Secret.Reveal() {
		return stored, nil
	}
	return Credential{}, err
}

// Lose marks c, a login that Begin has returned, as one whose refresh token does
// not work any more, for that reason. Its tokens stay. The error is as that of
// Begin.
func (v *Vault) Lose(ctx context.Context, c Credential, reason string) (Credential, error) {
	by := c.OAuth.Intent.By
	c = c.with(func(o *OAuth) { o.Lost = reason })
	return c, v.replace(ctx, c, func(stored Credential) bool {
		return stored.Generation == c.Generation && stored.OAuth.Intent.By == by
	})
}

// with returns c, a login, with a change that leaves c alone.
func (c Credential) with(change func(*OAuth)) Credential {
	login := *c.OAuth
	change(&login)
	c.OAuth = &login
	return c
}

// replace stores c if it is the same login as is stored, and its state passes.
// Storages can't compare and swap, so nothing but the write comes after the look.
func (v *Vault) replace(ctx context.Context, c Credential, passes func(stored Credential) bool) error {
	sealed, err := v.seal(ctx, c)
	if err != nil {
		return err
	}
	stored, err := v.Get(ctx, c.Name)
	if err != nil {
		return err
	}
	if stored.ID != c.ID || stored.OAuth == nil || !passes(stored) {
		return fmt.Errorf("credential %q: %w", c.Name, ErrStale)
	}
	return v.store(ctx, c.Name, sealed)
}

// seal makes the record of a credential, which it checks: new tokens can be of
// any form.
func (v *Vault) seal(ctx context.Context, c Credential) ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("%w %q: %w", ErrInvalid, c.Name, err)
	}
	to, err := v.recipient(ctx)
	if err != nil {
		return nil, fmt.Errorf("credential %q: %w", c.Name, err)
	}
	sealed, err := seal(c, to)
	if err != nil {
		return nil, fmt.Errorf("credential %q: %w", c.Name, err)
	}
	return sealed, nil
}

func (v *Vault) store(ctx context.Context, name string, sealed []byte) error {
	if err := v.storage.Store(ctx, key(name), sealed); err != nil {
		return fmt.Errorf("credential %q: storing: %w", name, err)
	}
	return nil
}

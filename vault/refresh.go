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
	noted, err := v.replace(ctx, c, func(o *OAuth) { o.Intent = Intent{now.UTC(), c.Generation, by} })
	if err != nil {
		return Credential{}, err
	}
	// Where the storage's lock has failed, two can come this far. The later one
	// to write goes on.
	stored, err := v.Get(ctx, c.Name)
	if err != nil {
		return Credential{}, err
	}
	if stored.ID != c.ID || stored.Generation != c.Generation || stored.OAuth == nil || stored.OAuth.Intent.By != by {
		return Credential{}, fmt.Errorf("credential %q: %w", c.Name, ErrStale)
	}
	return noted, nil
}

// Refreshed stores the new tokens of c, a login that was refreshed from the
// generation that c has. The ID is kept, the generation is the next one. It
// returns the credential as it is stored now; that may be by an earlier call
// which seemed to fail. The error wraps ErrStale if the stored generation is
// another one: nothing newer is ever overwritten.
func (v *Vault) Refreshed(ctx context.Context, c Credential) (Credential, error) {
	stored, err := v.Get(ctx, c.Name)
	if err != nil {
		return Credential{}, err
	}
	if stored.ID == c.ID && stored.Generation == c.Generation+1 && stored.Secret.Reveal() == c.Secret.Reveal() {
		return stored, nil
	}
	if err := same(stored, c); err != nil {
		return Credential{}, err
	}
	tokens := *c.OAuth
	tokens.Intent, tokens.Lost = Intent{}, ""
	c.Generation, c.OAuth = c.Generation+1, &tokens
	return c, v.store(ctx, c)
}

// Lose marks c, a login, as one whose refresh token does not work any more, for
// that reason. Its tokens stay. The error is as that of Begin.
func (v *Vault) Lose(ctx context.Context, c Credential, reason string) (Credential, error) {
	return v.replace(ctx, c, func(o *OAuth) { o.Lost = reason })
}

// replace changes the stored record of c, if it is still that of c.
func (v *Vault) replace(ctx context.Context, c Credential, change func(*OAuth)) (Credential, error) {
	stored, err := v.Get(ctx, c.Name)
	if err != nil {
		return Credential{}, err
	}
	if err := same(stored, c); err != nil {
		return Credential{}, err
	}
	changed := *stored.OAuth
	change(&changed)
	stored.OAuth = &changed
	return stored, v.store(ctx, stored)
}

// same reports whether the stored record holds the tokens of c.
func same(stored, c Credential) error {
	if stored.ID != c.ID || stored.Generation != c.Generation || stored.OAuth == nil {
		return fmt.Errorf("credential %q: %w", c.Name, ErrStale)
	}
	return nil
}

// store writes the record of a credential that was checked when it was read, but
// may have new tokens since.
func (v *Vault) store(ctx context.Context, c Credential) error {
	if err := c.check(); err != nil {
		return fmt.Errorf("%w %q: %w", ErrInvalid, c.Name, err)
	}
	to, err := v.recipient(ctx)
	if err != nil {
		return fmt.Errorf("credential %q: %w", c.Name, err)
	}
	sealed, err := seal(c, to)
	if err != nil {
		return fmt.Errorf("credential %q: %w", c.Name, err)
	}
	if err := v.storage.Store(ctx, key(c.Name), sealed); err != nil {
		return fmt.Errorf("credential %q: storing: %w", c.Name, err)
	}
	return nil
}

package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/credentialpool/caddy-credential-pool/vault"
)

// vaultTime bounds what a look at the vault waits for a storage that hangs.
const vaultTime = 10 * time.Second

// errInlineMember is returned for a change of the credential of a member whose
// secret stands in the config.
var errInlineMember = errors.New("the member's secret is given in the config, and not in the vault; change it there")

// errEarlierChange is returned for a change of a credential if an earlier one
// hangs in the storage.
var errEarlierChange = fmt.Errorf("%w to an earlier change of the same credential; this one was not made", errStorageSilent)

// look arms members whose credential was put, replaced or removed since the
// last look. What a storage that hangs can't say now is left for a later one.
func (a *App) look(ctx context.Context) {
	_, err := a.looking.call(ctx, vaultTime, func(ctx context.Context) (struct{}, error) {
		for _, sp := range a.pools {
			for i, name := range sp.names {
				if !sp.isInline(name) {
					a.lookAt(ctx, sp, i)
				}
			}
		}
		_ = a.lookAtPhantoms(ctx) // it has logged what is wrong
		return struct{}{}, nil
	})
	switch {
	case ctx.Err() != nil: // the config is at its end
	case err != nil && !a.blind:
		a.logger.Warn("the vault can't be looked at; credentials in memory go on serving", zap.Error(err))
	case err == nil && a.blind:
		a.logger.Info("the vault can be looked at again")
	}
	a.blind = err != nil
}

// lookAt looks at one member's credential. What can't be read now but could
// before stays as it was.
func (a *App) lookAt(ctx context.Context, sp *servedPool, position int) {
	name := sp.shared.name + "/" + sp.names[position]
	seen := &sp.seen[position]
	seen.mu.Lock()
	defer seen.mu.Unlock()
	now := time.Now()
	stamp, err := a.vault.Stamp(ctx, name)
	if err == nil && stamp == seen.stamp {
		seen.trouble = ""
		return
	}
	var c vault.Credential
	if err == nil {
		c, err = a.vault.Get(ctx, name)
	}
	meaning := "a member has no usable credential and is left out until it is put"
	switch {
	case err == nil:
		if seen.stamp = stamp; !stamp.Settled(now) {
			seen.stamp = vault.Stamp{} // so that it is read once more
		}
		if a := sp.armed[position].Load(); a != nil && a.identity == c.ID && a.generation > c.Generation {
			sp.refresher.app.process.unstored.add(a.login) // somebody who was late has overwritten it
		}
		err = sp.take(position, c)
	case sp.armed[position].Load() != nil && !aboutRecord(err):
		meaning = "a member's credential can't be looked at; the one in memory goes on serving"
	default:
		seen.stamp = vault.Stamp{}
		sp.disarm(position, err.Error())
	}
	a.logTrouble(seen, meaning, name, err)
}

// logTrouble logs what is wrong with a member's credential, once.
func (a *App) logTrouble(seen *look, meaning, name string, err error) {
	trouble := ""
	if err != nil {
		trouble = err.Error()
	}
	if trouble != "" && trouble != seen.trouble {
		a.logger.Warn(meaning, zap.String("credential", name), zap.String("reason", trouble))
	}
	seen.trouble = trouble
}

// aboutRecord reports whether the error is about the record, and not about the
// storage.
func aboutRecord(err error) bool {
	for _, about := range []error{vault.ErrNotFound, vault.ErrCorrupt, vault.ErrForeign, vault.ErrWrongIdentity, vault.ErrNoIdentity, vault.ErrInvalid} {
		if errors.Is(err, about) {
			return true
		}
	}
	return false
}

// tryCredential reports whether a credential of that name could be put now.
func (a *App) tryCredential(ctx context.Context, name string) error {
	if sp, position := a.seat(name); sp != nil && sp.isInline(sp.names[position]) {
		return errInlineMember
	}
	_, err := changing(ctx, a, name, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, a.vault.Try(ctx, name)
	})
	return err
}

// putCredential puts a credential in the vault, and into use.
func (a *App) putCredential(ctx context.Context, c vault.Credential) (vault.Info, error) {
	sp, position := a.seat(c.Name)
	if sp != nil && sp.isInline(sp.names[position]) {
		return vault.Info{}, errInlineMember
	}
	return changing(ctx, a, c.Name, func(ctx context.Context) (vault.Info, error) {
		info, err := a.vault.Put(ctx, c)
		if err == nil && sp != nil {
			sp.reload(ctx, a, position)
		}
		return info, err
	})
}

// deleteCredential removes a credential from the vault, and from use.
func (a *App) deleteCredential(ctx context.Context, name string) error {
	_, err := changing(ctx, a, name, func(ctx context.Context) (struct{}, error) {
		if err := a.vault.Delete(ctx, name); err != nil {
			return struct{}{}, err
		}
		if sp, position := a.seat(name); sp != nil && !sp.isInline(sp.names[position]) {
			sp.reload(ctx, a, position)
		}
		return struct{}{}, nil
	})
	return err
}

// changing makes one change of a record after the other, so that one which hangs
// is not finished after a later one, also if that is of another config: then the
// later one is not made, and the operator is told so.
func changing[T any](ctx context.Context, a *App, name string, change func(context.Context) (T, error)) (T, error) {
	var none T
	waiting, cancel := context.WithTimeout(ctx, vaultTime)
	defer cancel()
	release, err := a.process.changes.take(waiting, a.record(name))
	if err != nil {
		return none, fmt.Errorf("credential %q: %w", name, errEarlierChange)
	}
	return within(ctx, vaultTime, func(ctx context.Context) (T, error) {
		defer release()
		return change(ctx)
	})
}

// record names a record and, as far as that is known, its storage: an old
// config's may be another one.
func (a *App) record(name string) string {
	if s, ok := a.storage.(fmt.Stringer); ok {
		return s.String() + "\n" + name
	}
	return fmt.Sprintf("%T\n%s", a.storage, name)
}

// listCredentials returns what may be shown of all credentials.
func (a *App) listCredentials(ctx context.Context) ([]vault.Info, error) {
	return within(ctx, vaultTime, a.vault.List)
}

// reload looks at a member's credential whatever its stamp says: two puts can
// fall into the same tick of the storage's clock.
func (sp *servedPool) reload(ctx context.Context, a *App, position int) {
	seen := &sp.seen[position]
	seen.mu.Lock()
	seen.stamp = vault.Stamp{}
	seen.mu.Unlock()
	a.lookAt(ctx, sp, position)
}

// seat returns where the credential of that name sits; nil if no pool has a
// seat for it.
func (a *App) seat(name string) (*servedPool, int) {
	poolName, member, _ := strings.Cut(name, "/")
	if sp, ok := a.pools[poolName]; ok {
		for i, n := range sp.names {
			if n == member {
				return sp, i
			}
		}
	}
	return nil, 0
}

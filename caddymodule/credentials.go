package caddymodule

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/credentialpool/caddy-credential-pool/vault"
)

// vaultTime bounds what a look at the vault waits for a storage that hangs.
const vaultTime = 10 * time.Second

// errInlineMember is returned for a put on a member whose secret stands in the
// config.
var errInlineMember = errors.New("the member's secret is given in the config, which a credential in the vault can't replace")

// sync arms members whose credential was put, replaced or removed since the
// last look. What can't be read now but could before stays as it was.
func (a *App) sync(ctx context.Context, missing func(member, reason string)) {
	ctx, cancel := context.WithTimeout(ctx, vaultTime)
	defer cancel()
	for _, sp := range a.pools {
		for i, name := range sp.names {
			if !sp.isInline(name) {
				a.syncMember(ctx, sp, i, missing)
			}
		}
	}
}

// syncMember looks at one member's credential.
func (a *App) syncMember(ctx context.Context, sp *servedPool, position int, missing func(member, reason string)) {
	name := sp.shared.name + "/" + sp.names[position]
	sp.looking.Lock()
	defer sp.looking.Unlock()
	stamp, err := a.vault.Stamp(ctx, name)
	if err == nil && stamp == sp.stamps[position] {
		return
	}
	var c vault.Credential
	if err == nil {
		c, err = a.vault.Get(ctx, name)
	}
	switch {
	case err == nil:
		sp.stamps[position] = stamp
		sp.arm(position, c)
		if sp.armed[position].Load() != nil {
			return
		}
		err = errors.New("the credential lacks a field that inject needs")
	case sp.armed[position].Load() != nil && !aboutRecord(err):
		return // the storage fails; what is in memory goes on serving
	default:
		sp.stamps[position] = vault.Stamp{}
		sp.disarm(position, err.Error())
	}
	if missing != nil {
		missing(name, err.Error())
	}
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

func (a *App) logMissing(member, reason string) {
	a.logger.Warn("a member has no usable credential and is left out until it is put",
		zap.String("credential", member), zap.String("reason", reason))
}

// putCredential puts a credential in the vault, and into use.
func (a *App) putCredential(ctx context.Context, c vault.Credential) (vault.Info, error) {
	sp, position := a.seat(c.Name)
	if sp != nil && sp.isInline(sp.names[position]) {
		return vault.Info{}, errInlineMember
	}
	info, err := a.vault.Put(ctx, c.Name, c)
	if err != nil {
		return vault.Info{}, err
	}
	if sp != nil {
		sp.reload(ctx, a, position)
	}
	return info, nil
}

// deleteCredential removes a credential from the vault, and from use.
func (a *App) deleteCredential(ctx context.Context, name string) error {
	if err := a.vault.Delete(ctx, name); err != nil {
		return err
	}
	if sp, position := a.seat(name); sp != nil && !sp.isInline(sp.names[position]) {
		sp.reload(ctx, a, position)
	}
	return nil
}

// reload looks at a member's credential whatever its stamp says: two puts can
// fall into the same tick of the storage's clock.
func (sp *servedPool) reload(ctx context.Context, a *App, position int) {
	sp.looking.Lock()
	sp.stamps[position] = vault.Stamp{}
	sp.looking.Unlock()
	a.syncMember(ctx, sp, position, a.logMissing)
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

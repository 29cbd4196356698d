package caddymodule

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/vault"
)

// refresh is one refresh of a login. A refresh token may work only once, so the
// order of its steps matters: lock, read again, note the intent, ask, store, use.
type refresh struct {
	*login
	*refresher

	// tell ends the wait of those who want a token.
	tell func()
}

// run refreshes the tokens of a.
func (r *refresh) run(a *armed) {
	defer r.ended()
	defer r.tell()
	unlock, err := r.lock(r.name())
	if err != nil {
		r.failed(&refusal{reason: "storage", cause: err})
		return
	}
	defer unlock()
	c, ok := r.begin(a)
	if !ok {
		return
	}
	next, refused := grant(r.client, r.pool.provider, c)
	switch {
	case refused == nil:
		r.keep(next)
	case refused.meaning == pool.AuthFailed:
		r.giveUp(c, refused)
	default:
		r.failed(refused)
	}
}

// begin reads the record again and notes the intent in it. It reports false if
// there is nothing to ask for: somebody else has been at it, or the storage does
// not take what would be answered.
func (r *refresh) begin(a *armed) (vault.Credential, bool) {
	c, err := r.read(r.ctx, r.name())
	switch {
	case isGone(err):
		return c, false // the next look finds out
	case err != nil:
		r.failed(&refusal{reason: "storage", cause: err})
		return c, false
	case c.ID != a.identity || c.OAuth == nil:
		return c, false // the next look finds out
	case c.Generation > a.generation || c.OAuth.Lost != "":
		r.adopt(c)
		return c, false
	case r.isBegun(c):
		return c, false
	}
	c, err = r.change(r.ctx, func(ctx context.Context) (vault.Credential, error) {
		return r.vault.Begin(ctx, c, time.Now(), r.by)
	})
	if err != nil && !isGone(err) {
		r.failed(&refusal{reason: "storage", cause: err})
	}
	return c, err == nil
}

// adopt uses what another instance has stored.
func (r *refresh) adopt(c vault.Credential) {
	if r.pool.take(r.position, c) == nil {
		r.succeeded()
	}
}

// isBegun reports whether another process may still be at it: it has noted an
// intent, and then lost its lock, as one does that is stopped for a while. What
// has ended in between leaves an intent behind that grows old; then the refresh
// token is tried once more.
func (r *refresh) isBegun(c vault.Credential) bool {
	intent := c.OAuth.Intent
	if intent.IsZero() || intent.By == r.by || intent.Generation != c.Generation {
		return false
	}
	age := time.Since(intent.Time)
	if age < -intentTime || age >= intentTime { // before: a clock is wrong
		r.logger.Warn("a refresh was begun by a process that did not come to its end; trying the refresh token once more", r.fields()...)
		return false
	}
	r.holdOff(min(intentTime-age, intentTime))
	return true
}

// keep stores new tokens and brings them into use. They can't be got again, so
// the storage is asked until it takes them; those who wait for a token are not
// made to wait for that.
func (r *refresh) keep(next vault.Credential) {
	stored, err := r.insist(func(ctx context.Context) (vault.Credential, error) {
		return r.vault.Refreshed(ctx, next)
	}, func(err error) {
		r.logger.Error("the refreshed tokens of a login can't be stored; it is tried until it works, but if Caddy ends before that, it must log in again",
			r.fields(zap.Error(err))...)
		early := next
		early.Generation++
		_ = r.pool.take(r.position, early)
		r.tell()
	})
	if isGone(err) {
		r.logger.Warn("the tokens of a login were refreshed, but somebody else has replaced it meanwhile", r.fields()...)
		if c, err := r.read(context.Background(), r.name()); err == nil {
			r.adopt(c)
		}
		return
	}
	if err != nil {
		r.failed(&refusal{reason: "no_token", cause: err})
		return
	}
	r.succeeded()
	if err := r.pool.take(r.position, stored); err != nil {
		return
	}
	r.tell()
	r.tellRefreshed(stored)
}

// giveUp takes the word of the token endpoint that the login is lost, unless the
// storage shows that somebody else has refreshed it.
func (r *refresh) giveUp(c vault.Credential, refused *refusal) {
	stored, err := r.read(context.Background(), r.name())
	switch {
	case isGone(err):
		return
	case err != nil:
		r.failed(&refusal{reason: "storage", cause: err})
		return
	case stored.ID != c.ID || stored.OAuth == nil:
		return
	case stored.Generation != c.Generation:
		r.adopt(stored)
		return
	case stored.OAuth.Intent.By != r.by:
		r.holdOff(refreshFirstWait)
		return
	}
	r.lose(c, refused.reason)
	r.tellFailed(refused)
	_ = r.pool.take(r.position, c)
	r.tell()
	_, err = r.insist(func(ctx context.Context) (vault.Credential, error) {
		return r.vault.Lose(ctx, c, refused.reason)
	}, func(err error) {
		r.logger.Error("it can't be stored that a login is lost; it is tried until it works", r.fields(zap.Error(err))...)
	})
	if err != nil && !isGone(err) {
		r.logger.Error("it can't be stored that a login is lost", r.fields(zap.Error(err))...)
	}
}

// failed puts the next attempt off. Nobody is blamed: the token that is there
// may be good for a while.
func (r *refresh) failed(refused *refusal) {
	if r.ctx.Err() != nil {
		return // the next config goes on
	}
	first := r.postpone(refused.wait)
	fields := r.fields(zap.String("reason", refused.reason), zap.NamedError("error", refused.cause))
	r.logger.Warn("a login can't be refreshed at the moment", fields...)
	if first {
		r.tellFailed(refused)
	}
}

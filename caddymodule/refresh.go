package caddymodule

import (
	"context"
	"errors"
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
	why occasion

	// tell ends the wait of those who want a token.
	tell func()
}

// run refreshes the tokens of a.
func (r *refresh) run(a *armed) {
	defer r.ended()
	defer r.tell()
	asked, unlock, err := r.lock(r.name(), a.identity)
	if err != nil {
		r.failed(&refusal{reason: "storage", cause: err})
		return
	}
	defer unlock()
	defer asked()
	c, next := r.begin(a)
	if next == grantTokens {
		tokens, refused := grant(r.client, r.pool.provider, c)
		asked()
		r.settle(c, tokens, refused)
		return
	}
	asked()
	if next == storeTokens {
		r.keep(c)
	}
}

// settle uses what the token endpoint has answered about c.
func (r *refresh) settle(c, tokens vault.Credential, refused *refusal) {
	switch {
	case refused == nil:
		r.keep(tokens)
	case refused.meaning == pool.AuthFailed:
		r.giveUp(c, refused)
	default:
		r.failed(refused)
	}
}

// What is to be done about a login that was read again.
type step int

const (
	leaveTokens step = iota // nothing: somebody else has been at it, or the storage does not take what would be answered
	storeTokens             // it is behind those in memory
	grantTokens
)

// begin reads the record again, says what to do about it, and notes the intent in
// it.
func (r *refresh) begin(a *armed) (vault.Credential, step) {
	unstored := &r.app.process.unstored
	c, err := r.read(r.ctx, r.name())
	switch {
	case err != nil && !isGone(err):
		r.failed(&refusal{reason: "storage", cause: err})
		return c, leaveTokens
	case err != nil || c.ID != a.identity || c.OAuth == nil:
		unstored.settle(a.identity, a.generation)
		return c, leaveTokens // the next look finds out
	case c.Generation < a.generation:
		unstored.add(a.login) // the record was overwritten by somebody who was late
	}
	if newer, ok := unstored.newer(c.ID, c.Generation); ok {
		return newer, storeTokens
	}
	unstored.settle(c.ID, c.Generation)
	switch {
	case c.Generation > a.generation || c.OAuth.Lost != "":
		r.adopt(c)
		return c, leaveTokens
	case r.why == behind || r.isBegun(c):
		return c, leaveTokens
	}
	c, err = changing(r.ctx, r.app, r.name(), func(ctx context.Context) (vault.Credential, error) {
		return r.app.vault.Begin(ctx, c, time.Now(), r.app.process.id)
	})
	if err != nil {
		if !isGone(err) {
			r.failed(&refusal{reason: "storage", cause: err})
		}
		return c, leaveTokens
	}
	return c, grantTokens
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
	if intent.IsZero() || intent.By == r.app.process.id || intent.Generation != c.Generation {
		return false
	}
	age := time.Since(intent.Time)
	if age < -intentTime || age >= intentTime { // before: a clock is wrong
		r.app.logger.Warn("a refresh was begun by a process that did not come to its end; trying the refresh token once more", r.fields()...)
		return false
	}
	r.holdOff(min(intentTime-age, intentTime))
	return true
}

// keep stores new tokens and brings them into use. They can't be got again, so
// the storage is asked until it takes them; those who wait for a token are not
// made to wait for that.
func (r *refresh) keep(next vault.Credential) {
	unstored := &r.app.process.unstored
	stored, err := r.insist(r.name(), func(ctx context.Context) (vault.Credential, error) {
		return r.app.vault.Refreshed(ctx, next)
	}, func(err error) {
		r.app.logger.Error("the refreshed tokens of a login can't be stored; it is tried until it works, but if Caddy ends before that, it must log in again",
			r.fields(zap.Error(err))...)
		unstored.add(next)
		_ = r.pool.take(r.position, next)
		r.tell()
	})
	if errors.Is(err, errHandedOver) {
		return
	}
	unstored.settle(next.ID, next.Generation)
	if isGone(err) {
		r.app.logger.Warn("the tokens of a login were refreshed, but somebody else has replaced it meanwhile", r.fields()...)
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
	r.count(refreshDone)
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
	case stored.OAuth.Intent.By != r.app.process.id:
		r.holdOff(refreshFirstWait)
		return
	}
	r.lose(c, refused.reason)
	r.count(refreshLost)
	r.tellFailed(refused)
	_ = r.pool.take(r.position, c)
	r.tell()
	_, err = r.insist(r.name(), func(ctx context.Context) (vault.Credential, error) {
		return r.app.vault.Lose(ctx, c, refused.reason)
	}, func(err error) {
		r.app.logger.Error("it can't be stored that a login is lost; it is tried until it works", r.fields(zap.Error(err))...)
	})
	if err != nil && !isGone(err) {
		r.app.logger.Error("it can't be stored that a login is lost", r.fields(zap.Error(err))...)
	}
}

// failed puts the next attempt off. Nobody is blamed: the token that is there
// may be good for a while.
func (r *refresh) failed(refused *refusal) {
	if r.ctx.Err() != nil {
		return // the next config goes on
	}
	r.count(refreshFailed)
	first := r.postpone(refused.wait)
	fields := r.fields(zap.String("reason", refused.reason), zap.NamedError("error", refused.cause))
	r.app.logger.Warn("a login can't be refreshed at the moment", fields...)
	if first {
		r.tellFailed(refused)
	}
}

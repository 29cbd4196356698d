package caddymodule

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/credentialpool/caddy-credential-pool/vault"
)

const (
	// refreshAhead is how long before its end a token is refreshed, and
	// refreshJitter what is added at random, so that the logins and instances
	// that began together don't ask together.
	refreshAhead  = 5 * time.Minute
	refreshJitter = time.Minute

	// refreshPause is the least time from one refresh of a login to the next one
	// that is made because its tokens are rejected. It is doubled for each failure
	// of the account in a row: others may be rejected, too.
	refreshPause    = 30 * time.Second
	refreshMaxPause = time.Hour

	// refreshWait bounds what a request waits for a token.
	refreshWait = 10 * time.Second
)

// What is waited after a refresh that failed.
const (
	refreshFirstWait = 5 * time.Second
	refreshMaxWait   = 5 * time.Minute

	// refreshMaxAsked bounds what a token endpoint may say about it.
	refreshMaxAsked = 15 * time.Minute
)

// login is the refreshing of one member's login. A member with a key has one,
// too, that does nothing.
type login struct {
	pool     *servedPool
	position int

	mu       sync.Mutex
	underWay chan struct{} // of the refresh that is made now; closed when tokens can be had
	identity string        // of the login that the following is about
	waits    *backoff.ExponentialBackOff
	notUntil time.Time // after a failure
	lost     uint64    // generation whose refresh token does not work any more
	reason   string    // why
}

func (l *login) name() string { return l.pool.shared.name + "/" + l.pool.names[l.position] }

// armed returns what is in use now; nil if the member has no usable credential.
func (l *login) armed() *armed { return l.pool.armed[l.position].Load() }

// dueAt returns when the tokens are to be refreshed: ahead of their end, but not
// before three quarters of their time are over. It is zero for never.
func dueAt(c vault.Credential) time.Time {
	o := c.OAuth
	if o.RefreshToken.IsZero() || o.ExpiresAt.IsZero() {
		return time.Time{}
	}
	since := o.RefreshedAt
	if since.IsZero() {
		since = c.Updated
	}
	//nolint:gosec // nobody gains from guessing it
	ahead := min(refreshAhead+rand.N(refreshJitter), max(0, o.ExpiresAt.Sub(since)/4))
	return o.ExpiresAt.Add(-ahead)
}

// isDue reports whether it is time to refresh ahead.
func (l *login) isDue(now time.Time) bool {
	a := l.armed()
	return a != nil && !a.due.IsZero() && !now.Before(a.due)
}

// Why a login is to be refreshed.
type occasion int

const (
	nearEnd  occasion = iota // of the tokens
	rejected                 // they were, by the API
	behind                   // the record is, and no new ones are needed
)

// await returns tokens other than those of a, if a refresh is under way, or may
// be made, and brings them in time; else what there is.
func (l *login) await(ctx context.Context, a *armed, why occasion) *armed {
	if now := l.armed(); now == nil || !now.same(a) {
		return now // it was refreshed since
	}
	done := l.refresh(time.Now(), a, why)
	if done == nil {
		return l.armed()
	}
	timer := time.NewTimer(refreshWait)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	case <-ctx.Done():
	}
	return l.armed()
}

// refresh sees to it that the tokens of a are refreshed, and returns what is
// closed when that has come to its end. It returns nil if they can't be, or not
// now: another attempt has just failed, or a token that was rejected is so new
// that a newer one would be rejected, too.
func (l *login) refresh(now time.Time, a *armed, why occasion) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.underWay != nil {
		return l.underWay
	}
	l.about(a.identity)
	if !a.refreshable || now.Before(l.notUntil) || (why == rejected && now.Sub(a.refreshed) < l.pause()) {
		return nil
	}
	done := make(chan struct{})
	r := &refresh{login: l, refresher: l.pool.refresher, why: why, tell: sync.OnceFunc(func() { close(done) })}
	l.underWay = done
	if !r.start(func() { r.run(a) }) {
		l.underWay = nil
		return nil
	}
	return done
}

// pause returns for how long new tokens that are rejected are not refreshed.
func (l *login) pause() time.Duration {
	pause := refreshPause
	for range l.pool.Failures(l.pool.names[l.position]) {
		if pause *= 2; pause >= refreshMaxPause {
			return refreshMaxPause
		}
	}
	return pause
}

// outdates reports whether the tokens of a, which were rejected, are no longer
// used, or won't be for long.
func (l *login) outdates(now time.Time, a *armed) bool {
	if present := l.armed(); present == nil || !present.same(a) {
		return true
	}
	return l.refresh(now, a, rejected) != nil
}

// about forgets what is known about another login than that one.
func (l *login) about(identity string) {
	if l.identity != identity {
		l.identity, l.waits, l.notUntil, l.lost, l.reason = identity, nil, time.Time{}, 0, ""
	}
}

// ended lets the next refresh be made.
func (l *login) ended() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.underWay = nil
}

// postpone puts the next attempt off after a failure, for at least that long. It
// reports whether it is the first failure in a row.
func (l *login) postpone(least time.Duration) (first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if first = l.waits == nil; first {
		l.waits = backoff.NewExponentialBackOff()
		l.waits.InitialInterval, l.waits.MaxInterval, l.waits.Multiplier = refreshFirstWait, refreshMaxWait, 2
	}
	l.notUntil = time.Now().Add(max(min(least, refreshMaxAsked), l.waits.NextBackOff()))
	return first
}

// holdOff puts the next attempt off without a failure.
func (l *login) holdOff(wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.notUntil = time.Now().Add(wait)
}

// succeeded ends the row of failures.
func (l *login) succeeded() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waits, l.notUntil, l.lost, l.reason = nil, time.Time{}, 0, ""
}

// lose notes that the refresh token of c does not work any more, in case the
// storage does not take the mark.
func (l *login) lose(c vault.Credential, reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.about(c.ID)
	l.lost, l.reason = c.Generation, reason
}

// lostReason returns why only a new login helps; empty if it is not so.
func (l *login) lostReason(c vault.Credential) string {
	if c.OAuth.Lost != "" {
		return c.OAuth.Lost
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.identity == c.ID && l.lost == c.Generation {
		return l.reason
	}
	return ""
}

// refreshLogins begins the refreshes whose time has come, and what is to be done
// about tokens that another config could not store.
func (a *App) refreshLogins() {
	now := time.Now()
	for _, sp := range a.pools {
		for i := range sp.logins {
			switch l := &sp.logins[i]; {
			case l.catchesUp():
				l.refresh(now, l.armed(), behind)
			case l.isDue(now):
				l.refresh(now, l.armed(), nearEnd)
			}
		}
	}
}

// catchesUp uses tokens that another config has got, and reports whether there
// are any to be stored.
func (l *login) catchesUp() bool {
	a := l.armed()
	if a == nil || !a.refreshable {
		return false
	}
	c, ok := l.pool.refresher.app.process.unstored.newer(a.identity, 0)
	if ok && c.Generation > a.generation {
		_ = l.pool.take(l.position, c)
	}
	return ok
}

// loginLostError is why a member is missing whose login can't be refreshed.
type loginLostError string

func (e loginLostError) Error() string { return "log in again (" + string(e) + ")" }

// take makes a record of the vault the member's credential, or says why it is of
// no use.
func (sp *servedPool) take(position int, c vault.Credential) error {
	if c.OAuth != nil {
		if newer, ok := sp.refresher.app.process.unstored.newer(c.ID, c.Generation); ok {
			c = newer
		}
		if reason := sp.logins[position].lostReason(c); reason != "" {
			err := loginLostError(reason)
			sp.disarm(position, err.Error())
			return err
		}
	}
	return sp.arm(position, c)
}

// isGone reports whether the error says that the record is another one now, or
// none.
func isGone(err error) bool {
	return errors.Is(err, vault.ErrNotFound) || errors.Is(err, vault.ErrStale)
}

// tellRefreshed tells that there are new tokens.
func (l *login) tellRefreshed(c vault.Credential) {
	l.pool.Refreshed(time.Now(), l.pool.names[l.position], c.OAuth.ExpiresAt)
}

// tellFailed tells that a refresh has failed.
func (l *login) tellFailed(r *refusal) {
	l.pool.RefreshFailed(time.Now(), l.pool.names[l.position], r.reason, r.meaning)
}

// count counts a refresh by how it has ended.
func (l *login) count(outcome string) {
	counters.refreshes.WithLabelValues(l.pool.shared.name, l.pool.names[l.position], outcome).Inc()
}

// fields are the login in a log line.
func (l *login) fields(more ...zap.Field) []zap.Field {
	return append([]zap.Field{zap.String("credential", l.name())}, more...)
}

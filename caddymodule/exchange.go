package caddymodule

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/pool/classify"
)

// exchange is one client's request on its way through a pool. It outlives a
// round trip: reverse_proxy may come back with the same request, and then the
// recorded body and the number of retries are still the request's.
type exchange struct {
	pool     *servedPool
	handler  *Handler
	recorder *recorder
	retries  int
	tried    []pool.Lease
	renewed  []string     // members whose login was refreshed for the request
	ended    bool         // the token in use had ended, and no other one came in time
	key      string       // what the request asks for; see scopeKey
	failed   pool.Verdict // that every attempt so far has met, if they have met the same

	ahead int64 // bytes of the budget of recordings for what was read ahead

	armed  *armed         // of the last attempt
	spent  []*armed       // of those before
	answer *http.Response // that was given back
}

type exchangeKey struct{}

func withExchange(ctx context.Context, x *exchange) context.Context {
	return context.WithValue(ctx, exchangeKey{}, x)
}

func exchangeFrom(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// close frees what the request has recorded. It is called before the server
// sends the trailers, which must not hold a credential either.
func (x *exchange) close(h http.Header) {
	if x.recorder != nil {
		x.recorder.close()
	}
	recordings.release(x.ahead)
	if x.answer != nil && len(x.answer.Trailer) > 0 {
		x.removeSecrets(h)
	}
}

// holds reports whether text holds a credential of one of the attempts.
func (x *exchange) holds(text string) bool {
	return x.armed.in(text) || slices.ContainsFunc(x.spent, func(a *armed) bool { return a.in(text) })
}

// removeSecrets removes every header that holds a credential.
func (x *exchange) removeSecrets(h http.Header) {
	for name, values := range h {
		if slices.ContainsFunc(values, x.holds) {
			delete(h, name)
		}
	}
}

// errCredentialInError stands for an error whose text holds the credential.
var errCredentialInError = errors.New("the request to the upstream failed; the reason is withheld because it holds the credential")

// errNoCredential is returned if credentials are removed one after the other
// while a request looks for one.
var errNoCredential = errors.New("the members' credentials were removed while the request was made")

// roundTrip sends the request with the active member's credential, and again
// with another member's if the answer blames the first and the body can be
// replayed.
func (x *exchange) roundTrip(req *http.Request, next http.RoundTripper) (*http.Response, error) {
	now := time.Now()
	if x.key == "" {
		x.key = x.pool.scopeKey(req)
	}
	x.record(req, x.readModel(req, now))
	lease, a, err := x.first(req.Context(), now)
	if err != nil {
		return nil, err
	}
	if a == nil {
		return x.refusal(req, now), nil
	}
	x.armed = a
	body, err := x.body()
	if err != nil {
		return nil, err
	}
	for {
		res, hints, err := x.attempt(req, next, body)
		if err != nil {
			if x.holds(err.Error()) {
				err = errCredentialInError
			}
			return nil, err
		}
		res, v := x.judge(res)
		x.pool.metrics.observe(lease.Position(), v.Meaning)
		if a := x.renew(req.Context(), lease, res.StatusCode, v); a != nil {
			if again, err := x.body(); err == nil {
				discard(res)
				x.spent, x.armed, body = append(x.spent, x.armed), a, again
				continue
			}
			v = pool.Verdict{} // it is about tokens that are no longer used
		}
		if v.Meaning == pool.AuthFailed && x.armed.refreshable && req.Context().Err() != nil {
			v = pool.Verdict{} // the client has left before it was known whether new tokens help
		}
		x.report(lease, v)
		if v.Meaning.Benches() && !v.Served && res.StatusCode < 500 {
			if l, again, ok := x.again(req.Context(), lease); ok {
				discard(res)
				lease, body = l, again
				continue
			}
		}
		if events := x.watchEvents(res.StatusCode, res.Header, lease); events != nil && !v.Meaning.Benches() {
			res.Body = &watchedBody{res.Body, events}
		}
		x.giveBack(req, res, hints)
		return res, nil
	}
}

// first returns the lease for the first attempt of a round trip. Without an
// error and without a credential the request is to be refused here: nobody is
// left, or nobody that was not tried, if reverse_proxy comes back with a request
// that every member has refused.
func (x *exchange) first(ctx context.Context, now time.Time) (pool.Lease, *armed, error) {
	for range 3 + len(x.pool.names) { // a login can turn out to be lost
		if x.handler.refuses(x.pool.Check(now, x.key)) {
			return pool.Lease{}, nil, nil
		}
		lease, err := x.pool.Acquire(now, x.key)
		if err != nil || lease.Among(x.tried) {
			return pool.Lease{}, nil, nil
		}
		if a := x.pool.arms(ctx, now, lease); a != nil {
			x.ended = a.expired(now)
			return lease, a, nil
		}
	}
	return pool.Lease{}, nil, errNoCredential
}

// renew returns new tokens for a login that was rejected, so that the member is
// tried once more before it is blamed; nil if there are none, or there have been
// some for this request already.
func (x *exchange) renew(ctx context.Context, lease pool.Lease, status int, v pool.Verdict) *armed {
	if v.Meaning != pool.AuthFailed || v.Served || status >= 500 || !x.armed.refreshable || slices.Contains(x.renewed, lease.Member()) {
		return nil
	}
	x.renewed = append(x.renewed, lease.Member())
	l := &x.pool.logins[lease.Position()]
	a := l.armed()
	if !x.ended { // else it was waited for already
		a = l.await(ctx, x.armed, rejected)
	}
	if a == nil || a.identity != x.armed.identity || a.same(x.armed) {
		return nil
	}
	return a
}

// again returns a lease and the request's body for a further attempt, if there
// may be one. The body is taken last: that of the attempt before can't be read
// any more then.
func (x *exchange) again(ctx context.Context, failed pool.Lease) (lease pool.Lease, body io.ReadCloser, ok bool) {
	x.tried = append(x.tried, failed)
	if x.retries >= x.handler.retries() {
		return lease, nil, false
	}
	now := time.Now()
	lease, ok = x.pool.AcquireOther(now, x.key, x.tried)
	if !ok {
		return lease, nil, false
	}
	a := x.pool.arms(ctx, now, lease)
	if a == nil {
		return lease, nil, false
	}
	x.ended = a.expired(now)
	body, err := x.body()
	if err != nil { // it has outgrown the recording
		return lease, nil, false
	}
	x.spent, x.armed = append(x.spent, x.armed), a
	x.retries++
	x.pool.metrics.retried()
	return lease, body, true
}

// report says on the lease what came of an attempt. That every member fails in
// the same way may be because of the request, or our address, unless the answer
// speaks of an account's quota.
func (x *exchange) report(lease pool.Lease, v pool.Verdict) {
	if v.Scope == pool.ScopeModel {
		lease = lease.For(x.modelOf())
		if !v.Served && !v.Covers(x.key) {
			// The next request like this would meet the member again. For how long
			// the whole member is out the answer does not say.
			v.Scope, v.Key, v.Wait = pool.ScopeMember, "", 0
		}
	}
	same := x.failed.Meaning == v.Meaning && x.failed.Reason == v.Reason
	switch {
	case len(x.tried) == 0:
		x.failed = v
	case !same:
		x.failed = pool.Verdict{}
	default:
		v.Repeated = v.Meaning == pool.RateLimited || v.Meaning == pool.AuthFailed
	}
	lease.Report(time.Now(), v)
}

// record makes the request's body replayable. A body without an end in sight,
// as an upgrade's, does not come here: reverse_proxy sends those without one. What
// was read of it already comes first.
func (x *exchange) record(req *http.Request, start []byte) {
	if x.recorder != nil || req.Body == nil || req.Body == http.NoBody {
		return
	}
	limit := x.handler.replayLimit()
	if req.ContentLength > limit {
		limit = 0 // it would be recorded in vain
	}
	body := io.Reader(req.Body)
	if len(start) > 0 {
		body = io.MultiReader(bytes.NewReader(start), body)
	}
	x.recorder = newRecorder(body, limit, recordings)
}

// body returns the request's body for an attempt; nil if there is none.
func (x *exchange) body() (io.ReadCloser, error) {
	if x.recorder == nil {
		return nil, nil
	}
	return x.recorder.attempt()
}

// attempt makes one round trip with the member's credential. Interim answers
// (1xx) are held back in hints until it is known that the attempt is given
// back.
func (x *exchange) attempt(req *http.Request, next http.RoundTripper, body io.ReadCloser) (*http.Response, *interim, error) {
	hints, clients := newInterim(req.Context()), x.handler.clients
	out := req.WithContext(hints)
	out.Header = x.pool.outgoingHeader(req.Header, x.armed, clients)
	out.URL = x.pool.outgoingURL(req.URL, x.armed, clients)
	out.GetBody = nil // net/http would replay the request on its own
	if body != nil {
		out.Body = body
		x.pool.cleanTrailer(out, clients)
	}
	res, err := next.RoundTrip(out)
	return res, hints, err
}

// judge says what the answer means for the member. The answer that it returns
// takes the place of the one given.
func (x *exchange) judge(res *http.Response) (*http.Response, pool.Verdict) {
	answer := classify.Answer{Status: res.StatusCode, Header: res.Header, Now: time.Now()}
	switch {
	case x.pool.provider.NeedsBody(res.StatusCode, res.Header):
		res, answer.Body = peek(res, peekBytes, peekTime, nil)
	case x.pool.provider.NeedsEvents(res.StatusCode, res.Header):
		// The header is the client's while the peek may still be reading.
		res, answer.Body = peek(res, peekBytes, peekTime, firstEvent(res.Header["Content-Encoding"]))
	}
	return res, x.pool.provider.Classify(answer)
}

// giveBack makes the answer the client's.
func (x *exchange) giveBack(req *http.Request, res *http.Response, hints *interim) {
	if x.recorder != nil {
		x.recorder.stop()
	}
	x.answer = res
	res.Request = req // the attempt's own holds the credential
	x.removeSecrets(res.Header)
	if x.holds(res.Status) {
		res.Status = strconv.Itoa(res.StatusCode) + " " + http.StatusText(res.StatusCode)
	}
	if res.StatusCode == http.StatusTooManyRequests {
		x.pool.addRetryAfter(res.Header, x.key)
	}
	hints.forward(x.removeSecrets)
}

package caddymodule

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strconv"
	"sync"
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
}

type exchangeKey struct{}

func withExchange(ctx context.Context, x *exchange) context.Context {
	return context.WithValue(ctx, exchangeKey{}, x)
}

func exchangeFrom(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// close frees what the request has recorded.
func (x *exchange) close() {
	if x.recorder != nil {
		x.recorder.close()
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
	lease, a, err := x.first(time.Now())
	if err != nil {
		return nil, err
	}
	if a == nil {
		return x.refusal(req), nil
	}
	if err := x.record(req); err != nil {
		return nil, err
	}
	for {
		res, hints, err := x.attempt(req, next, a)
		if err != nil {
			if a.in(err.Error()) {
				err = errCredentialInError
			}
			return nil, err
		}
		res, v := x.judge(res)
		lease.Report(time.Now(), v)
		x.pool.metrics.observe(lease.Position(), v.Meaning)
		if v.Meaning.Benches() && !v.Served && res.StatusCode < 500 {
			if l, other := x.again(lease); other != nil {
				discard(res)
				lease, a = l, other
				continue
			}
		}
		x.giveBack(req, res, a, hints)
		return res, nil
	}
}

// first returns the lease for the first attempt of a round trip. Without an
// error and without a credential the request is to be refused here: nobody is
// left, or nobody that was not tried, if reverse_proxy comes back with a request
// that every member has refused.
func (x *exchange) first(now time.Time) (pool.Lease, *armed, error) {
	for range 3 {
		lease, err := x.pool.Acquire(now)
		if err != nil || !x.handler.maySend(lease) || x.hasTried(lease) {
			return pool.Lease{}, nil, nil
		}
		if a := x.pool.arms(lease); a != nil {
			return lease, a, nil
		}
	}
	return pool.Lease{}, nil, errNoCredential
}

// hasTried reports whether the member that the lease is for has refused the
// request.
func (x *exchange) hasTried(lease pool.Lease) bool {
	return slices.ContainsFunc(x.tried, func(l pool.Lease) bool {
		return l.Member() == lease.Member() && l.Identity() == lease.Identity()
	})
}

// again returns a lease for a further attempt, if there may be one.
func (x *exchange) again(failed pool.Lease) (pool.Lease, *armed) {
	x.tried = append(x.tried, failed)
	if x.retries >= x.handler.retries() || (x.recorder != nil && !x.recorder.replayable()) {
		return pool.Lease{}, nil
	}
	lease, ok := x.pool.AcquireOther(time.Now(), x.tried)
	if !ok {
		return pool.Lease{}, nil
	}
	a := x.pool.arms(lease)
	if a == nil {
		return pool.Lease{}, nil
	}
	x.retries++
	x.pool.metrics.retried()
	return lease, a
}

// record makes the request's body replayable. A body without an end in sight,
// as an upgrade's, does not come here: reverse_proxy sends those without one.
func (x *exchange) record(req *http.Request) error {
	if x.recorder != nil || req.Body == nil || req.Body == http.NoBody {
		return nil
	}
	limit := x.handler.replayLimit()
	if req.ContentLength > limit {
		limit = 0 // it would be recorded in vain
	}
	x.recorder = newRecorder(req.Body, limit, recordings)
	return nil
}

// attempt makes one round trip with the member's credential. Interim answers
// (1xx) are held back in hints until it is known that the attempt is given
// back.
func (x *exchange) attempt(req *http.Request, next http.RoundTripper, a *armed) (*http.Response, *interim, error) {
	hints := &interim{outer: httptrace.ContextClientTrace(req.Context()), secrets: a}
	hints.trace.Got1xxResponse = hints.got
	out := req.WithContext(&attemptContext{req.Context(), &hints.trace})
	out.Header = x.pool.outgoingHeader(req.Header, a, x.handler.clients)
	out.URL = outgoingURL(req.URL, x.handler.clients)
	out.GetBody = nil // net/http would replay the request on its own
	if x.recorder != nil {
		body, err := x.recorder.attempt()
		if err != nil {
			return nil, nil, err
		}
		out.Body = body
	}
	res, err := next.RoundTrip(out)
	return res, hints, err
}

// judge says what the answer means for the member. The answer that it returns
// takes the place of the one given.
func (x *exchange) judge(res *http.Response) (*http.Response, pool.Verdict) {
	answer := classify.Answer{Status: res.StatusCode, Header: res.Header, Now: time.Now()}
	if x.pool.provider.NeedsBody(res.StatusCode, res.Header) {
		res, answer.Body = peek(res, peekBytes, peekTime)
	}
	return res, x.pool.provider.Classify(answer)
}

// giveBack makes the answer the client's.
func (x *exchange) giveBack(req *http.Request, res *http.Response, a *armed, hints *interim) {
	if x.recorder != nil {
		x.recorder.stop()
	}
	res.Request = req // the attempt's own holds the credential
	removeSecrets(res.Header, a)
	if res.StatusCode == http.StatusTooManyRequests {
		x.pool.addRetryAfter(res.Header)
	}
	hints.forward()
}

// removeSecrets removes every header that holds the credential.
func removeSecrets(h http.Header, a *armed) {
	for name, values := range h {
		if slices.ContainsFunc(values, a.in) {
			delete(h, name)
		}
	}
}

// addRetryAfter says when an exhausted pool serves again, if nothing else does.
func (sp *servedPool) addRetryAfter(h http.Header) {
	if h.Get("Retry-After") != "" {
		return
	}
	now := time.Now()
	if _, more := sp.AcquireOther(now, nil); more {
		return
	}
	if out := sp.Outlook(now); out.First != "" {
		h.Set("Retry-After", waitSeconds(out.Until.Sub(now)))
	}
}

// waitSeconds is a wait in whole seconds, at least one (RFC 9110, section
// 10.2.3).
func waitSeconds(wait time.Duration) string {
	return strconv.Itoa(max(1, int(math.Ceil(wait.Seconds()))))
}

// refusal is the answer of an exhausted pool of which nothing goes upstream.
func (x *exchange) refusal(req *http.Request) *http.Response {
	status, header, e := x.pool.refusal(time.Now())
	body := e.json()
	header.Set("Content-Type", "application/json")
	return &http.Response{
		Status:        strconv.Itoa(status) + " " + http.StatusText(status),
		StatusCode:    status,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        header,
		Body:          io.NopCloser(bytes.NewReader(body)),
		ContentLength: int64(len(body)),
		Request:       req,
	}
}

// refusal is what an exhausted pool says: 429 if members come back by waiting,
// 503 if none does.
func (sp *servedPool) refusal(now time.Time) (status int, h http.Header, e localError) {
	out := sp.Outlook(now)
	h = make(http.Header)
	e = localError{Type: "pool_exhausted", Message: "no account of the pool " + strconv.Quote(sp.Name()) + " is available at the moment"}
	status = http.StatusTooManyRequests
	if out.NeedsOperator {
		status = http.StatusServiceUnavailable
		e.Message = "no account of the pool " + strconv.Quote(sp.Name()) + " has a credential that works"
	}
	if out.First != "" && !out.NeedsOperator {
		h.Set("Retry-After", waitSeconds(out.Until.Sub(now)))
	}
	return status, h, e
}

// localError is the JSON of an answer that is ours and not the upstream's.
type localError struct {
	Type    string `json:"type"`
	Message string `json:"message"`
}

func (e localError) json() []byte {
	b, err := json.Marshal(map[string]localError{"error": e})
	if err != nil { // two strings
		panic(err)
	}
	return append(b, '\n')
}

// attemptContext hides the trace of the server's side: its hooks would be
// given the header that holds the credential.
type attemptContext struct {
	context.Context
	trace *httptrace.ClientTrace
}

// Value returns our trace in place of the other one, whose key is net/http's
// own.
func (c *attemptContext) Value(key any) any {
	v := c.Context.Value(key)
	if _, ok := v.(*httptrace.ClientTrace); ok {
		return c.trace
	}
	return v
}

// maxInterim bounds how many interim answers of one attempt are held.
const maxInterim = 16

// interim holds the 1xx answers of one attempt back until the attempt is given
// back to the client.
type interim struct {
	trace   httptrace.ClientTrace
	outer   *httptrace.ClientTrace
	secrets *armed

	mu   sync.Mutex
	held []interimAnswer
}

type interimAnswer struct {
	code   int
	header textproto.MIMEHeader
}

func (i *interim) got(code int, header textproto.MIMEHeader) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.held) < maxInterim {
		i.held = append(i.held, interimAnswer{code, header})
	}
	return nil
}

func (i *interim) forward() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.outer == nil || i.outer.Got1xxResponse == nil {
		return
	}
	for _, a := range i.held {
		removeSecrets(http.Header(a.header), i.secrets)
		if i.outer.Got1xxResponse(a.code, a.header) != nil {
			return
		}
	}
}

package caddymodule

import (
	"io"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/pool/classify"
)

// watcher judges the answer of the next handler as it passes. It holds nothing
// back.
type watcher struct {
	*caddyhttp.ResponseWriterWrapper
	exchange *exchange
	lease    pool.Lease

	status  int
	header  http.Header // of an answer whose body decides
	body    []byte
	judging bool // body is being collected
	events  *eventWatch
}

// WriteHeader judges an answer that its status decides.
func (w *watcher) WriteHeader(status int) {
	w.exchange.removeSecrets(w.Header())
	if w.status != 0 || (status < 200 && status != http.StatusSwitchingProtocols) {
		w.ResponseWriter.WriteHeader(status)
		return
	}
	w.status = status
	if w.exchange.pool.provider.NeedsBody(status, w.Header()) {
		w.judging, w.header = true, w.Header().Clone()
	} else {
		w.report(w.Header(), nil)
		w.events = w.exchange.watchEvents(status, w.Header(), w.lease)
	}
	if status == http.StatusTooManyRequests {
		w.exchange.pool.addRetryAfter(w.Header(), w.exchange.key)
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write collects the start of a body that decides.
func (w *watcher) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.judging {
		w.body = append(w.body, p[:min(len(p), peekBytes-len(w.body))]...)
		if len(w.body) == peekBytes {
			w.judge()
		}
	}
	w.events.pass(p)
	return w.ResponseWriter.Write(p)
}

// ReadFrom lets a body that decides nothing take the short way.
func (w *watcher) ReadFrom(r io.Reader) (int64, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.judging || w.events != nil {
		return io.Copy(struct{ io.Writer }{w}, r)
	}
	return w.ResponseWriterWrapper.ReadFrom(r)
}

// FlushError sends the header like a Write does, but not past us.
func (w *watcher) FlushError() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// finish judges what was collected, when there is no more of it. It is called
// before the server sends the trailers, which must not hold a credential.
func (w *watcher) finish() {
	w.exchange.removeSecrets(w.Header())
	w.judge()
}

func (w *watcher) judge() {
	if w.judging {
		w.judging = false
		w.report(w.header, decode(w.body, w.header["Content-Encoding"], peekBytes))
		w.body, w.header = nil, nil
	}
}

func (w *watcher) report(h http.Header, body []byte) {
	now := time.Now()
	x := w.exchange
	v := x.pool.provider.Classify(classify.Answer{Status: w.status, Header: h, Body: body, Now: now})
	x.pool.metrics.observe(w.lease.Position(), v.Meaning)
	if v.Meaning == pool.AuthFailed && !v.Served && x.pool.logins[w.lease.Position()].outdates(now, x.armed) {
		return // the next request has another token, and that one's answer counts
	}
	x.report(w.lease, v)
}

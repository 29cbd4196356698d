package caddymodule

import (
	"crypto/sha256"
	"crypto/subtle"
	"io"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/pool/classify"
)

// tokenWatcher judges what the real token endpoint answers to a client that
// refreshes a member's own login, as it passes. No client should have that refresh
// token, but one may: it is the program that the login was imported from. Only
// that token proves whose request it is, so nobody is blamed for any other.
type tokenWatcher struct {
	*caddyhttp.ResponseWriterWrapper
	login  *login
	armed  *armed
	lease  pool.Lease
	logger *zap.Logger

	status int
	header http.Header
	body   []byte // its start
}

// watchToken returns the watcher for a request that refreshes that token; nil if
// it is not the refresh token of one of the pool's members.
func (h *TokenHandler) watchToken(w http.ResponseWriter, token string) *tokenWatcher {
	if token == "" {
		return nil
	}
	sum := sha256.Sum256([]byte(token))
	var found *tokenWatcher
	for i := range h.pool.armed {
		a := h.pool.armed[i].Load()
		if a == nil || !a.refreshable || subtle.ConstantTimeCompare(sum[:], a.refreshHash[:]) == 0 {
			continue
		}
		if lease, ok := h.pool.AcquireMember(time.Now(), h.pool.names[i], a.identity); ok {
			found = &tokenWatcher{
				ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
				login:                 &h.pool.logins[i], armed: a, lease: lease, logger: h.logger,
			}
		}
	}
	return found
}

// WriteHeader keeps the header of the final answer.
func (w *tokenWatcher) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status, w.header = status, w.Header().Clone()
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write keeps the start of the body.
func (w *tokenWatcher) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.body = append(w.body, p[:min(len(p), peekBytes-len(w.body))]...)
	return w.ResponseWriter.Write(p)
}

// ReadFrom does not let the body go past Write.
func (w *tokenWatcher) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{w}, r)
}

// finish judges the answer when it has passed. A limit benches the member. That
// the token is refused says little, since the client may be another one than the
// token was given to, but then the vault's own refresh finds out. A success is the
// worst: where refresh tokens work once, the vault's is now used up. To use it all
// the same would show, and cost the client its login, too; so nothing is done
// before the access token ends.
func (w *tokenWatcher) finish() {
	if w.status == 0 {
		return // the endpoint has not answered
	}
	now := time.Now()
	v := w.login.pool.provider.Classify(classify.Answer{
		Endpoint: classify.EndpointToken, Status: w.status, Header: w.header, Now: now,
		Body: decode(w.body, w.header["Content-Encoding"], peekBytes),
	})
	switch {
	case v.Meaning == pool.AuthFailed:
		w.logger.Warn("a client has sent the refresh token of a member to the token endpoint, which has refused it; refreshing the login",
			w.login.fields(zap.String("reason", v.Reason))...)
		_ = w.login.outdates(now, w.armed)
	case v.Meaning.Benches():
		w.lease.Report(now, v)
	case v.Meaning == pool.OK && w.status < 300:
		w.logger.Error("a client has refreshed the login of a member past the vault, whose refresh token may be used up now; take the login away from that client and put it again",
			w.login.fields()...)
	}
}

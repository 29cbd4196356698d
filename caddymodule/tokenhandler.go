package caddymodule

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func init() {
	caddy.RegisterModule(TokenHandler{})
}

// phantomLifetime is how long a client is told that its tokens last, in seconds.
// They last longer, but there are clients that set a timer, and those of
// JavaScript hold 24 days.
const phantomLifetime = 24 * 60 * 60

// TokenHandler is the token endpoint for clients that hold a pool's phantom
// tokens in place of a login.
//
// It answers the refresh (RFC 6749, section 6) of the pool's phantom refresh
// token, as a form or as JSON, with the same phantom tokens again, and refuses
// phantoms of another pool and revoked ones. A phantom in any other request, such
// as a revocation or a token exchange, is refused, too: the real endpoint never
// gets one. No real login is touched. Everything else, such as a login with a
// device code or an authorization code, or the refresh of a real token, goes on as
// it came: to `proxy`, or else to the next handler. What that answers to the
// refresh of a member's own login is judged as it passes.
type TokenHandler struct {
	// The name of the pool, as in the `credential_pool` app. Required.
	Pool string `json:"pool"`

	// A reverse proxy to the real token endpoint, with the options of the
	// `reverse_proxy` handler. Default: the next handler.
	Proxy *reverseproxy.Handler `json:"proxy,omitempty"`

	app    *App
	pool   *servedPool
	logger *zap.Logger

	proxying bool // the proxy is provisioned
}

// CaddyModule returns the Caddy module information.
func (TokenHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.credential_pool_token",
		New: func() caddy.Module { return new(TokenHandler) },
	}
}

// Provision sets up the handler.
func (h *TokenHandler) Provision(ctx caddy.Context) error {
	app, err := ctx.App("credential_pool")
	if err != nil {
		return fmt.Errorf("loading the credential_pool app: %w", err)
	}
	h.app, h.logger = app.(*App), ctx.Logger()
	if h.pool, err = h.app.served(h.Pool); err != nil {
		return err
	}
	if err := h.app.canHavePhantoms(); err != nil {
		return fmt.Errorf("credential_pool_token %s: %w", h.Pool, err)
	}
	if h.Proxy == nil {
		return nil
	}
	if !hasUpstream(h.Proxy) {
		return errors.New("proxy: no upstream is given")
	}
	if err := h.Proxy.Provision(ctx); err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	h.proxying = true
	return nil
}

// Cleanup ends what the proxy has started.
func (h *TokenHandler) Cleanup() error { return cleanUpProxy(h.Proxy, h.proxying) }

// ServeHTTP implements [caddyhttp.MiddlewareHandler].
func (h *TokenHandler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	t := readTokenRequest(r)
	switch {
	case looksLikePhantom(t.refresh):
		h.answer(w, r, t)
		return nil
	case t.phantom:
		writeToken(w, http.StatusBadRequest, tokenError{"invalid_request", "a phantom token is of use only here, in a refresh of that token alone; the real endpoint does not get it"})
		return nil
	}
	if watch := h.watchToken(w, t.refresh); watch != nil {
		// Also when the proxy panics, as it does when an answer is cut.
		defer watch.finish()
		w = watch
	}
	if h.Proxy != nil {
		return h.Proxy.ServeHTTP(w, r, next)
	}
	return next.ServeHTTP(w, r)
}

// tokenAnswer is a successful answer of a token endpoint (RFC 6749, section
// 5.1).
type tokenAnswer struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int    `json:"expires_in"`
	RefreshToken string `json:"refresh_token"`
	Scope        string `json:"scope,omitempty"`
	IDToken      string `json:"id_token,omitempty"`
}

// tokenError is an answer of a token endpoint that refuses (RFC 6749, section
// 5.2).
type tokenError struct {
	Error       string `json:"error"`
	Description string `json:"error_description"`
}

// answer answers the refresh of a phantom.
func (h *TokenHandler) answer(w http.ResponseWriter, r *http.Request, t tokenRequest) {
	p, err := h.app.phantomsWith(r.Context(), h.pool, func(p *phantomTokens) bool { return p.refreshes(t.refresh) })
	switch {
	case err != nil: // it may well be ours: a client must not lose its login over that
		w.Header().Set("Retry-After", keyRetryAfter)
		writeToken(w, http.StatusServiceUnavailable, tokenError{"temporarily_unavailable", "the key of the phantom tokens is not there, or can't be read at the moment"})
		return
	case p == nil:
		writeToken(w, http.StatusBadRequest, tokenError{"invalid_grant", "this token is another pool's, or was revoked; ask for a new one"})
		return
	}
	answer := tokenAnswer{
		AccessToken: p.access, TokenType: "Bearer", ExpiresIn: phantomLifetime,
		RefreshToken: p.refresh, Scope: t.scope,
	}
	if t.wantsIDToken() {
		answer.IDToken = p.id
	}
	writeToken(w, http.StatusOK, answer)
}

// refreshes reports whether the token is the phantom refresh token.
func (p *phantomTokens) refreshes(token string) bool {
	sum := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(sum[:], p.refreshHash[:]) == 1
}

func writeToken(w http.ResponseWriter, status int, answer any) {
	body, err := json.Marshal(answer)
	if err != nil { // strings and a number
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Pragma", "no-cache")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}

// parseTokenHandler sets up the handler from Caddyfile tokens. Syntax:
//
//	credential_pool_token [<matcher>] <pool> [<upstreams…>] {
//	    # with an upstream, any subdirective of reverse_proxy
//	}
func parseTokenHandler(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h.Next() // the directive's name
	d := h.NewFromNextSegment()
	d.Next()
	if !d.NextArg() {
		return nil, d.ArgErr()
	}
	handler := &TokenHandler{Pool: d.Val()}
	if err := checkName("pool", handler.Pool); err != nil {
		return nil, d.WrapErr(err)
	}
	d.Delete()
	if !d.NextArg() && !d.NextBlock(0) {
		return handler, nil
	}
	d.Reset()
	handler.Proxy = new(reverseproxy.Handler)
	if err := handler.Proxy.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	if !hasUpstream(handler.Proxy) {
		return nil, d.Err("credential_pool_token has no words of its own: those of reverse_proxy need an upstream")
	}
	return handler, handler.Proxy.FinalizeUnmarshalCaddyfile(h)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*TokenHandler)(nil)
	_ caddy.CleanerUpper          = (*TokenHandler)(nil)
	_ caddyhttp.MiddlewareHandler = (*TokenHandler)(nil)
)

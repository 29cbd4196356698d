package caddymodule

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

func init() {
	caddy.RegisterModule(Handler{})
}

// Defaults of a Handler.
const (
	defaultRetries     = 3
	defaultReplayLimit = 10 << 20
)

// What a Handler does when its pool is exhausted.
const (
	onExhaustedServe  = "serve"
	onExhaustedReject = "reject"
)

// Handler lets a request through with the credential of a pool's active member.
//
// A client shows a token of its own, its stand-in for the real credential, in
// `Authorization: Bearer` or in the header that the pool writes. With `proxy`
// the handler is a reverse proxy that retries a refused request with the next
// member before the client sees the answer. Without it, the handler sets
// `Authorization` for whatever handler follows, watches the answer, and fails
// over for the next request.
type Handler struct {
	// The name of the pool, as in the `credential_pool` app. Required.
	Pool string `json:"pool"`

	// Who may use the pool. Either this or `allow_any_client` is required.
	Clients []Client `json:"clients,omitempty"`

	// Let any client in. For networks that are closed already. Default: false.
	AllowAnyClient bool `json:"allow_any_client,omitempty"`

	// How many further members a refused request is tried with. Default: 3.
	Retries *int `json:"retries,omitempty"`

	// Up to how many bytes of a request's body are recorded, so that it can be
	// sent again. A larger body is streamed, and an answer that refuses it goes
	// to the client. Default: 10 MiB. All requests together record at most
	// 256 MiB.
	ReplayLimit *int64 `json:"replay_limit,omitempty"`

	// What happens while no member is ready or parked. `serve` tries the member
	// that is back first, and the upstream's own answer goes to the client.
	// `reject` sends nothing upstream and answers 429 with `Retry-After`, or 503
	// if waiting does not help. Default: `serve`.
	OnExhausted string `json:"on_exhausted,omitempty"`

	// The reverse proxy, with the options of the `reverse_proxy` handler. Its
	// transport must be `http`, or absent.
	Proxy *reverseproxy.Handler `json:"proxy,omitempty"`

	app     *App
	pool    *servedPool
	clients map[string]client        // those with a token of their own
	phantom string                   // the name of the one with the pool's phantom
	fixed   []*reverseproxy.Upstream // those whose address the config says

	proxying bool // the proxy is provisioned
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.credential_pool",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision sets up the handler.
func (h *Handler) Provision(ctx caddy.Context) error {
	app, err := ctx.App("credential_pool")
	if err != nil {
		return fmt.Errorf("loading the credential_pool app: %w", err)
	}
	h.app = app.(*App)
	if h.pool, err = h.app.served(h.Pool); err != nil {
		return err
	}
	if err := h.provisionClients(); err != nil {
		return fmt.Errorf("credential_pool %s: %w", h.Pool, err)
	}
	if h.OnExhausted == "" {
		h.OnExhausted = onExhaustedServe
	}
	if h.Proxy == nil {
		return h.pool.checkAuthorizationOnly()
	}
	if err := h.replaceTransport(); err != nil {
		return err
	}
	if err := h.Proxy.Provision(ctx); err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	h.proxying = true
	return nil
}

// Validate checks the options.
func (h *Handler) Validate() error {
	if h.OnExhausted != "" && h.OnExhausted != onExhaustedServe && h.OnExhausted != onExhaustedReject {
		return fmt.Errorf("on_exhausted: %q is neither serve nor reject", h.OnExhausted)
	}
	if h.Retries != nil && *h.Retries < 0 {
		return fmt.Errorf("retries: %d is negative", *h.Retries)
	}
	if h.ReplayLimit != nil && *h.ReplayLimit < 0 {
		return fmt.Errorf("replay_limit: %d is negative", *h.ReplayLimit)
	}
	if err := h.validateClients(); err != nil {
		return err
	}
	if h.Proxy == nil && (h.Retries != nil || h.ReplayLimit != nil) {
		return errors.New("retries and replay_limit need an upstream on credential_pool itself: without one, nothing is retried")
	}
	return nil
}

// Cleanup ends what the proxy has started.
func (h *Handler) Cleanup() error { return cleanUpProxy(h.Proxy, h.proxying) }

// cleanUpProxy cleans up a proxy, if there is one. One whose Provision has failed
// before it came to its upstreams, which it takes all at once, is left alone: it
// would give back those that another config holds.
func cleanUpProxy(p *reverseproxy.Handler, provisioned bool) error {
	if provisioned || (p != nil && len(p.Upstreams) > 0 && p.Upstreams[0].Host != nil) {
		return p.Cleanup()
	}
	return nil
}

// hasUpstream reports whether the proxy's config says where to.
func hasUpstream(p *reverseproxy.Handler) bool {
	return len(p.Upstreams) > 0 || p.DynamicUpstreamsRaw != nil
}

// replaceTransport makes the proxy use ours. That is done in its configuration:
// once it is provisioned, its health checks use the transport that it has.
func (h *Handler) replaceTransport() error {
	if !hasUpstream(h.Proxy) {
		return errors.New("proxy: no upstream is given")
	}
	dynamic := h.Proxy.DynamicUpstreamsRaw != nil
	for _, u := range h.Proxy.Upstreams {
		if strings.Contains(u.Dial, "{") {
			dynamic = true
		} else {
			h.fixed = append(h.fixed, u)
		}
	}
	if dynamic && len(h.pool.hosts) == 0 {
		return fmt.Errorf("proxy: an upstream is dynamic, or its address holds a placeholder: a credential goes only to hosts that the config names; name them with hosts in pool %s", h.Pool)
	}
	config := make(map[string]json.RawMessage)
	if h.Proxy.TransportRaw != nil {
		if err := json.Unmarshal(h.Proxy.TransportRaw, &config); err != nil {
			return fmt.Errorf("proxy: transport: %w", err)
		}
	}
	for _, option := range []string{"network_proxy", "forward_proxy_url"} {
		if requestPlaceholder.Match(config[option]) {
			return fmt.Errorf("proxy: transport: %s holds a placeholder of the request: a credential goes only to where the config says", option)
		}
	}
	if protocol, ok := config["protocol"]; ok && !bytes.Equal(protocol, []byte(`"http"`)) && !bytes.Equal(protocol, []byte(`"credential_pool"`)) {
		return fmt.Errorf("proxy: transport %s can't carry a credential; only http can", protocol)
	}
	config["protocol"] = json.RawMessage(`"credential_pool"`)
	raw, err := json.Marshal(config)
	if err != nil {
		return fmt.Errorf("proxy: transport: %w", err)
	}
	h.Proxy.TransportRaw = raw
	return nil
}

// requestPlaceholder is one that the client has a say in.
var requestPlaceholder = regexp.MustCompile(`\{http\.`)

// isUpstream reports whether the request goes to one of the handler's upstreams,
// or to one of the pool's hosts. One that doesn't may be another proxy's, which
// has borrowed the request's context.
func (h *Handler) isUpstream(ctx context.Context) bool {
	info, ok := reverseproxy.GetDialInfo(ctx)
	if !ok || slices.Contains(h.fixed, info.Upstream) {
		return ok
	}
	return slices.ContainsFunc(h.pool.hosts, func(p hostPattern) bool { return p.matches(info.Host) })
}

func (h *Handler) retries() int {
	if h.Retries != nil {
		return *h.Retries
	}
	return defaultRetries
}

func (h *Handler) replayLimit() int64 {
	if h.ReplayLimit != nil {
		return *h.ReplayLimit
	}
	return defaultReplayLimit
}

// ServeHTTP implements [caddyhttp.MiddlewareHandler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if refused := h.refuse(w, r); refused {
		return nil
	}
	if h.Proxy == nil {
		return h.serveNext(w, r, next)
	}
	x := &exchange{pool: h.pool, handler: h}
	defer func() { x.close(w.Header()) }()
	return h.Proxy.ServeHTTP(w, r.WithContext(withExchange(r.Context(), x)), next)
}

// refuse answers requests that may not use the pool, or can't, before a byte of
// the body is read. It reports whether it did.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request) bool {
	if !allowedMethod(r) {
		w.Header().Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
		writeError(w, r, http.StatusMethodNotAllowed, localError{"method_not_allowed", "TRACE, CONNECT and upgrades other than WebSocket are not let through"})
		return true
	}
	if !h.AllowAnyClient {
		switch known, err := h.knows(r); {
		case err != nil:
			w.Header().Set("Retry-After", keyRetryAfter)
			writeError(w, r, http.StatusServiceUnavailable, localError{"temporarily_unavailable", "the key of the phantom tokens is not there, or can't be read at the moment"})
			return true
		case !known:
			w.Header().Set("WWW-Authenticate", `Bearer realm="credential_pool"`)
			writeError(w, r, http.StatusUnauthorized, localError{"unauthorized", "a client token of this pool is required"})
			return true
		}
	}
	now := time.Now()
	if h.refuses(h.pool.Check(now, "")) {
		h.pool.writeRefusal(w, r, now, "")
		return true
	}
	return false
}

// refuses reports whether the handler answers by itself where the pool's Check
// says that. A lease is not asked for: it would take the turn of a member that is
// to be tested.
func (h *Handler) refuses(err error) bool {
	return err != nil && (h.OnExhausted == onExhaustedReject || !errors.Is(err, pool.ErrExhausted))
}

// allowedMethod reports whether the method may reach an upstream with a
// credential. TRACE would echo it. A CONNECT passes only as an extended one for
// a WebSocket (RFC 8441, RFC 9220).
func allowedMethod(r *http.Request) bool {
	switch strings.ToUpper(r.Method) { // an upstream may not care about case
	case http.MethodTrace:
		return false
	case http.MethodConnect:
		return r.Header.Get(":protocol") == "websocket" || (r.ProtoMajor == 3 && r.Proto == "websocket")
	}
	upgrade := r.Header.Get("Upgrade")
	return upgrade == "" || strings.EqualFold(strings.TrimSpace(upgrade), "websocket")
}

// serveNext sets the active member's credential for the next handler and
// watches what it answers.
func (h *Handler) serveNext(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	x := &exchange{pool: h.pool, handler: h, key: h.pool.scopeKey(r)}
	now := time.Now()
	lease, a, err := x.first(r.Context(), now)
	if err != nil {
		return caddyhttp.Error(http.StatusServiceUnavailable, err)
	}
	if a == nil {
		h.pool.writeRefusal(w, r, now, x.key)
		return nil
	}
	out := new(http.Request)
	*out = *r
	header := r.Header.Clone()
	cutConnection(header)
	out.Header = h.pool.outgoingHeader(header, a, h.clients)
	for _, v := range a.headers {
		// What follows may change a value in its place, which is the pool's.
		out.Header[v.name] = slices.Clone(out.Header[v.name])
	}
	out.URL = h.pool.outgoingURL(r.URL, a, h.clients)
	h.pool.cleanTrailer(out, h.clients)
	x.armed = a
	watch := &watcher{ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, exchange: x, lease: lease}
	// Also when the next handler panics, as reverse_proxy does when a body is cut.
	defer watch.finish()
	return next.ServeHTTP(watch, out)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)

package caddymodule

import (
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func init() {
	caddy.RegisterModule(Transport{})
}

// Transport is the HTTP transport of a `credential_pool` handler that proxies
// by itself. It puts the credential in, judges the answer, and tries the next
// member. It has the options of the `http` transport. There is no need to name
// it: the handler puts it in the place of its proxy's `http` transport.
type Transport struct {
	reverseproxy.HTTPTransport
}

// CaddyModule returns the Caddy module information.
func (Transport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport.credential_pool",
		New: func() caddy.Module { return new(Transport) },
	}
}

// errOutsideOfPool: without the handler there is no pool, and no client was
// checked.
var errOutsideOfPool = errors.New("the credential_pool transport works below the credential_pool handler only")

// errForeignUpstream: the address is not one of the handler that has checked the
// client.
var errForeignUpstream = errors.New("this upstream is not one of the credential_pool handler, which sends its credentials to no other")

// RoundTrip implements [http.RoundTripper]. A request that comes from no client
// is a health check's, and goes out without a credential.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if x := exchangeFrom(req.Context()); x != nil {
		if !x.handler.isUpstream(req.Context()) {
			return nil, errForeignUpstream
		}
		return x.roundTrip(req, &t.HTTPTransport)
	}
	// A health check's context descends from a server's, but has no variables.
	if req.Context().Value(caddyhttp.VarsCtxKey) != nil {
		return nil, errOutsideOfPool
	}
	return t.HTTPTransport.RoundTrip(req)
}

// Interface guards
var (
	_ caddy.Provisioner                      = (*Transport)(nil)
	_ caddy.CleanerUpper                     = (*Transport)(nil)
	_ http.RoundTripper                      = (*Transport)(nil)
	_ reverseproxy.TLSTransport              = (*Transport)(nil)
	_ reverseproxy.RequestHeaderOpsTransport = (*Transport)(nil)
)

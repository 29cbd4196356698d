package caddymodule

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// parseHandler sets up the handler from Caddyfile tokens. Syntax:
//
//	credential_pool [<matcher>] <pool> [<upstreams…>] {
//	    client           <name> <token>|phantom
//	    allow_any_client
//	    retries          <count>
//	    replay_limit     <size>
//	    on_exhausted     serve|reject
//
//	    # and, with an upstream, any subdirective of reverse_proxy
//	}
func parseHandler(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h.Next() // the directive's name

	// What is left of the segment once our own words are taken out is
	// reverse_proxy's.
	d := h.NewFromNextSegment()
	d.Next()
	if !d.NextArg() {
		return nil, d.ArgErr()
	}
	handler := &Handler{Pool: d.Val()}
	if err := checkName("pool", handler.Pool); err != nil {
		return nil, d.WrapErr(err)
	}
	d.Delete()
	upstreams := len(d.RemainingArgs()) > 0
	to, foreign, err := handler.takeWords(d)
	if err != nil {
		return nil, err
	}
	if upstreams || to {
		handler.Proxy = new(reverseproxy.Handler)
		foreign = nil
	}
	if foreign != nil {
		return nil, foreign
	}
	if handler.Proxy != nil {
		if err := handler.unmarshalProxy(d, h); err != nil {
			return nil, err
		}
	}
	if err := handler.Validate(); err != nil {
		return nil, h.Errf("credential_pool %s: %w", handler.Pool, err)
	}
	return handler, nil
}

// unmarshalProxy gives reverse_proxy what our own words have left.
func (h *Handler) unmarshalProxy(d *caddyfile.Dispenser, helper httpcaddyfile.Helper) error {
	d.Reset()
	if err := h.Proxy.UnmarshalCaddyfile(d); err != nil {
		if strings.Contains(err.Error(), "unrecognized subdirective") {
			err = fmt.Errorf("%w (neither reverse_proxy nor credential_pool has it; its own are %s)", err, handlerWords)
		}
		return err
	}
	return h.Proxy.FinalizeUnmarshalCaddyfile(helper)
}

// phantomWord stands for the pool's phantom access token. It is too short to be
// a token itself.
const phantomWord = "phantom"

const handlerWords = "client, allow_any_client, retries, replay_limit, on_exhausted"

// takeWords reads the handler's own words and deletes them. It reports whether
// one of them gives upstreams, for then reverse_proxy takes all others, and what
// to say of the first of those if nobody takes it.
func (h *Handler) takeWords(d *caddyfile.Dispenser) (to bool, foreign, err error) {
	for d.NextBlock(0) {
		if d.Nesting() != 1 {
			continue // inside of one of reverse_proxy's blocks
		}
		word := d.Val()
		own, err := h.takeWord(d, word)
		if err != nil {
			return false, nil, err
		}
		if own {
			continue
		}
		to = to || word == "to" || word == "dynamic"
		if foreign == nil {
			foreign = d.Errf("unknown word %s; known: %s (and, if credential_pool is given an upstream, those of reverse_proxy)", printable(word), handlerWords)
		}
		d.RemainingArgs()
	}
	return to, foreign, nil
}

// takeWord reads one of the handler's own words and deletes it. It reports
// whether it is one.
func (h *Handler) takeWord(d *caddyfile.Dispenser, word string) (bool, error) {
	want := 1
	switch word {
	case "client":
		want = 2
	case "allow_any_client":
		want = 0
	case "retries", "replay_limit", "on_exhausted":
	default:
		return false, nil
	}
	args := d.RemainingArgs()
	if len(args) != want {
		return true, d.Errf("%s wants %d argument(s), got %d", word, want, len(args))
	}
	if err := h.setWord(d, word, args); err != nil {
		return true, err
	}
	d.DeleteN(1 + len(args))
	return true, nil
}

func (h *Handler) setWord(d *caddyfile.Dispenser, word string, args []string) error {
	twice := false
	switch word {
	case "client":
		if err := checkName("client", args[0]); err != nil {
			return d.WrapErr(err)
		}
		c := Client{Name: args[0], Token: args[1]}
		if c.Token == phantomWord {
			c.Token, c.Phantom = "", true
		}
		h.Clients = append(h.Clients, c)
	case "allow_any_client":
		twice, h.AllowAnyClient = h.AllowAnyClient, true
	case "retries":
		n, err := strconv.Atoi(args[0])
		if err != nil || n < 0 {
			return d.Errf("retries: %q is not a count", args[0])
		}
		twice, h.Retries = h.Retries != nil, &n
	case "replay_limit":
		size, err := humanize.ParseBytes(args[0])
		if err != nil || size > 1<<40 {
			return d.Errf("replay_limit: %q is not a size such as 10MiB", args[0])
		}
		n := int64(size)
		twice, h.ReplayLimit = h.ReplayLimit != nil, &n
	case "on_exhausted":
		if args[0] != onExhaustedServe && args[0] != onExhaustedReject {
			return d.Errf("on_exhausted: %q is neither serve nor reject", args[0])
		}
		twice, h.OnExhausted = h.OnExhausted != "", args[0]
	}
	if twice {
		return d.Errf("%s is given twice", word)
	}
	return nil
}

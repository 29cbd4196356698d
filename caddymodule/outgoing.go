package caddymodule

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// carriesCredential reports whether a credential travels in that header by
// custom. A client's own must not reach the upstream beside the member's.
func carriesCredential(name string) bool {
	switch name {
	case "Authorization", "Proxy-Authorization", "X-Api-Key", "Api-Key", "X-Goog-Api-Key", "X-Auth-Token",
		"X-Access-Token", "X-Auth-Key", "X-Amz-Security-Token", "Private-Token", "Ocp-Apim-Subscription-Key":
		return true
	}
	return false
}

// strips reports whether a header of the client's is not for the upstream.
func (sp *servedPool) strips(name string) bool {
	return carriesCredential(name) || slices.Contains(sp.strip, name)
}

// outgoingHeader returns the header of the request as the upstream gets it:
// without any of the client's credentials, with the member's. The values are
// shared with in, and those of the member with all requests, so nobody may
// change them in place.
func (sp *servedPool) outgoingHeader(in http.Header, a *armed, clients map[string]client) http.Header {
	h := make(http.Header, len(in)+len(a.headers))
	for name, values := range in {
		if !sp.strips(name) && !holdToken(values, clients) {
			h[name] = slices.Clip(values)
		}
	}
	removeTokenCookies(h, clients)
	readableEncodings(h)
	for i := range a.headers {
		a.headers[i].set(h)
	}
	return h
}

// headerValue is a header that requests with a credential get.
type headerValue struct {
	name   string
	values []string // one
	add    bool     // to the client's comma-separated list
}

func (v *headerValue) set(h http.Header) {
	if !v.add || len(h[v.name]) == 0 {
		h[v.name] = v.values
		return
	}
	list := strings.Join(h[v.name], ", ")
	if !httpguts.HeaderValuesContainsToken(h[v.name], v.values[0]) {
		list += ", " + v.values[0]
	}
	h[v.name] = []string{list}
}

// cleanTrailer keeps the client's credentials out of the request's trailers, too.
// The server fills them in when the body has been read to its end.
func (sp *servedPool) cleanTrailer(out *http.Request, clients map[string]client) {
	if len(out.Trailer) == 0 {
		return
	}
	b := &trailedBody{ReadCloser: out.Body, from: out.Trailer, to: make(http.Header, len(out.Trailer)), clients: clients}
	for name := range out.Trailer {
		if !sp.strips(name) {
			b.to[name] = nil
		}
	}
	out.Body, out.Trailer = b, b.to
}

// trailedBody is a body that fills in the trailers that the upstream gets.
type trailedBody struct {
	io.ReadCloser
	from, to http.Header
	clients  map[string]client
}

func (b *trailedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		for name := range b.to {
			if b.to[name] = b.from[name]; holdToken(b.to[name], b.clients) {
				delete(b.to, name)
			}
		}
	}
	return n, err
}

// holdToken reports whether one of the values of a header is a client's token.
func holdToken(values []string, clients map[string]client) bool {
	for _, v := range values {
		if isToken(v, clients) {
			return true
		}
	}
	return false
}

// isToken reports whether the value is the token of one of the clients or any
// phantom, on its own or after one word such as Bearer.
func isToken(value string, clients map[string]client) bool {
	if len(value) < minSecret { // no token is as short
		return false
	}
	if _, ok := clients[value]; ok || looksLikePhantom(value) {
		return true
	}
	_, token, ok := strings.Cut(value, " ")
	if !ok {
		return false
	}
	token = strings.TrimSpace(token)
	_, ok = clients[token]
	return ok || looksLikePhantom(token)
}

func removeTokenCookies(h http.Header, clients map[string]client) {
	lines, ok := h["Cookie"]
	if !ok {
		return
	}
	var kept []string
	removed := false
	for _, line := range lines {
		for pair := range strings.SplitSeq(line, ";") {
			pair = strings.TrimSpace(pair)
			_, v, _ := strings.Cut(pair, "=")
			if isToken(strings.Trim(v, `"`), clients) {
				removed = true
			} else if pair != "" {
				kept = append(kept, pair)
			}
		}
	}
	if !removed {
		return
	}
	delete(h, "Cookie")
	if len(kept) > 0 {
		h["Cookie"] = []string{strings.Join(kept, "; ")}
	}
}

// outgoingURL returns the URL as the upstream gets it: without query values that
// are a client's token, and with the member's parameters in the place of the client's.
func (sp *servedPool) outgoingURL(u *url.URL, a *armed, clients map[string]client) *url.URL {
	query := sp.cleanQuery(u.RawQuery, clients)
	if a.query != "" {
		query = strings.TrimPrefix(query+"&"+a.query, "&")
	}
	if query == u.RawQuery {
		return u
	}
	c := *u
	c.RawQuery = query
	return &c
}

// cleanQuery removes parameters that are the pool's own, those in which the
// provider takes a credential, and tokens of clients. What is left is as it was.
func (sp *servedPool) cleanQuery(query string, clients map[string]client) string {
	if query == "" {
		return query
	}
	var kept []string
	for pair := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		name = unescaped(name)
		own := slices.ContainsFunc(sp.params, func(param string) bool { return strings.EqualFold(param, name) })
		if !own && !isToken(unescaped(value), clients) {
			kept = append(kept, pair)
		}
	}
	return strings.Join(kept, "&")
}

func unescaped(s string) string {
	if plain, err := url.QueryUnescape(s); err == nil {
		return plain
	}
	return s
}

// readableEncodings drops from Accept-Encoding what can't be decoded when an
// error's body has to be judged. An absent header stays absent; an emptied one
// becomes identity (RFC 9110, section 12.5.3).
func readableEncodings(h http.Header) {
	values, ok := h["Accept-Encoding"]
	if !ok {
		return
	}
	var kept []string
	for _, line := range values {
		for coding := range strings.SplitSeq(line, ",") {
			coding = strings.TrimSpace(coding)
			name, _, _ := strings.Cut(coding, ";")
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "gzip", "deflate", "zstd", "identity":
				kept = append(kept, coding)
			}
		}
	}
	if len(kept) == 0 {
		kept = append(kept, "identity")
	}
	h["Accept-Encoding"] = []string{strings.Join(kept, ", ")}
}

// cutConnection removes the headers that Connection names, and Connection
// itself down to an upgrade, so that a client can't have the injected header
// removed as one that is about the connection (RFC 9110, section 7.6.1).
func cutConnection(h http.Header) {
	upgrade := httpguts.HeaderValuesContainsToken(h["Connection"], "upgrade")
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = http.CanonicalHeaderKey(strings.TrimSpace(name)); name != "Upgrade" {
				delete(h, name)
			}
		}
	}
	delete(h, "Connection")
	if upgrade {
		h["Connection"] = []string{"Upgrade"}
	}
}

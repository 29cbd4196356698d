package caddymodule

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// credentialHeaders are those in which a credential travels by custom. A
// client's own must not reach the upstream beside the member's.
var credentialHeaders = []string{
	"Authorization", "Proxy-Authorization", "X-Api-Key", "Api-Key", "X-Goog-Api-Key", "X-Auth-Token",
	"X-Access-Token", "X-Auth-Key", "X-Amz-Security-Token", "Private-Token", "Ocp-Apim-Subscription-Key",
}

// outgoingHeader returns the header of the request as the upstream gets it:
// a copy without any of the client's credentials, with the member's.
func (sp *servedPool) outgoingHeader(in http.Header, a *armed, phantoms map[string]client) http.Header {
	h := in.Clone()
	for _, name := range credentialHeaders {
		delete(h, name)
	}
	removePhantoms(h, phantoms)
	readableEncodings(h)
	for i, inject := range sp.injections {
		h[inject.name] = a.values[i : i+1 : i+1]
	}
	return h
}

// cleanTrailer keeps the client's credentials out of the request's trailers, too.
// The server fills them in when the body has been read to its end.
func (sp *servedPool) cleanTrailer(out *http.Request, phantoms map[string]client) {
	if len(out.Trailer) == 0 {
		return
	}
	b := &trailedBody{ReadCloser: out.Body, from: out.Trailer, to: out.Trailer.Clone(), phantoms: phantoms}
	for _, name := range credentialHeaders {
		delete(b.to, name)
	}
	for _, inject := range sp.injections {
		delete(b.to, inject.name)
	}
	out.Body, out.Trailer = b, b.to
}

// trailedBody is a body that fills in the trailers that the upstream gets.
type trailedBody struct {
	io.ReadCloser
	from, to http.Header
	phantoms map[string]client
}

func (b *trailedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		for name := range b.to {
			b.to[name] = b.from[name]
		}
		removePhantoms(b.to, b.phantoms)
	}
	return n, err
}

// removePhantoms removes every header value and cookie that is a phantom.
func removePhantoms(h http.Header, phantoms map[string]client) {
	if len(phantoms) == 0 {
		return
	}
	for name, values := range h {
		for _, v := range values {
			if isPhantom(v, phantoms) {
				delete(h, name)
				break
			}
		}
	}
	if _, ok := h["Cookie"]; ok {
		removePhantomCookies(h, phantoms)
	}
}

func isPhantom(value string, phantoms map[string]client) bool {
	if _, ok := phantoms[value]; ok {
		return true
	}
	_, token, ok := strings.Cut(value, " ")
	if !ok {
		return false
	}
	_, ok = phantoms[strings.TrimSpace(token)]
	return ok
}

func removePhantomCookies(h http.Header, phantoms map[string]client) {
	var kept []string
	for _, line := range h["Cookie"] {
		for pair := range strings.SplitSeq(line, ";") {
			pair = strings.TrimSpace(pair)
			_, v, _ := strings.Cut(pair, "=")
			if _, ok := phantoms[strings.Trim(v, `"`)]; !ok && pair != "" {
				kept = append(kept, pair)
			}
		}
	}
	delete(h, "Cookie")
	if len(kept) > 0 {
		h["Cookie"] = []string{strings.Join(kept, "; ")}
	}
}

// outgoingURL returns u, or a copy of it without query values that are a
// phantom.
func outgoingURL(u *url.URL, phantoms map[string]client) *url.URL {
	if u.RawQuery == "" || len(phantoms) == 0 {
		return u
	}
	var kept []string
	removed := false
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		_, raw, _ := strings.Cut(pair, "=")
		v, err := url.QueryUnescape(raw)
		if err != nil {
			v = raw
		}
		if isPhantom(v, phantoms) {
			removed = true
			continue
		}
		kept = append(kept, pair)
	}
	if !removed {
		return u
	}
	c := *u
	c.RawQuery = strings.Join(kept, "&")
	return &c
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

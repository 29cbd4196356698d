package caddymodule

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// tokenRequest is what a request to a token endpoint says, as far as it matters
// here.
type tokenRequest struct {
	// refresh is the token that is to be refreshed (RFC 6749, section 6). It is
	// empty if anything else is asked for, or if another server could read the
	// request in another way.
	refresh string
	scope   string // that the refresh asks for; "" if it names none

	// phantom is true if there is a phantom anywhere in it, of whatever pool and
	// key.
	phantom bool
}

// readTokenRequest looks at a request, and leaves its body as it was. Of a body of
// [peekBytes] or more it sees the start, and then it is no refresh.
func readTokenRequest(r *http.Request) tokenRequest {
	body, whole := readStart(r)
	t := tokenRequest{phantom: holdsPhantom(string(body)) || holdsPhantom(r.URL.RequestURI())}
	for _, values := range r.Header {
		t.phantom = t.phantom || slices.ContainsFunc(values, holdsPhantom)
	}
	encoding := r.Header["Content-Encoding"]
	switch coded := len(contentCodings(encoding)) > 0; {
	case coded:
		t.phantom = t.phantom || holdsPhantom(string(decode(body, encoding, peekBytes)))
	case whole && r.Method == http.MethodPost:
		t.refresh, t.scope = readRefresh(r, body)
	}
	return t
}

// readStart returns the start of the body, and whether that is all of it. The body
// can be read again from its start. One without an end in sight, of an extended
// CONNECT, is left alone.
func readStart(r *http.Request) (start []byte, whole bool) {
	if r.Body == nil || r.Body == http.NoBody || r.Method == http.MethodConnect {
		return nil, false
	}
	start, err := io.ReadAll(io.LimitReader(r.Body, peekBytes))
	rest := io.Reader(r.Body)
	if err != nil {
		rest = failedReader{err} // whoever reads on is to meet it, too
	}
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(start), rest), r.Body}
	return start, err == nil && len(start) < peekBytes
}

// failedReader fails as another one has.
type failedReader struct{ err error }

func (f failedReader) Read([]byte) (int, error) { return 0, f.err }

// The parameters of a refresh, and its grant_type.
const (
	grantParam   = "grant_type"
	refreshParam = "refresh_token"
	scopeParam   = "scope"
	refreshGrant = "refresh_token"
)

// readRefresh reads a refresh out of the body of a request. A parameter must be
// there once, by its exact name: of two, or of one in another case, servers take
// the first, the last, or none.
func readRefresh(r *http.Request, body []byte) (token, scope string) {
	params, ok := readParams(r.Header["Content-Type"], body)
	query, err := url.ParseQuery(r.URL.RawQuery)
	if !ok || err != nil {
		return "", ""
	}
	for _, name := range []string{grantParam, refreshParam, scopeParam} {
		given := 0
		for _, values := range []url.Values{params, query} {
			for n, v := range values {
				if strings.EqualFold(n, name) {
					given += len(v)
				}
			}
		}
		if given > 1 || given != len(params[name]) {
			return "", ""
		}
	}
	if params.Get(grantParam) != refreshGrant {
		return "", ""
	}
	return params.Get(refreshParam), params.Get(scopeParam)
}

// readParams reads the parameters of a body. It reports false if it is neither a
// form nor a JSON object, or can't be read to its end.
func readParams(contentType []string, body []byte) (url.Values, bool) {
	if len(contentType) != 1 {
		return nil, false
	}
	kind, more, err := mime.ParseMediaType(contentType[0])
	switch strings.ToLower(more["charset"]) {
	case "", "utf-8", "us-ascii", "iso-8859-1": // those of which ASCII is a part
	default:
		return nil, false
	}
	if err != nil {
		return nil, false
	}
	switch kind {
	case "application/x-www-form-urlencoded":
		params, err := url.ParseQuery(string(body))
		return params, err == nil
	case "application/json":
		params, err := parseJSONParams(json.NewDecoder(bytes.NewReader(body)))
		return params, err == nil
	}
	return nil, false
}

// parseJSONParams reads an object, with all values of a name that is there twice.
// A value that is no string is an empty one.
func parseJSONParams(dec *json.Decoder) (url.Values, error) {
	params := make(url.Values)
	if begin, err := dec.Token(); err != nil || begin != json.Delim('{') {
		return nil, errNoObject
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, err
		}
		var value any
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
		text, _ := value.(string)
		params.Add(name.(string), text)
	}
	if _, err := dec.Token(); err != nil { // the brace
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errNoObject
	}
	return params, nil
}

var errNoObject = errors.New("not one JSON object")

// wantsIDToken reports whether an ID token goes with the answer. A client that
// names no scope, as Codex CLI does, wants what its login had (RFC 6749, section
// 6), and that is one of OpenID Connect.
func (t *tokenRequest) wantsIDToken() bool {
	return t.scope == "" || slices.Contains(strings.Fields(t.scope), "openid")
}

package caddymodule

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// refreshGrant is a client's wish for new tokens (RFC 6749, section 6).
type refreshGrant struct {
	tokens []string // the refresh token; more than one is an error
	scope  string   // "" if none was asked for
}

// readRefreshGrant looks at the body of a request for tokens, and gives it back
// as it was. It returns nil if the request is for anything but a refresh, or
// can't be understood.
func readRefreshGrant(r *http.Request) *refreshGrant {
	parse := grantParser(r)
	if parse == nil {
		return nil
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
	if err != nil || len(start) == peekBytes {
		return nil
	}
	return parse(start)
}

// failedReader fails as another one has.
type failedReader struct{ err error }

func (f failedReader) Read([]byte) (int, error) { return 0, f.err }

// grantParser returns what reads the body; nil if it is not to be looked at.
func grantParser(r *http.Request) func(body []byte) *refreshGrant {
	if r.Method != http.MethodPost || r.Body == nil || r.Body == http.NoBody ||
		r.ContentLength >= peekBytes || r.Header.Get("Content-Encoding") != "" {
		return nil
	}
	switch kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind {
	case "application/x-www-form-urlencoded":
		return parseFormGrant
	case "application/json":
		return parseJSONGrant
	}
	return nil
}

const (
	grantParam   = "grant_type"
	grantRefresh = "refresh_token" // a kind of grant, and the parameter that goes with it
)

func parseFormGrant(body []byte) *refreshGrant {
	// What can't be read is left out.
	form, _ := url.ParseQuery(string(body))
	if !slices.Contains(form[grantParam], grantRefresh) {
		return nil
	}
	g := &refreshGrant{form[grantRefresh], form.Get("scope")}
	if len(form[grantParam]) > 1 {
		g.tokens = append(g.tokens, "") // it is ambiguous what is asked for
	}
	return g
}

func parseJSONGrant(body []byte) *refreshGrant {
	var fields struct {
		GrantType    string `json:"grant_type"`
		RefreshToken string `json:"refresh_token"`
		Scope        any    `json:"scope"`
	}
	if json.Unmarshal(body, &fields) != nil || fields.GrantType != grantRefresh {
		return nil
	}
	scope, _ := fields.Scope.(string)
	return &refreshGrant{[]string{fields.RefreshToken}, scope}
}

// phantom reports whether the grant is of a client that holds phantoms, of
// whatever pool.
func (g *refreshGrant) phantom() bool { return slices.ContainsFunc(g.tokens, looksLikePhantom) }

// wantsIDToken reports whether an ID token goes with the answer. A client that
// names no scope, as Codex CLI does, wants what its login had (RFC 6749, section
// 6), and that is one of OpenID Connect.
func (g *refreshGrant) wantsIDToken() bool {
	return g.scope == "" || slices.Contains(strings.Fields(g.scope), "openid")
}

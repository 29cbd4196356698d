package caddymodule

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/oauth2"

	"github.com/credentialpool/caddy-credential-pool/vault"
)

// authServer is an authorization server, as a person logs in there: its
// metadata, under the names of RFC 8414, section 2.
type authServer struct {
	Issuer    string `json:"issuer"`
	AuthURL   string `json:"authorization_endpoint"`
	TokenURL  string `json:"token_endpoint"`
	DeviceURL string `json:"device_authorization_endpoint"` // RFC 8628, section 4

	// AuthMethods is how a client may show its secret; nil if it is not said.
	AuthMethods []string `json:"token_endpoint_auth_methods_supported"`

	// NamesIssuer is true if each answer says whose it is (RFC 9207, section 3).
	NamesIssuer bool `json:"authorization_response_iss_parameter_supported"`
}

// flagURL is an endpoint of the server, and the flag that names it.
type flagURL struct {
	flag string
	url  *string
}

func (s *authServer) endpoints() []flagURL {
	return []flagURL{{"--auth-url", &s.AuthURL}, {"--token-url", &s.TokenURL}, {"--device-url", &s.DeviceURL}}
}

// authStyle returns how the client shows its secret, if that was not given.
func (s *authServer) authStyle(secret string) (string, error) {
	methods := s.AuthMethods
	if methods == nil && s.Issuer != "" {
		methods = []string{"client_secret_basic"} // RFC 8414, section 2
	}
	switch {
	case secret == "" || methods == nil || slices.Contains(methods, "client_secret_post"):
		return vault.AuthParams, nil
	case slices.Contains(methods, "client_secret_basic"):
		return vault.AuthHeader, nil
	}
	return "", fmt.Errorf("%s takes no client secret, but %s; give --auth-style if that is not so",
		s.Issuer, shown(strings.Join(methods, ", ")))
}

// discover asks the issuer for the server's metadata, where RFC 8414, section 3,
// and OpenID Connect Discovery 1.0, section 4, put it. Of the two, the first
// that is there is used.
func discover(ctx context.Context, client *http.Client, issuer string) (authServer, error) {
	if err := vault.CheckTokenURL(issuer); err != nil {
		return authServer{}, fmt.Errorf("--issuer %w", err)
	}
	u, err := url.Parse(issuer)
	if err != nil || u.RawQuery != "" {
		return authServer{}, errors.New("--issuer holds a query, which no issuer has")
	}
	path := strings.TrimSuffix(u.Path, "/")
	var tried []string
	for _, at := range []string{
		"/.well-known/oauth-authorization-server" + path,
		path + "/.well-known/openid-configuration",
		"/.well-known/openid-configuration" + path, // RFC 8414, section 5
	} {
		at := u.ResolveReference(&url.URL{Path: at}).String()
		if slices.Contains(tried, at) {
			continue
		}
		tried = append(tried, at)
		s, found, err := metadata(ctx, client, at)
		if err != nil {
			return authServer{}, err
		}
		if found {
			return s, s.check(u)
		}
	}
	return authServer{}, fmt.Errorf("--issuer: no metadata of an authorization server at %s; is the issuer right? "+
		"The endpoints can be given instead, with --token-url and --device-url or --auth-url", strings.Join(tried, ", nor at "))
}

// metadata reads a document of metadata, if there is one.
func metadata(ctx context.Context, client *http.Client, at string) (s authServer, found bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, http.NoBody)
	if err != nil {
		return s, false, errors.New("--issuer is not a URL")
	}
	req.Header.Set("Accept", "application/json")
	heard := &loginTransport{listener: listener{next: client.Transport}}
	res, err := through(client, heard).Do(req)
	if err != nil {
		return s, false, fmt.Errorf("--issuer: no answer from %s (is the issuer right?): %w", at, whyUnreachable(err))
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusOK || json.Unmarshal(heard.body, &s) != nil || s.Issuer == "" {
		return authServer{}, false, nil
	}
	return s, true, nil
}

// check holds the metadata against the issuer that was asked for. Of a server
// elsewhere no endpoint may be on this machine.
func (s *authServer) check(issuer *url.URL) error {
	if strings.TrimSuffix(s.Issuer, "/") != strings.TrimSuffix(issuer.String(), "/") { // RFC 8414, section 3.3
		return fmt.Errorf("--issuer: the server there says that it is %s; if that is whom you mean, give that", shown(s.Issuer))
	}
	for _, e := range s.endpoints() {
		if *e.url == "" {
			continue
		}
		if err := vault.CheckTokenURL(*e.url); err != nil {
			return fmt.Errorf("--issuer: what the server names for %s %w", e.flag, err)
		}
		if strings.ContainsFunc(*e.url, func(r rune) bool { return r <= ' ' || r > '~' }) { // one is shown
			return fmt.Errorf("--issuer: what the server names for %s has characters that are none of a URL", e.flag)
		}
		if issuer.Scheme == "https" && !strings.HasPrefix(*e.url, "https:") {
			return fmt.Errorf("--issuer: what the server names for %s is not https, as the issuer is", e.flag)
		}
	}
	return nil
}

// loginTransport asks an authorization server, and keeps its answer.
type loginTransport struct {
	listener

	// basic is the header Authorization of a client that shows its secret in it.
	// The oauth2 package does not add it to the request of a code (RFC 8628,
	// section 3.1). It is empty for other clients.
	basic string

	// slowed counts the answers of slow_down. The oauth2 package heeds them only
	// until it returns.
	slowed int64
}

// RoundTrip implements [http.RoundTripper]. The answer has been read when it
// returns, or does not come in time.
func (t *loginTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	t.listener = listener{next: t.next}
	ctx, cancel := context.WithTimeout(req.Context(), grantTime)
	defer cancel()
	req = req.Clone(ctx)
	if t.basic != "" {
		req.Header.Set("Authorization", t.basic)
	}
	res, err := t.listener.RoundTrip(req)
	if bytes.Contains(t.body, []byte("slow_down")) {
		t.slowed++
	}
	if err != nil {
		return nil, err
	}
	if json.Valid(t.body) { // which the oauth2 package does not read if it is declared as text
		res.Header.Set("Content-Type", "application/json")
	}
	if string(bytes.TrimSpace(t.body)) == "null" { // on which it panics
		res.Body = http.NoBody
	}
	return res, nil
}

// shown makes text of a server fit for a terminal: one line, without what could
// steer it.
func shown(text string) string {
	const limit = 300
	if len(text) > limit {
		text = text[:limit] + "…"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, strings.ToValidUTF8(text, "?"))
}

// whyUnreachable is a failure to reach a server, without what the server may
// have sent.
func whyUnreachable(err error) error {
	r := unreachable(err)
	if r.cause != nil { // a certificate is what the server sent, too
		return errors.New(shown(r.cause.Error()))
	}
	if r.reason == "timeout" {
		return errors.New("it took too long")
	}
	return errors.New("the connection broke, or the answer was not one of HTTP")
}

// refusedError is what an authorization server says instead of giving tokens
// (RFC 6749, sections 4.1.2.1 and 5.2; RFC 8628, section 3.5).
type refusedError struct{ code, description, hint string }

func (e *refusedError) Error() string {
	text := "the authorization server refuses: " + e.code
	if e.description != "" {
		text += " (" + e.description + ")"
	}
	if e.hint != "" {
		text += "; " + e.hint
	}
	return text
}

// refusalHints are what to do about it, by the code of an error.
var refusalHints = map[string]string{
	"access_denied":             "the login was denied, or given up, at the provider",
	"expired_token":             "the code has ended before the login was complete; run the command again",
	"invalid_client":            "is --client-id right, and the client's secret? Is it shown as the server wants it (--auth-style)?",
	"invalid_grant":             "run the command again",
	"invalid_scope":             "look at --scope: the provider does not know it, or not for this client",
	"unauthorized_client":       "the provider does not let this client log in this way; try the other --flow, or another client",
	"unsupported_grant_type":    "the provider does not know this way to log in; try the other --flow",
	"unsupported_response_type": "the provider does not know this way to log in; try the other --flow",
	"temporarily_unavailable":   "try again later",
	"server_error":              "try again later",
}

// refused makes an error of what the server says. What repeats a secret of the
// login is left out.
func refused(code, description string, secrets ...string) *refusedError {
	e := &refusedError{code: shown(code), description: shown(description), hint: refusalHints[code]}
	for _, secret := range secrets {
		for _, form := range []string{secret, url.QueryEscape(secret)} { // the latter as it was sent
			if secret != "" && strings.Contains(code+" "+description, form) {
				e.code, e.description = "what it says is withheld, since it repeats a secret of the login", ""
			}
		}
	}
	return e
}

// whyNoTokens says what an answer without tokens means. The errors of the oauth2
// package show whole answers, and are not shown themselves.
func (a *authorization) whyNoTokens(endpoint string, err error) error {
	heard := a.heard
	known, ok := errors.AsType[*oauth2.RetrieveError](err)
	switch {
	case heard.err != nil || heard.status == 0:
		return fmt.Errorf("no answer from %s: %w", endpoint, whyUnreachable(heard.err))
	case ok && known.ErrorCode != "":
		return refused(known.ErrorCode, known.ErrorDescription, a.secrets...)
	case heard.status >= 300 && heard.status < 400:
		return fmt.Errorf("%s answers with a redirect (%d), which is not followed: it would take the login elsewhere; "+
			"give the URL that it leads to", endpoint, heard.status)
	case heard.status > 299:
		return fmt.Errorf("%s answers %d, and does not say why; is the URL right?", endpoint, heard.status)
	default:
		return fmt.Errorf("the answer of %s is none of OAuth; is the URL right?", endpoint)
	}
}

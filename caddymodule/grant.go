package caddymodule

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/oauth2"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/pool/classify"
	"github.com/credentialpool/caddy-credential-pool/vault"
)

const (
	// grantTime bounds one request to a token endpoint.
	grantTime = 20 * time.Second
	// maxGrant bounds what is read of its answer.
	maxGrant = 1 << 20
)

// Lifetimes of an access token. What a token endpoint says about it can be
// missing, nonsense, or so short that nothing but refreshing would be done.
const (
	defaultLifetime = time.Hour
	minLifetime     = time.Minute
	maxLifetime     = 365 * 24 * time.Hour
)

// refusal is why there are no new tokens.
type refusal struct {
	// reason is a status, an error code of the provider's table, or a word of
	// ours: never text that the token endpoint is free to choose.
	reason string

	// meaning is AuthFailed if the refresh token, or the client, does not work
	// any more. All else may work later.
	meaning pool.Meaning

	wait  time.Duration // that the answer asked for
	cause error         // for the log; it holds nothing that was sent or answered
}

// newTokenClient returns the client that speaks to token endpoints. A redirect
// would take the refresh token to another place, so none is followed; a
// connection is not worth keeping for the hours until the next refresh.
func newTokenClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableKeepAlives = true
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// through returns a token client with another transport.
func through(client *http.Client, transport http.RoundTripper) *http.Client {
	return &http.Client{Transport: transport, CheckRedirect: client.CheckRedirect}
}

// oauth2Style is a credential's auth style for the oauth2 package, which would
// find it out by sending what works only once, a refresh token or a code, twice.
func oauth2Style(style string) oauth2.AuthStyle {
	if style == vault.AuthHeader {
		return oauth2.AuthStyleInHeader
	}
	return oauth2.AuthStyleInParams
}

// grant asks the token endpoint for new tokens, and returns c with them.
func grant(client *http.Client, p *classify.Provider, c vault.Credential) (vault.Credential, *refusal) {
	// Not the context of a client, who may leave: the answer must be received.
	ctx, cancel := context.WithTimeout(context.Background(), grantTime)
	defer cancel()
	heard := &listener{next: client.Transport}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, through(client, heard))
	config := oauth2.Config{
		ClientID: c.OAuth.ClientID, ClientSecret: c.OAuth.ClientSecret.Reveal(),
		Endpoint: oauth2.Endpoint{TokenURL: c.OAuth.TokenURL, AuthStyle: oauth2Style(c.OAuth.AuthStyle)},
	}
	now := time.Now() // the tokens last from some time after it
	token, err := config.TokenSource(ctx, &oauth2.Token{RefreshToken: c.OAuth.RefreshToken.Reveal()}).Token()
	if err == nil {
		return withTokens(c, token, now), nil
	}
	// A token in an answer that is odd elsewhere must not get lost.
	if token, ok := heard.token(err); ok {
		return withTokens(c, token, now), nil
	}
	if heard.err != nil || heard.status == 0 {
		return c, unreachable(heard.err)
	}
	return c, heard.refusal(p)
}

// listener keeps the answer of a token endpoint, which the errors of the oauth2
// package would show.
type listener struct {
	next   http.RoundTripper
	status int
	header http.Header
	body   []byte
	err    error
}

// RoundTrip implements [http.RoundTripper].
func (l *listener) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := l.next.RoundTrip(req)
	if err != nil {
		l.err = err
		return nil, err
	}
	defer res.Body.Close()
	l.status, l.header = res.StatusCode, res.Header
	if l.body, l.err = io.ReadAll(io.LimitReader(res.Body, maxGrant)); l.err != nil {
		return nil, l.err
	}
	// What was not asked for, since net/http decodes what it asks for.
	l.body = decode(l.body, l.header["Content-Encoding"], maxGrant)
	res.Body = io.NopCloser(bytes.NewReader(l.body))
	return res, nil
}

// token reads tokens out of an answer of success that the oauth2 package did not
// understand, or that broke off, as far as they can be read. That they are of
// another type than bearer does not matter: how they are sent the pool says.
func (l *listener) token(err error) (*oauth2.Token, bool) {
	if _, refused := errors.AsType[*oauth2.RetrieveError](err); refused || l.status/100 != 2 {
		return nil, false
	}
	token := new(oauth2.Token)
	fields := json.NewDecoder(bytes.NewReader(bytes.TrimLeft(l.body, " \t\r\n\ufeff")))
	if start, _ := fields.Token(); start != json.Delim('{') {
		return nil, false
	}
	for fields.More() {
		name, err := fields.Token()
		var value any
		if err != nil || fields.Decode(&value) != nil {
			break
		}
		switch text, _ := value.(string); name {
		case "access_token":
			token.AccessToken = text
		case "refresh_token":
			token.RefreshToken = text
		case "expires_in":
			token.ExpiresIn = expiresIn(value)
		}
	}
	return token, token.AccessToken != ""
}

// expiresIn reads seconds of whatever form; 0 if there are none.
func expiresIn(value any) int64 {
	seconds, ok := value.(float64)
	if text, isText := value.(string); isText {
		var err error
		seconds, err = strconv.ParseFloat(text, 64)
		ok = err == nil
	}
	if !ok || !(seconds > 0) { // nor NaN
		return 0
	}
	return int64(min(seconds, math.MaxInt32))
}

// refusal says what an answer without tokens means.
func (l *listener) refusal(p *classify.Provider) *refusal {
	found := p.Explain(classify.Answer{
		Endpoint: classify.EndpointToken, Status: l.status, Header: l.header,
		Body: l.body[:min(len(l.body), peekBytes)], Now: time.Now(),
	})
	r := &refusal{reason: found.Reason, meaning: found.Meaning, wait: found.Wait}
	if r.meaning == pool.OK { // a redirect, or a page in the place of tokens
		r.meaning = pool.Overloaded
		if r.reason = "no_token"; l.status >= 300 {
			r.reason = strconv.Itoa(l.status)
		}
	}
	if r.wait == 0 {
		// An outage may say when to come back in the way of a limit.
		r.wait = p.Explain(classify.Answer{
			Endpoint: classify.EndpointToken, Status: http.StatusTooManyRequests, Header: l.header, Now: time.Now(),
		}).Wait
	}
	return r
}

// unreachable is the refusal of an endpoint that gave no answer. Of the error
// only what is about the connection is kept.
func unreachable(err error) *refusal {
	r := &refusal{reason: "unreachable", meaning: pool.Overloaded}
	if errors.Is(err, context.DeadlineExceeded) {
		r.reason = "timeout"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		r.cause = op
	}
	if cert, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		r.cause = cert
	}
	return r
}

// withTokens returns c with the tokens of an answer, as its next generation. An
// answer without a refresh token keeps the old one (RFC 6749, section 6).
func withTokens(c vault.Credential, token *oauth2.Token, now time.Time) vault.Credential {
	login := *c.OAuth
	if token.RefreshToken != "" {
		login.RefreshToken = vault.NewSecret(token.RefreshToken)
	}
	login.RefreshedAt = now.UTC().Truncate(time.Second)
	login.ExpiresAt = now.Add(lifetime(token, now)).UTC().Truncate(time.Second)
	c.Secret, c.OAuth = vault.NewSecret(token.AccessToken), &login
	c.Generation++
	return c
}

// lifetime returns how long an access token is taken to last.
func lifetime(token *oauth2.Token, now time.Time) time.Duration {
	life := time.Duration(token.ExpiresIn) * time.Second // of an int32
	if token.ExpiresIn == 0 && !token.Expiry.IsZero() {
		life = token.Expiry.Sub(now)
	}
	if life <= 0 {
		life = tokenExpiry(token.AccessToken).Sub(now)
	}
	if life <= 0 {
		life = defaultLifetime
	}
	return min(max(life, minLifetime), maxLifetime)
}

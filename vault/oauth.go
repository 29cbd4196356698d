package vault

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"
)

// KindOAuth is the kind of a login: an access token that is refreshed before it
// expires.
const KindOAuth = "oauth"

// How a client shows who it is to the token endpoint (RFC 6749, section 2.3.1).
const (
	// AuthParams: client_id and client_secret in the form.
	AuthParams = "params"
	// AuthHeader: HTTP Basic authentication.
	AuthHeader = "header"
)

// maxScopes bounds the scopes of one login.
const maxScopes = 64

// OAuth is what belongs to a login besides its access token, which is the
// credential's Secret.
type OAuth struct {
	// RefreshToken gets the next access token. It may work only once. A login
	// without one ends with its access token.
	RefreshToken Secret

	// ExpiresAt is when the access token ends, in UTC; zero if that is not
	// known.
	ExpiresAt time.Time

	// RefreshedAt is when the tokens were last refreshed; zero if they are as
	// they were put.
	RefreshedAt time.Time

	// TokenURL is the token endpoint, https unless it is on this machine. It and
	// ClientID are required with a RefreshToken.
	TokenURL     string
	ClientID     string
	ClientSecret Secret

	// AuthStyle is AuthParams or AuthHeader; empty is AuthParams.
	AuthStyle string

	// Scopes are those of the login, for whoever renews it. A refresh asks for
	// none, which keeps them (RFC 6749, section 6).
	Scopes []string

	// Intent is the refresh that was begun and has not been stored; its zero
	// value is none. If there is one, the refresh token may be used up.
	Intent Intent

	// Lost is why the refresh token does not work any more, in one word such as
	// "invalid_grant"; empty while it does. Only a new login helps.
	Lost string
}

// Intent notes that a refresh was begun.
type Intent struct {
	Time time.Time

	// Generation is that of the tokens with which it was begun.
	Generation uint64

	// By tells one process from another.
	By string
}

// IsZero reports whether no refresh was begun.
func (i Intent) IsZero() bool { return i.By == "" }

// check reports what is wrong with a login. Its errors show no value.
func (o *OAuth) check() error {
	refresh, secret := o.RefreshToken.Reveal(), o.ClientSecret.Reveal()
	for _, v := range []struct{ name, value string }{
		{"refresh_token", refresh}, {"client_id", o.ClientID}, {"client_secret", secret}, {"lost", o.Lost}, {"intent", o.Intent.By},
	} {
		if v.value == "" {
			continue
		}
		if err := checkValue(v.value); err != nil {
			return fmt.Errorf("%s %w", v.name, err)
		}
	}
	if refresh != "" && (o.TokenURL == "" || o.ClientID == "") {
		return errors.New("refresh_token needs token_url and client_id")
	}
	if o.TokenURL != "" {
		if err := CheckTokenURL(o.TokenURL); err != nil {
			return fmt.Errorf("token_url %w", err)
		}
	}
	if !slices.Contains([]string{"", AuthParams, AuthHeader}, o.AuthStyle) {
		return fmt.Errorf("auth_style is not known (known: %s, %s)", AuthParams, AuthHeader)
	}
	if len(o.Scopes) > maxScopes {
		return fmt.Errorf("%d scopes are too many (at most %d)", len(o.Scopes), maxScopes)
	}
	for _, s := range o.Scopes {
		if err := checkValue(s); err != nil {
			return fmt.Errorf("a scope %w", err)
		}
	}
	return o.checkTimes()
}

func (o *OAuth) checkTimes() error {
	for _, t := range []struct {
		name string
		time time.Time
	}{{"expires_at", o.ExpiresAt}, {"refreshed_at", o.RefreshedAt}, {"intent", o.Intent.Time}} {
		if !t.time.IsZero() && !writable(t.time) {
			return fmt.Errorf("%s is out of range", t.name)
		}
	}
	return nil
}

// CheckTokenURL reports what is wrong with the URL of a token endpoint, or of
// another endpoint that is told a secret: nobody on the way may read it. The
// error finishes the sentence that begins with the URL's name, and does not show
// the URL.
func CheckTokenURL(s string) error {
	if len(s) > maxValueLen {
		return fmt.Errorf("has more than %d bytes", maxValueLen)
	}
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return errors.New("is not an https URL with a host")
	}
	if u.User != nil || u.Fragment != "" {
		return errors.New("holds a user or a fragment")
	}
	if u.Scheme == "http" && !isLoopback(u.Hostname()) {
		return errors.New("is not https, which only this machine's own may be")
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip.IsLoopback()
}

// writable reports whether the time can be written as JSON again. One that
// can't would break every list that holds it.
func writable(t time.Time) bool { return t.Year() >= 1970 && t.Year() <= 9999 }

// oauthRecord is the part of a record that is about a login.
type oauthRecord struct {
	RefreshToken string        `json:"refresh_token,omitempty"`
	ExpiresAt    time.Time     `json:"expires_at,omitzero"`
	RefreshedAt  time.Time     `json:"refreshed_at,omitzero"`
	TokenURL     string        `json:"token_url,omitempty"`
	ClientID     string        `json:"client_id,omitempty"`
	ClientSecret string        `json:"client_secret,omitempty"`
	AuthStyle    string        `json:"auth_style,omitempty"`
	Scopes       []string      `json:"scopes,omitempty"`
	Intent       *intentRecord `json:"intent,omitempty"`
	Lost         string        `json:"lost,omitempty"`
}

type intentRecord struct {
	Time       time.Time `json:"time"`
	Generation uint64    `json:"generation"`
	By         string    `json:"by"`
}

func (o *OAuth) record() *oauthRecord {
	if o == nil {
		return nil
	}
	rec := &oauthRecord{
		RefreshToken: o.RefreshToken.Reveal(), ExpiresAt: o.ExpiresAt, RefreshedAt: o.RefreshedAt,
		TokenURL: o.TokenURL, ClientID: o.ClientID, ClientSecret: o.ClientSecret.Reveal(),
		AuthStyle: o.AuthStyle, Scopes: o.Scopes, Lost: o.Lost,
	}
	if !o.Intent.IsZero() {
		rec.Intent = &intentRecord{o.Intent.Time, o.Intent.Generation, o.Intent.By}
	}
	return rec
}

func (rec *oauthRecord) oauth() *OAuth {
	if rec == nil {
		return nil
	}
	o := &OAuth{
		RefreshToken: NewSecret(rec.RefreshToken), ExpiresAt: rec.ExpiresAt.UTC(), RefreshedAt: rec.RefreshedAt.UTC(),
		TokenURL: rec.TokenURL, ClientID: rec.ClientID, ClientSecret: NewSecret(rec.ClientSecret),
		AuthStyle: rec.AuthStyle, Scopes: rec.Scopes, Lost: rec.Lost,
	}
	if rec.Intent != nil {
		o.Intent = Intent{rec.Intent.Time.UTC(), rec.Intent.Generation, rec.Intent.By}
	}
	return o
}

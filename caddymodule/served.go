package caddymodule

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/pool/classify"
	"github.com/credentialpool/caddy-credential-pool/vault"
)

// servedPool is a pool as a running configuration serves it: who is next, and
// what is put into the request for each member.
type servedPool struct {
	*pool.Pool
	provider *classify.Provider

	// places are where a credential goes, by its kind, and doors where a client's
	// token is read beside Authorization: where the first place is.
	places map[string][]injection
	doors  []injection

	// strip are headers, and params query parameters, that clients don't set.
	strip, params []string

	// scoped is true if it matters which model or resource a request asks for, and
	// scope is the placeholder that says it, if the user has given one.
	scoped bool
	scope  string

	// hosts are those to which credentials may go that no upstream names.
	hosts []hostPattern

	// phantoms are the clients' stand-in tokens; nil while there is no key, or it
	// can't be read.
	phantoms atomic.Pointer[phantomTokens]

	shared    *sharedState
	inherited bool // from the config before, and not saved since
	metrics   *poolMetrics

	// names are the members', by position.
	names []string

	// inline are the secrets of members that have them in the config.
	inline map[string]vault.Secret

	// armed holds what is put into a request, by position; nil while the member
	// is missing. It is read without arming, which one who changes it holds.
	arming sync.Mutex
	armed  []atomic.Pointer[armed]

	// logins are the refreshing of the members' logins, by position.
	logins    []login
	refresher *refresher

	// seen is by position.
	seen []look
}

// look is what the last look into the vault has seen of a member's credential.
type look struct {
	mu      sync.Mutex
	stamp   vault.Stamp
	trouble string // why it can't be used, as it stands in the log
}

// isInline reports whether the member's secret stands in the config.
func (sp *servedPool) isInline(member string) bool {
	_, ok := sp.inline[member]
	return ok
}

// armed is a member's credential, rendered once for all requests.
type armed struct {
	identity string
	kind     string
	headers  []headerValue
	query    string // parameters, escaped

	// generation counts the tokens of a login under one identity. When they end,
	// and when they were last refreshed, is zero if it is not known.
	generation         uint64
	expires, refreshed time.Time

	// refreshable is true if there is a refresh token, whose hash is refreshHash,
	// and due is when it is to be used; zero if that is not known.
	refreshable bool
	refreshHash [sha256.Size]byte
	due         time.Time

	// login is the credential itself, if it is a login.
	login vault.Credential

	// secrets are the parts that must not come back in an answer's header or an
	// error's text.
	secrets []string

	// shortest is the length of the shortest of them: most headers are shorter.
	shortest int
}

// same reports whether a and b hold the same tokens.
func (a *armed) same(b *armed) bool { return a.identity == b.identity && a.generation == b.generation }

// expired reports whether the access token has ended.
func (a *armed) expired(now time.Time) bool { return !a.expires.IsZero() && !now.Before(a.expires) }

// minSecret is the length from which a secret is looked for in what comes
// back: a shorter one would be found by chance.
const minSecret = 8

// checkAuthorizationOnly refuses injections that can't be kept from the log
// when it is another handler that sends the request.
func (sp *servedPool) checkAuthorizationOnly() error {
	for _, kind := range credentialKinds {
		for _, in := range sp.places[kind] {
			if in.in != inHeader || in.name != "Authorization" {
				return fmt.Errorf("pool %s injects the %s %s, which the next handler may log; give credential_pool the upstream itself: credential_pool %s <upstream>", sp.Name(), in.in, in.name, sp.Name())
			}
		}
	}
	return nil
}

// arm makes the credential the member's. If it lacks a field that is injected,
// the member is without one. Tokens that are older than those in use are left:
// whoever read them was overtaken by a refresh.
func (sp *servedPool) arm(position int, c vault.Credential) error {
	a, err := sp.render(c)
	sp.arming.Lock()
	defer sp.arming.Unlock()
	if err != nil {
		sp.setMissing(position, err.Error())
		return err
	}
	now := sp.armed[position].Load()
	if now != nil && now.identity == a.identity && now.generation >= a.generation {
		return nil
	}
	// The values come first: whoever gets a lease on the new identity finds them.
	sp.armed[position].Store(a)
	sp.SetCredential(sp.names[position], a.identity)
	if now != nil && now.identity == a.identity {
		sp.Renewed(time.Now(), sp.names[position])
	}
	return nil
}

// render makes of a credential what is put into a request.
func (sp *servedPool) render(c vault.Credential) (*armed, error) {
	a := &armed{identity: c.ID, kind: c.Kind, generation: c.Generation}
	for _, in := range sp.places[c.Kind] {
		v, err := in.render(c)
		if err != nil {
			return nil, err
		}
		if in.in == inQuery {
			a.query = strings.TrimPrefix(a.query+"&"+in.name+"="+url.QueryEscape(v), "&")
		} else {
			a.headers = append(a.headers, headerValue{name: in.name, values: []string{v}})
		}
	}
	for _, h := range sp.provider.ExtraHeaders(c.Kind) {
		a.headers = append(a.headers, headerValue{name: h.Name, values: []string{h.Value}, add: h.Append})
	}
	a.addSecret(c.Secret)
	for _, f := range c.Fields {
		a.addSecret(f)
	}
	if o := c.OAuth; o != nil {
		a.expires, a.refreshed = o.ExpiresAt, o.RefreshedAt
		if now := time.Now(); a.refreshed.After(now) {
			a.refreshed = now // by another instance's clock
		}
		a.refreshable, a.due, a.login = !o.RefreshToken.IsZero(), dueAt(c), c
		a.refreshHash = sha256.Sum256([]byte(o.RefreshToken.Reveal()))
		a.addSecret(o.RefreshToken)
		a.addSecret(o.ClientSecret)
	}
	slices.Sort(a.secrets)
	a.secrets = slices.Compact(a.secrets)
	for i, s := range a.secrets {
		if i == 0 || len(s) < a.shortest {
			a.shortest = len(s)
		}
	}
	return a, nil
}

// disarm leaves the member without a credential.
func (sp *servedPool) disarm(position int, reason string) {
	sp.arming.Lock()
	defer sp.arming.Unlock()
	sp.setMissing(position, reason)
}

func (sp *servedPool) setMissing(position int, reason string) {
	sp.SetMissing(sp.names[position], reason)
	sp.armed[position].Store(nil)
}

// addSecret adds a secret in the forms in which it is met: as it is, escaped for
// a URL, as net/http quotes it in errors, and in base64, where it may begin at
// any of three offsets within something longer.
func (a *armed) addSecret(s vault.Secret) {
	v := s.Reveal()
	if len(v) < minSecret {
		return
	}
	quoted := strconv.Quote(v)
	a.secrets = append(a.secrets, v, quoted[1:len(quoted)-1])
	for _, escaped := range []string{url.QueryEscape(v), url.PathEscape(v)} {
		a.secrets = append(a.secrets, escaped, escapes.ReplaceAllStringFunc(escaped, strings.ToLower))
	}
	for offset := range 3 {
		// Without the digits that also depend on what stands before and after.
		whole := (offset + len(v)) / 3 * 3
		encoded := base64.RawStdEncoding.EncodeToString(append(make([]byte, offset), v...)[:whole])
		if offset > 0 {
			encoded = encoded[4:]
		}
		if len(encoded) >= minSecret {
			a.secrets = append(a.secrets, encoded, base64ForURLs.Replace(encoded))
		}
	}
}

// escapes are those of a URL, whose digits may be of either case (RFC 3986,
// section 2.1).
var escapes = regexp.MustCompile(`%[0-9A-F]{2}`)

// base64ForURLs makes the alphabet for URLs of the standard one (RFC 4648,
// section 5).
var base64ForURLs = strings.NewReplacer("+", "-", "/", "_")

// in reports whether text holds one of the secrets.
func (a *armed) in(text string) bool {
	if len(text) < a.shortest {
		return false
	}
	for _, s := range a.secrets {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

// arms returns what to put in for a lease; nil if the member's credential was
// removed since. One that was replaced since is as good: what is then reported
// is about the old one, and touches nobody. Only if a login's token has ended is
// it waited for another one, and then not for long: if there is none, the API
// has the last word about the one that there is.
func (sp *servedPool) arms(ctx context.Context, now time.Time, l pool.Lease) *armed {
	a := sp.armed[l.Position()].Load()
	if a != nil && a.expired(now) {
		return sp.logins[l.Position()].await(ctx, a, nearEnd)
	}
	return a
}

// poolStatuses returns what the operator sees of all pools, sorted by name.
func (a *App) poolStatuses(now time.Time) []pool.Status {
	statuses := make([]pool.Status, 0, len(a.pools))
	for _, name := range a.poolNames() {
		statuses = append(statuses, a.pools[name].Status(now))
	}
	return statuses
}

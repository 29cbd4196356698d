package caddymodule

import (
	"fmt"
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
	provider   *classify.Provider
	injections []injection

	shared    *sharedState
	inherited bool // from the config before, and not saved since
	metrics   *poolMetrics

	// names are the members', by position.
	names []string

	// inline are the members whose secret stands in the config.
	inline map[string]struct{}

	// armed holds what is put into a request, by position; nil while the member
	// is missing.
	armed []atomic.Pointer[armed]

	// looking guards seen, by position.
	looking sync.Mutex
	seen    []look
}

// look is what the last look into the vault has seen of a member's credential.
type look struct {
	stamp   vault.Stamp
	trouble string // why it can't be used, as it stands in the log
}

// isInline reports whether the member's secret stands in the config.
func (sp *servedPool) isInline(member string) bool {
	_, ok := sp.inline[member]
	return ok
}

// kind returns the kind of the member's credential; empty while it is missing.
func (sp *servedPool) kind(position int) string {
	if a := sp.armed[position].Load(); a != nil {
		return a.kind
	}
	return ""
}

// armed is a member's credential, rendered once for all requests.
type armed struct {
	identity string
	kind     string
	values   []string // by injection

	// secrets are the parts that must not come back in an answer's header or an
	// error's text.
	secrets []string
}

// minSecret is the length from which a secret is looked for in what comes
// back: a shorter one would be found by chance.
const minSecret = 8

// checkAuthorizationOnly refuses injections that can't be kept from the log
// when it is another handler that sends the request.
func (sp *servedPool) checkAuthorizationOnly() error {
	for _, in := range sp.injections {
		if in.name != "Authorization" {
			return fmt.Errorf("pool %s injects the header %s, which the next handler may log; give credential_pool the upstream itself: credential_pool %s <upstream>", sp.Name(), in.name, sp.Name())
		}
	}
	return nil
}

// arm makes the credential the member's. If it lacks a field that is injected,
// the member is without one.
func (sp *servedPool) arm(position int, c vault.Credential) error {
	a := &armed{identity: c.ID, kind: c.Kind, values: make([]string, len(sp.injections))}
	for i, in := range sp.injections {
		v, err := in.render(c)
		if err != nil {
			sp.disarm(position, err.Error())
			return err
		}
		a.values[i] = v
	}
	a.addSecret(c.Secret)
	for _, f := range c.Fields {
		a.addSecret(f)
	}
	// The values come first: whoever gets a lease on the new identity finds them.
	sp.armed[position].Store(a)
	sp.SetCredential(sp.names[position], a.identity)
	return nil
}

// disarm leaves the member without a credential.
func (sp *servedPool) disarm(position int, reason string) {
	sp.SetMissing(sp.names[position], reason)
	sp.armed[position].Store(nil)
}

func (a *armed) addSecret(s vault.Secret) {
	if v := s.Reveal(); len(v) >= minSecret {
		a.secrets = append(a.secrets, v)
	}
}

// in reports whether text holds one of the secrets.
func (a *armed) in(text string) bool {
	for _, s := range a.secrets {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

// arms returns what to put in for a lease; nil if the member's credential was
// removed since. One that was replaced since is as good: what is then reported
// is about the old one, and touches nobody.
func (sp *servedPool) arms(l pool.Lease) *armed { return sp.armed[l.Position()].Load() }

// poolStatuses returns what the operator sees of all pools, sorted by name.
func (a *App) poolStatuses(now time.Time) []pool.Status {
	statuses := make([]pool.Status, 0, len(a.pools))
	for _, name := range a.poolNames() {
		statuses = append(statuses, a.pools[name].Status(now))
	}
	return statuses
}

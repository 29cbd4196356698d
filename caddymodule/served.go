package caddymodule

import (
	"strings"
	"sync/atomic"

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

	// inline are the credentials that stand in the configuration, by member.
	inline map[string]vault.Credential

	// armed holds what is put into a request, by the member's position; nil
	// while the member is missing.
	armed []atomic.Pointer[armed]
	names []string

	metrics *poolMetrics
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

// arm makes the credential the member's.
func (sp *servedPool) arm(position int, c vault.Credential) {
	a := &armed{identity: c.ID, kind: c.Kind, values: make([]string, len(sp.injections))}
	for i, in := range sp.injections {
		v, err := in.render(c)
		if err != nil {
			sp.disarm(position, err.Error())
			return
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
// replaced since.
func (sp *servedPool) arms(l pool.Lease) *armed {
	a := sp.armed[l.Position()].Load()
	if a == nil || a.identity != l.Identity() {
		return nil
	}
	return a
}

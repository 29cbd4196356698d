package classify

import (
	"slices"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

// Provider is what is known about one API provider. The tables are shared:
// they must not be changed.
type Provider struct {
	// Name is what a user writes: lower case, unique.
	Name string

	// Inject is how a credential is put into a request.
	Inject []Injection

	// Rules are asked in order; the first that holds decides. What none of
	// them decides benches nobody.
	Rules []Rule

	// Waits are the places in which an answer says how long to wait. The
	// longest wait found counts.
	Waits []Wait
}

// Injection is one request header that carries the credential.
type Injection struct {
	// Name is the header's name, in canonical form.
	Name string

	// Template is the header's value. {credential} stands for the secret,
	// {credential.<field>} for an extra field of it.
	Template string

	// Source is where the provider documents it.
	Source string
}

// Rule says what an answer means. All of its conditions must hold.
type Rule struct {
	// Status are the statuses that the rule is about; one of them must be the
	// answer's.
	Status []int

	// Body are texts of which one must stand in the body, in lower case: the
	// case of ASCII letters does not matter. None: the rule needs no body.
	Body []string

	// Meaning is what the answer then means. It benches the member: an answer
	// that benches nobody needs no rule, unless one must be kept from a later
	// rule.
	Meaning pool.Meaning

	// Source is where the fact is documented.
	Source string
}

// Wait is one place in which an answer can say how long to wait.
type Wait struct {
	// Name is the place, for people: "Retry-After".
	Name string

	// Find returns how long to wait from the moment of the answer, and
	// whether the answer says so at all. It bounds what it returns to
	// [0, maxWait].
	Find func(Answer) (time.Duration, bool)

	// Source is where the place is documented.
	Source string
}

// providers holds every table, in order of name.
var providers = []*Provider{
	&generic,
}

// Lookup returns the provider of that name.
func Lookup(name string) (*Provider, bool) {
	for _, p := range providers {
		if p.Name == name {
			return p, true
		}
	}
	return nil, false
}

// Names returns the names of all providers, sorted.
func Names() []string {
	names := make([]string, len(providers))
	for i, p := range providers {
		names[i] = p.Name
	}
	slices.Sort(names)
	return names
}

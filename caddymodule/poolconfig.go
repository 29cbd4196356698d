package caddymodule

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/pool/classify"
	"github.com/credentialpool/caddy-credential-pool/vault"
)

// PoolConfig is a pool of accounts of one API.
type PoolConfig struct {
	// The provider, which says how a credential is put in and what an answer
	// means. Default: `generic`.
	Provider string `json:"provider,omitempty"`

	// The accounts, in the order in which they serve. At least one is required.
	Members []Member `json:"members,omitempty"`

	// How long a member is benched if the answer does not say, by kind:
	// `rate_limited` (default: 60s up to 30m), `auth_failed` (5m up to 6h),
	// `quota_exhausted` (1h up to 24h).
	Cooldowns map[string]Cooldown `json:"cooldowns,omitempty"`

	// The longest wait that an answer may ask for, at least `1s`. Default: `168h`
	// (7 days).
	MaxCooldown caddy.Duration `json:"max_cooldown,omitempty"`

	// How long a member is parked if the operator does not say. Default: `5m`.
	ParkFor caddy.Duration `json:"park_for,omitempty"`

	// Where the credential is put. Replaces the provider's own places. A
	// client's token is read where the first one writes. Default: the
	// provider's; for `generic`, the header `Authorization` with
	// `Bearer {credential}`.
	Inject []Injection `json:"inject,omitempty"`

	// Hosts to which credentials may go besides the upstreams that a handler
	// names: needed for dynamic upstreams, and for those with a placeholder. Each
	// is a host name, `*.` and the end of one, an IP address, or a CIDR range;
	// it is compared with what is dialled.
	Hosts []string `json:"hosts,omitempty"`

	// Which model or part of the API a request asks for, as a placeholder such as
	// `{http.request.header.X-Model}`, for providers that limit single ones.
	// Default: what the path says, or the `model` of a JSON body.
	Scope string `json:"scope,omitempty"`

	// Further rules about what an answer means. They are asked before the
	// provider's, in order.
	Fail []FailRule `json:"fail,omitempty"`
}

// FailRule says that an answer means a failure. All of its conditions must hold,
// of which at least one is required; of the values of one, any. It may be about
// any status, but only a request that was refused with 4xx is tried again.
type FailRule struct {
	// What the answer then means: `rate_limited`, `quota_exhausted` and
	// `auth_failed` bench the member, `request_error` and `overloaded` keep
	// other rules from doing so.
	Kind string `json:"kind"`

	// The answer's status. Default: any from 400 on.
	Status []int `json:"status,omitempty"`

	// Headers of the answer, and their values. No value: the header must be
	// there.
	Header map[string][]string `json:"header,omitempty"`

	// Texts in the body, of any case.
	Body []string `json:"body,omitempty"`
}

func (f FailRule) compile() (classify.Rule, error) {
	rule := classify.Rule{Meaning: pool.Meaning(f.Kind), Status: f.Status, Body: f.Body}
	if !slices.Contains(failKinds, rule.Meaning) {
		return rule, fmt.Errorf("fail: unknown kind %q; known: %s", printable(f.Kind), joined(failKinds))
	}
	if len(f.Status)+len(f.Header)+len(f.Body) == 0 {
		return rule, fmt.Errorf("fail %s: it needs a status, a header or a body", f.Kind)
	}
	for _, status := range f.Status {
		if status < 200 || status > 599 {
			return rule, fmt.Errorf("fail %s: %d is not a status from 200 to 599", f.Kind, status)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.Header)) {
		if !httpguts.ValidHeaderFieldName(name) {
			return rule, fmt.Errorf("fail %s: %q is not a header name", f.Kind, printable(name))
		}
		rule.Header = append(rule.Header, classify.HeaderIs{Name: name, Values: f.Header[name]})
	}
	if slices.Contains(f.Body, "") {
		return rule, fmt.Errorf("fail %s: body: it is empty", f.Kind)
	}
	return rule, nil
}

// failKinds are the kinds of a FailRule.
var failKinds = append(slices.Clone(pool.BenchingMeanings), pool.RequestError, pool.Overloaded)

// withRules returns the provider with the user's rules.
func (cfg *PoolConfig) withRules(p *classify.Provider) (*classify.Provider, error) {
	if len(cfg.Fail) == 0 {
		return p, nil
	}
	rules := make([]classify.Rule, len(cfg.Fail))
	for i, f := range cfg.Fail {
		var err error
		if rules[i], err = f.compile(); err != nil {
			return nil, err
		}
	}
	return p.With(rules...), nil
}

// Member is one account's seat in a pool.
type Member struct {
	// The member's name. Its credential in the vault is `<pool>/<name>`.
	Name string `json:"name"`

	// The secret, as a placeholder such as `{env.OPENAI_SPARE_KEY}`. Default:
	// the credential is in the vault.
	Secret string `json:"secret,omitempty"`
}

// Cooldown is a member's bench: `base` for the first failure, doubled for each
// further one in a row, up to `cap`.
type Cooldown struct {
	// The bench for the first failure, at least `1s`.
	Base caddy.Duration `json:"base"`

	// The longest bench. Default: the kind's own, or `base` if that is longer.
	Cap caddy.Duration `json:"cap,omitempty"`
}

// served makes the pool as far as its options go.
func (cfg *PoolConfig) served() (*servedPool, error) {
	if len(cfg.Members) == 0 {
		return nil, errors.New("it has no member")
	}
	provider, err := cfg.provider()
	if err != nil {
		return nil, err
	}
	sp := &servedPool{
		inline: make(map[string]vault.Secret),
		armed:  make([]atomic.Pointer[armed], len(cfg.Members)),
		seen:   make([]look, len(cfg.Members)),
		logins: make([]login, len(cfg.Members)),
	}
	for i := range sp.logins {
		sp.logins[i].pool, sp.logins[i].position = sp, i
	}
	for _, m := range cfg.Members {
		if err := checkName("member", m.Name); err != nil {
			return nil, err
		}
		if slices.Contains(sp.names, m.Name) {
			return nil, fmt.Errorf("member %s is given twice", m.Name)
		}
		sp.names = append(sp.names, m.Name)
	}
	if sp.hosts, err = parseHosts(cfg.Hosts); err != nil {
		return nil, err
	}
	if sp.provider, err = cfg.withRules(provider); err != nil {
		return nil, err
	}
	if strings.Contains(cfg.Scope, "{http.request.body") {
		return nil, errors.New("scope: the body can't be used, since it would be consumed; the model in a JSON body is found without")
	}
	sp.scoped, sp.scope = sp.provider.Scoped(), cfg.Scope
	if err := sp.compilePlaces(cfg.Inject); err != nil {
		return nil, err
	}
	return sp, nil
}

// credentialKinds are the kinds that a credential can have.
var credentialKinds = []string{vault.KindStatic, vault.KindOAuth}

// compilePlaces sets where credentials go: the places given, or the provider's.
func (sp *servedPool) compilePlaces(given []Injection) error {
	sp.places = make(map[string][]injection)
	sp.strip, sp.params = slices.Clone(sp.provider.Strip), slices.Clone(sp.provider.StripParams)
	for _, in := range sp.provider.Inject { // also where inject replaces them
		sp.strip = append(sp.strip, in.Name)
	}
	for _, kind := range credentialKinds {
		places := given
		if len(given) == 0 {
			for _, in := range sp.provider.Injections(kind) {
				places = append(places, Injection{Name: in.Name, Template: in.Template})
			}
		}
		for _, place := range places {
			in, err := place.compile()
			if err != nil {
				return err
			}
			if slices.ContainsFunc(sp.places[kind], func(other injection) bool { return other.in == in.in && other.name == in.name }) {
				return fmt.Errorf("%s is given twice", in)
			}
			sp.places[kind] = append(sp.places[kind], in)
			if in.in == inQuery {
				sp.params = appendNew(sp.params, in.name)
			} else {
				sp.strip = appendNew(sp.strip, in.name)
			}
		}
		door := sp.places[kind][0]
		if !slices.ContainsFunc(sp.doors, func(other injection) bool { return other.in == door.in && other.name == door.name }) {
			sp.doors = append(sp.doors, door)
		}
	}
	return nil
}

// appendNew adds a name that is not in the list yet.
func appendNew(list []string, name string) []string {
	if slices.Contains(list, name) {
		return list
	}
	return append(list, name)
}

func (cfg *PoolConfig) provider() (*classify.Provider, error) {
	provider, ok := classify.Lookup(orDefault(cfg.Provider, defaultProvider))
	if !ok {
		return nil, fmt.Errorf("provider: %q is not known; known: %s", printable(cfg.Provider), strings.Join(classify.Names(), ", "))
	}
	return provider, nil
}

// poolConfig returns the options of the pool's rules.
func (cfg *PoolConfig) poolConfig() (pool.Config, error) {
	c := pool.Config{
		Cooldowns:   make(map[pool.Meaning]pool.Cooldown),
		MaxCooldown: time.Duration(cfg.MaxCooldown),
		ParkFor:     time.Duration(cfg.ParkFor),
	}
	if cfg.MaxCooldown < 0 || (cfg.MaxCooldown > 0 && c.MaxCooldown < time.Second) {
		return c, errors.New("max_cooldown: it must be at least 1s")
	}
	if cfg.ParkFor < 0 {
		return c, errors.New("park_for: it is negative")
	}
	for _, m := range cfg.Members {
		c.Members = append(c.Members, m.Name)
	}
	for kind, cd := range cfg.Cooldowns {
		m := pool.Meaning(kind)
		if !m.Benches() {
			return c, fmt.Errorf("cooldown: unknown kind %q; known: %s", printable(kind), benchingKinds())
		}
		base, limit := time.Duration(cd.Base), time.Duration(cd.Cap)
		if limit == 0 {
			limit = max(base, pool.DefaultCooldown(m).Cap)
		}
		if base < time.Second || limit < base {
			return c, fmt.Errorf("cooldown %s: the base must be at least 1s, and the cap at least the base", kind)
		}
		c.Cooldowns[m] = pool.Cooldown{Base: base, Cap: limit}
	}
	return c, nil
}

func benchingKinds() string { return joined(pool.BenchingMeanings) }

func joined[T ~string](list []T) string {
	texts := make([]string, len(list))
	for i, one := range list {
		texts[i] = string(one)
	}
	return strings.Join(texts, ", ")
}

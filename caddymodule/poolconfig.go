package caddymodule

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/pool/classify"
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
		provider: provider,
		inline:   make(map[string]struct{}),
		armed:    make([]atomic.Pointer[armed], len(cfg.Members)),
		seen:     make([]look, len(cfg.Members)),
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
	places := cfg.Inject
	if len(places) == 0 {
		for _, in := range provider.Injections(classify.KindStatic) {
			places = append(places, Injection{Name: in.Name, Template: in.Template})
		}
	}
	for _, place := range places {
		in, err := place.compile()
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(sp.injections, func(other injection) bool { return other.name == in.name }) {
			return nil, fmt.Errorf("inject header %s is given twice", in.name)
		}
		sp.injections = append(sp.injections, in)
	}
	return sp, nil
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

func benchingKinds() string {
	kinds := make([]string, len(pool.BenchingMeanings))
	for i, m := range pool.BenchingMeanings {
		kinds[i] = string(m)
	}
	return strings.Join(kinds, ", ")
}

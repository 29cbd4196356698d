// Package caddymodule holds the Caddy modules of the plugin: the app that owns
// the pools and the vault, the handler and the transport through which requests
// go, the admin routes and commands for the operator, and the notifiers.
package caddymodule

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/pool/classify"
	"github.com/credentialpool/caddy-credential-pool/vault"
)

func init() {
	caddy.RegisterModule(new(App))
}

// Defaults of an App.
const (
	defaultProvider     = "generic"
	defaultSyncInterval = 2 * time.Second
)

// App owns pools of credentials, each of which puts several accounts of one
// HTTP API behind one door. Requests go through a pool with the
// `credential_pool` handler.
type App struct {
	// Where credentials are kept that do not stand in this config.
	Vault *VaultConfig `json:"vault,omitempty"`

	// The pools, by name. A name has at most 63 lower-case letters, digits,
	// `_` and `-`, and starts with a letter or digit.
	Pools map[string]*PoolConfig `json:"pools,omitempty"`

	// Who is told when a pool fails over, is exhausted, or is steered by the
	// operator.
	NotifiersRaw []json.RawMessage `json:"notifiers,omitempty" caddy:"namespace=credential_pool.notifiers inline_key=notifier"`

	// For how long the same notice is counted instead of repeated. Default:
	// `30s`.
	NoticeWindow caddy.Duration `json:"notice_window,omitempty"`

	// How often the vault is looked at for credentials that another process has
	// put or removed. Default: `2s`.
	SyncInterval caddy.Duration `json:"sync_interval,omitempty"`

	ctx     caddy.Context
	logger  *zap.Logger
	storage certmagic.Storage
	vault   *vault.Vault
	looking patient[struct{}] // at the vault

	changing chan struct{} // holds one while the vault is changed
	pools    map[string]*servedPool

	notifiers  []Notifier
	dispatcher *dispatcher
	started    bool
	stop       context.CancelFunc
	running    sync.WaitGroup
}

// VaultConfig says how the vault is encrypted. Credentials are kept in Caddy's
// storage.
type VaultConfig struct {
	// The age secret keys (`AGE-SECRET-KEY-…`, as age-keygen makes them), as
	// placeholders such as `{env.CREDENTIAL_POOL_IDENTITY}` or
	// `{file./path/to/identity.txt}`. The first encrypts, all decrypt. Default:
	// with file-system storage one is made beside the credentials at the first
	// put; with any other storage one is required.
	Identities []string `json:"identities,omitempty"`
}

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

	// The longest wait that an answer may ask for. Default: `168h` (7 days).
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
	// The bench for the first failure.
	Base caddy.Duration `json:"base"`

	// The longest bench. Default: the kind's own, or `base` if that is longer.
	Cap caddy.Duration `json:"cap,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "credential_pool",
		New: func() caddy.Module { return new(App) },
	}
}

// Provision opens the vault and sets up the pools. It changes nothing of what
// outlives a config.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx, a.logger, a.storage = ctx, ctx.Logger(), ctx.Storage()
	a.pools = make(map[string]*servedPool, len(a.Pools))
	if a.SyncInterval == 0 {
		a.SyncInterval = caddy.Duration(defaultSyncInterval)
	}
	if err := a.openVault(); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(a.Pools)) {
		if err := a.provisionPool(name, a.Pools[name]); err != nil {
			return fmt.Errorf("pool %s: %w", printable(name), err)
		}
	}
	a.look(ctx)
	return a.provisionNotices(ctx)
}

// Validate checks the options.
func (a *App) Validate() error {
	if a.NoticeWindow < 0 {
		return errors.New("notice_window: it is negative")
	}
	if a.SyncInterval < caddy.Duration(100*time.Millisecond) {
		return errors.New("sync_interval: it must be at least 100ms")
	}
	return nil
}

func (a *App) openVault() error {
	a.changing = make(chan struct{}, 1)
	var identities []string
	if a.Vault != nil {
		for i, raw := range a.Vault.Identities {
			identity, err := expandSecret(raw)
			if err != nil {
				return fmt.Errorf("vault: identity %d: %w", i+1, err)
			}
			identities = append(identities, identity)
		}
	}
	var err error
	a.vault, err = vault.New(a.storage, identities, a.logger)
	return err
}

func (a *App) provisionPool(name string, cfg *PoolConfig) error {
	if err := checkName("pool", name); err != nil {
		return err
	}
	if cfg == nil || len(cfg.Members) == 0 {
		return errors.New("it has no member")
	}
	sp, err := cfg.served(name)
	if err != nil {
		return err
	}
	shared, err := acquireState(name, a.storage, time.Duration(cfg.MaxCooldown), a.logger)
	if err != nil {
		return err
	}
	sp.shared = shared
	a.pools[name] = sp
	config, err := cfg.poolConfig()
	if err != nil {
		return err
	}
	config.NoticeWindow = time.Duration(a.NoticeWindow)
	sp.Pool = pool.New(config, shared.state)
	return a.provisionMembers(sp, cfg)
}

func (a *App) provisionMembers(sp *servedPool, cfg *PoolConfig) error {
	for i, m := range cfg.Members {
		if m.Secret == "" {
			if err := a.vault.CanPut(); err != nil {
				return fmt.Errorf("member %s: %w", m.Name, err)
			}
			continue
		}
		secret, err := expandSecret(m.Secret)
		if err != nil {
			return fmt.Errorf("member %s: %w", m.Name, err)
		}
		if !httpguts.ValidHeaderFieldValue(secret) {
			return fmt.Errorf("member %s: the secret holds a control character, such as the end of a line", m.Name)
		}
		c := vault.Credential{ID: sp.shared.inlineIdentity(secret), Kind: vault.KindStatic, Secret: vault.NewSecret(secret)}
		sp.inline[m.Name] = struct{}{}
		if err := sp.arm(i, c); err != nil {
			return fmt.Errorf("member %s: %w; a secret that is given in the config has no fields, put the credential in the vault", m.Name, err)
		}
	}
	return nil
}

// served makes the pool as far as its options go.
func (cfg *PoolConfig) served(name string) (*servedPool, error) {
	provider, ok := classify.Lookup(orDefault(cfg.Provider, defaultProvider))
	if !ok {
		return nil, fmt.Errorf("provider: %q is not known; known: %s", printable(cfg.Provider), strings.Join(classify.Names(), ", "))
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
		for _, in := range provider.Inject {
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
	sp.metrics = newPoolMetrics(name, sp.names)
	return sp, nil
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

// provisionNotices sets up who is told, and the metrics.
func (a *App) provisionNotices(ctx caddy.Context) error {
	if len(a.NotifiersRaw) > 0 {
		mods, err := ctx.LoadModule(a, "NotifiersRaw")
		if err != nil {
			return fmt.Errorf("loading notifiers: %w", err)
		}
		for _, mod := range mods.([]any) {
			a.notifiers = append(a.notifiers, mod.(Notifier))
		}
	}
	emit, err := eventEmitter(ctx)
	if err != nil {
		return err
	}
	a.dispatcher = newDispatcher(notices, a.notifiers, a.logger, emit)
	return registerMetrics(ctx.GetMetricsRegistry(), a)
}

// Start begins to save, to look at the vault, and to send notices.
func (a *App) Start() error {
	ctx, cancel := context.WithCancel(context.Background())
	a.stop, a.started = cancel, true
	a.dispatcher.start()
	a.running.Go(func() { every(ctx, time.Duration(a.SyncInterval), func() { a.look(ctx) }) })
	a.running.Go(func() { every(ctx, saveInterval, func() { a.save(ctx) }) })
	return nil
}

// every calls f in that interval until the context ends.
func every(ctx context.Context, interval time.Duration, f func()) {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			f()
		}
	}
}

// Stop leaves the pools to the next config, if there is one, and gives notices
// a moment to be sent.
func (a *App) Stop() error {
	for _, sp := range a.pools {
		sp.Retire()
	}
	a.stop()
	a.running.Wait()
	a.save(context.Background())
	a.dispatcher.stop()
	return nil
}

// Cleanup gives back what this config has taken. Requests may have come to
// their end since Stop, so the state is saved once more.
func (a *App) Cleanup() error {
	if a.started {
		a.save(context.Background())
	}
	errs := make([]error, 0, len(a.pools))
	for _, sp := range a.pools {
		errs = append(errs, sp.shared.release())
	}
	return errors.Join(errs...)
}

// save writes the state of every pool that has changed. A storage that hangs is
// waited for once, not for each pool.
func (a *App) save(ctx context.Context) {
	for _, sp := range a.pools {
		if err := sp.shared.save(ctx, a.storage, a.logger); errors.Is(err, errStorageSilent) {
			return
		}
	}
}

// pool returns the pool of that name.
func (a *App) pool(name string) (*servedPool, bool) {
	sp, ok := a.pools[name]
	return sp, ok
}

// poolNames returns the names of all pools, sorted.
func (a *App) poolNames() []string {
	return slices.Sorted(maps.Keys(a.pools))
}

// served returns a pool for a handler.
func (a *App) served(name string) (*servedPool, error) {
	if sp, ok := a.pools[name]; ok {
		return sp, nil
	}
	known := "none is configured; add `pool " + printable(name) + " { … }` to the global option credential_pool"
	if names := a.poolNames(); len(names) > 0 {
		known = "configured: " + strings.Join(names, ", ")
	}
	return nil, fmt.Errorf("unknown pool %q; %s", printable(name), known)
}

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

// inlineIdentity tells one inline secret from another without saying which it
// is: a keyed hash.
func (s *sharedState) inlineIdentity(secret string) string {
	mac := hmac.New(sha256.New, s.key)
	mac.Write([]byte(secret))
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.Validator    = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)

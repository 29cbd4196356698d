// Package caddymodule holds the Caddy modules of the plugin: the app that owns
// the pools and the vault, the handler and the transport through which requests
// go, the admin routes and commands for the operator, and the notifiers.
package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/vault"
)

func init() {
	caddy.RegisterModule(new(App))
}

// Defaults of an App.
const (
	defaultProvider     = "generic"
	defaultSyncInterval = 2 * time.Second
	minSyncInterval     = 100 * time.Millisecond
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
	// put or removed. At least `100ms`. Default: `2s`.
	SyncInterval caddy.Duration `json:"sync_interval,omitempty"`

	ctx     caddy.Context
	logger  *zap.Logger
	storage certmagic.Storage
	vault   *vault.Vault
	looking patient[struct{}] // at the vault
	blind   bool              // the last look failed

	process *process // what this config shares with others

	refresher *refresher
	pools     map[string]*servedPool

	notifiers  []Notifier
	dispatcher *dispatcher
	started    bool
	stop       context.CancelFunc
	running    sync.WaitGroup

	phantoms phantomKeeper
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
	if a.SyncInterval != 0 && time.Duration(a.SyncInterval) < minSyncInterval {
		return fmt.Errorf("sync_interval: it must be at least %s", minSyncInterval)
	}
	return nil
}

func (a *App) openVault() error {
	a.process, a.phantoms.wanted = thisProcess, make(chan struct{}, 1)
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
	if a.vault, err = vault.New(a.storage, identities, a.logger); err != nil {
		return fmt.Errorf("vault: %w", err)
	}
	a.refresher = a.newRefresher()
	return nil
}

func (a *App) provisionPool(name string, cfg *PoolConfig) error {
	if err := checkName("pool", name); err != nil {
		return err
	}
	if cfg == nil {
		cfg = new(PoolConfig)
	}
	sp, err := cfg.served()
	if err != nil {
		return err
	}
	sp.metrics, sp.refresher = newPoolMetrics(name, sp.names), a.refresher
	shared, inherited, err := acquireState(name, a.storage, time.Duration(cfg.MaxCooldown), a.logger)
	if err != nil {
		return err
	}
	sp.shared, sp.inherited = shared, inherited
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
		if !httpguts.ValidHeaderFieldValue(secret) || strings.Trim(secret, " ") != secret {
			return fmt.Errorf("member %s: the secret holds a control character, such as the end of a line, or begins or ends with a space", m.Name)
		}
		c := vault.Credential{ID: sp.shared.inlineIdentity(secret), Kind: vault.KindStatic, Secret: vault.NewSecret(secret)}
		sp.inline[m.Name] = c.Secret
		if err := sp.arm(i, c); err != nil {
			return fmt.Errorf("member %s: %w; a secret that is given in the config has no fields, put the credential in the vault", m.Name, err)
		}
	}
	return nil
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

// Start begins to save, to look at the vault, to refresh logins, and to send
// notices.
func (a *App) Start() error {
	ctx, cancel := context.WithCancel(context.Background())
	a.stop, a.started = cancel, true
	a.dispatcher.start()
	a.running.Go(func() { every(ctx, time.Duration(a.SyncInterval), func() { a.look(ctx) }) })
	a.running.Go(func() { a.recheckPhantoms(ctx) })
	a.running.Go(func() { every(ctx, refreshTick, a.refreshLogins) })
	// A save that is under way when Stop is called is waited for.
	a.running.Go(func() { every(ctx, saveInterval, func() { a.save(context.Background()) }) })
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
	a.refresher.stop()
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

// save writes the state of every pool that has changed, or was inherited from
// the config before, which may have had another storage. A storage that hangs is
// waited for once, not for each pool.
func (a *App) save(ctx context.Context) {
	for _, sp := range a.pools {
		err := sp.shared.save(ctx, a.storage, a.logger, sp.inline, sp.inherited)
		if errors.Is(err, errStorageSilent) {
			return
		}
		if err == nil {
			sp.inherited = false
		}
	}
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

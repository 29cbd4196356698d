package caddymodule

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("credential_pool", parseApp)
	httpcaddyfile.RegisterHandlerDirective("credential_pool", parseHandler)
	httpcaddyfile.RegisterHandlerDirective("credential_pool_token", parseTokenHandler)
	// Both stand before reverse_proxy, the token endpoint first.
	httpcaddyfile.RegisterDirectiveOrder("credential_pool_token", httpcaddyfile.Before, "reverse_proxy")
	httpcaddyfile.RegisterDirectiveOrder("credential_pool", httpcaddyfile.Before, "reverse_proxy")
}

func parseApp(d *caddyfile.Dispenser, existing any) (any, error) {
	if existing != nil {
		d.Next() // so that the error has a place
		return nil, d.Err("the global option credential_pool is given twice")
	}
	app := new(App)
	if err := app.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: "credential_pool", Value: caddyconfig.JSON(app, nil)}, nil
}

// UnmarshalCaddyfile sets up the app from Caddyfile tokens. Syntax:
//
//	credential_pool {
//	    vault {
//	        identity <placeholder>
//	    }
//	    pool <name> {
//	        provider     <name>
//	        member       <name> [<placeholder>]
//	        cooldown     <kind> <base> [<cap>]
//	        max_cooldown <duration>
//	        park_for     <duration>
//	        inject       header|query <name> <template>
//	        hosts        <hosts…>
//	        scope        <placeholder>
//	        fail <kind> {
//	            status <codes…>
//	            header <name> [<values…>]
//	            body   <texts…>
//	        }
//	    }
//	    notify        <notifier> …
//	    notice_window <duration>
//	    sync_interval <duration>
//	}
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the option's name
	if d.NextArg() {
		return d.ArgErr()
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var err error
		switch word := d.Val(); word {
		case "vault":
			err = a.unmarshalVault(d)
		case "pool":
			err = a.unmarshalPool(d)
		case "notify":
			err = a.unmarshalNotifier(d)
		case "notice_window":
			err = oneDuration(d, &a.NoticeWindow)
		case "sync_interval":
			err = oneDuration(d, &a.SyncInterval)
		default:
			err = unknownWord(d, word, "vault, pool, notify, notice_window, sync_interval")
		}
		if err != nil {
			return err
		}
	}
	if err := a.Validate(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func (a *App) unmarshalVault(d *caddyfile.Dispenser) error {
	if a.Vault != nil {
		return d.Err("vault is given twice")
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	a.Vault = new(VaultConfig)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if word := d.Val(); word != "identity" {
			return unknownWord(d, word, "identity")
		}
		// ArgErr would quote what was given, and that may be a secret.
		args := d.RemainingArgs()
		if len(args) != 1 {
			return d.Err("identity wants one argument, a placeholder such as {env.CREDENTIAL_POOL_IDENTITY}")
		}
		a.Vault.Identities = append(a.Vault.Identities, args[0])
	}
	return nil
}

func (a *App) unmarshalNotifier(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	const namespace = "credential_pool.notifiers"
	name := d.Val()
	if _, err := caddy.GetModule(namespace + "." + name); err != nil {
		var known []string
		for _, mod := range caddy.GetModules(namespace) {
			known = append(known, mod.ID.Name())
		}
		return d.Errf("unknown notifier %s; known: %s", printable(name), strings.Join(known, ", "))
	}
	unm, err := caddyfile.UnmarshalModule(d, namespace+"."+name)
	if err != nil {
		return err
	}
	a.NotifiersRaw = append(a.NotifiersRaw, caddyconfig.JSONModuleObject(unm, "notifier", name, nil))
	return nil
}

func (a *App) unmarshalPool(d *caddyfile.Dispenser) error {
	var name string
	if err := oneArg(d, &name); err != nil {
		return err
	}
	if err := checkName("pool", name); err != nil {
		return d.WrapErr(err)
	}
	if _, twice := a.Pools[name]; twice {
		return d.Errf("pool %s is given twice", name)
	}
	cfg := new(PoolConfig)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := cfg.unmarshalWord(d, d.Val()); err != nil {
			return err
		}
	}
	if _, err := cfg.served(); err != nil {
		return d.Errf("pool %s: %w", name, err)
	}
	if _, err := cfg.poolConfig(); err != nil {
		return d.Errf("pool %s: %w", name, err)
	}
	if a.Pools == nil {
		a.Pools = make(map[string]*PoolConfig)
	}
	a.Pools[name] = cfg
	return nil
}

func (cfg *PoolConfig) unmarshalWord(d *caddyfile.Dispenser, word string) error {
	switch word {
	case "provider":
		if cfg.Provider != "" {
			return d.Err("provider is given twice")
		}
		if err := oneArg(d, &cfg.Provider); err != nil {
			return err
		}
		if _, err := cfg.provider(); err != nil {
			return d.WrapErr(err)
		}
		return nil
	case "member":
		return cfg.unmarshalMember(d)
	case "cooldown":
		return cfg.unmarshalCooldown(d)
	case "max_cooldown":
		return oneDuration(d, &cfg.MaxCooldown)
	case "park_for":
		return oneDuration(d, &cfg.ParkFor)
	case "inject":
		args := d.RemainingArgs()
		if len(args) != 3 {
			return d.Err("inject wants: header|query <name> <template>; put a template with a space in quotes")
		}
		in := Injection{In: args[0], Name: args[1], Template: args[2]}
		if _, err := in.compile(); err != nil {
			return d.WrapErr(err)
		}
		cfg.Inject = append(cfg.Inject, in)
		return nil
	case "hosts":
		args := d.RemainingArgs()
		if len(args) == 0 {
			return d.ArgErr()
		}
		cfg.Hosts = append(cfg.Hosts, args...)
		return nil
	case "scope":
		if cfg.Scope != "" {
			return d.Err("scope is given twice")
		}
		return oneArg(d, &cfg.Scope)
	case "fail":
		return cfg.unmarshalFail(d)
	default:
		return unknownWord(d, word, "provider, member, cooldown, max_cooldown, park_for, inject, hosts, scope, fail")
	}
}

func (cfg *PoolConfig) unmarshalFail(d *caddyfile.Dispenser) error {
	var rule FailRule
	if err := oneArg(d, &rule.Kind); err != nil {
		return err
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		word := d.Val()
		args := d.RemainingArgs()
		if len(args) == 0 {
			return d.ArgErr()
		}
		switch word {
		case "status":
			for _, arg := range args {
				status, err := strconv.Atoi(arg)
				if err != nil {
					return d.Errf("fail: %q is not a status such as 402", printable(arg))
				}
				rule.Status = append(rule.Status, status)
			}
		case "header":
			if rule.Header == nil {
				rule.Header = make(map[string][]string)
			}
			name := http.CanonicalHeaderKey(args[0])
			rule.Header[name] = append(append([]string{}, rule.Header[name]...), args[1:]...) // never null
		case "body":
			rule.Body = append(rule.Body, args...)
		default:
			return unknownWord(d, word, "status, header, body")
		}
	}
	if _, err := rule.compile(); err != nil {
		return d.WrapErr(err)
	}
	cfg.Fail = append(cfg.Fail, rule)
	return nil
}

func (cfg *PoolConfig) unmarshalMember(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 1 || len(args) > 2 {
		// ArgErr would quote what was given, and that may be a secret.
		return d.Err("member wants: <name> [<placeholder>]; put a value with a space in quotes")
	}
	m := Member{Name: args[0]}
	if err := checkName("member", m.Name); err != nil {
		return d.WrapErr(err)
	}
	for _, other := range cfg.Members {
		if other.Name == m.Name {
			return d.Errf("member %s is given twice", m.Name)
		}
	}
	if len(args) == 2 {
		if m.Secret = args[1]; !placeholder.MatchString(m.Secret) {
			return d.Errf("member %s: %w", m.Name, errSecretInConfig)
		}
	}
	cfg.Members = append(cfg.Members, m)
	return nil
}

func (cfg *PoolConfig) unmarshalCooldown(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 2 || len(args) > 3 {
		return d.Errf("cooldown wants: <kind> <base> [<cap>], where kind is one of %s", benchingKinds())
	}
	if _, twice := cfg.Cooldowns[args[0]]; twice {
		return d.Errf("cooldown %s is given twice", args[0])
	}
	var cd Cooldown
	for i, to := range []*caddy.Duration{&cd.Base, &cd.Cap}[:len(args)-1] {
		dur, err := caddy.ParseDuration(args[i+1])
		if err != nil {
			return d.Errf("cooldown %s: %q is not a duration such as 60s or 30m", args[0], args[i+1])
		}
		*to = caddy.Duration(dur)
	}
	if cfg.Cooldowns == nil {
		cfg.Cooldowns = make(map[string]Cooldown)
	}
	cfg.Cooldowns[args[0]] = cd
	if _, err := cfg.poolConfig(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// oneArg reads the one argument of a word.
func oneArg(d *caddyfile.Dispenser, to *string) error {
	args := d.RemainingArgs()
	if len(args) != 1 {
		return d.ArgErr()
	}
	*to = args[0]
	return nil
}

// oneDuration reads the one argument of a word that is given once.
func oneDuration(d *caddyfile.Dispenser, to *caddy.Duration) error {
	word := d.Val()
	if *to != 0 {
		return d.Errf("%s is given twice", word)
	}
	var text string
	if err := oneArg(d, &text); err != nil {
		return err
	}
	dur, err := caddy.ParseDuration(text)
	if err != nil || dur <= 0 {
		return d.Errf("%s: %q is not a duration such as 30s or 5m", word, text)
	}
	*to = caddy.Duration(dur)
	return nil
}

func unknownWord(d *caddyfile.Dispenser, word, known string) error {
	return d.Errf("unknown word %s; known: %s", printable(word), known)
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*App)(nil)
)

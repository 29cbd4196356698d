package classify

import (
	"net/http"
	"slices"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

// Provider is what is known about one API provider. The tables are shared:
// they must not be changed.
type Provider struct {
	// Name is what a user writes: lower case, unique.
	Name string

	// Inject is how a credential is put into a request, for all kinds of
	// credential. [Provider.Injections] has those of one kind.
	Inject []Injection

	// Headers are further headers that requests need, by kind of credential.
	Headers []Header

	// Strip are headers of the client's to remove, in canonical form, besides
	// those in which a credential travels by custom: they would name the
	// client's account, or hold its credential.
	Strip []string

	// StripParams are query parameters of the client's to remove for the same
	// reason, whatever case they are written in.
	StripParams []string

	// Rules are asked in order about a failure; the first that holds decides.
	// What none of them decides benches nobody.
	Rules []Rule

	// Success are rules about an answer that was served and tells that the
	// next one will not be. They look at headers only.
	Success []Rule

	// SmallBodies says which answers with a status of 2xx may report a failure
	// in a small JSON body, by their headers; nil for none.
	SmallBodies func(http.Header) bool

	// Streams is true if a 200 with an event stream can fail in its first
	// events.
	Streams bool

	// Resource returns the part of the API that a path belongs to, as the keys of
	// its verdicts name it ("resource:search"); nil if no verdict does.
	Resource func(path string) string

	// Waits are the places in which an answer says how long to wait.
	Waits []Wait

	// user are the rules of [Provider.With].
	user []Rule
}

// Kinds of credential.
const (
	KindStatic = "static"
	KindOAuth  = "oauth"
)

// Injection is one request header that carries the credential.
type Injection struct {
	// Kind is the kind of credential that travels so; empty for every kind.
	Kind string

	// Name is the header's name, in canonical form.
	Name string

	// Template is the header's value. {credential} stands for the secret,
	// {credential.<field>} for an extra field of it.
	Template string

	// Source is where the provider documents it.
	Source string
}

// Header is one more request header that the API needs.
type Header struct {
	// Kind is the kind of credential that needs it; empty for every kind.
	Kind string

	// Name is the header's name, in canonical form.
	Name string

	// Value is the header's value.
	Value string

	// Append adds the value to the client's comma-separated list, unless it is
	// in there. Otherwise it takes the place of the client's value.
	Append bool

	// Source is where the provider documents it.
	Source string
}

// Injections returns how a credential of that kind is put into a request.
func (p *Provider) Injections(kind string) []Injection {
	var of []Injection
	for _, in := range p.Inject {
		if in.Kind == "" || in.Kind == kind {
			of = append(of, in)
		}
	}
	return of
}

// ExtraHeaders returns the further headers that requests with a credential of
// that kind need.
func (p *Provider) ExtraHeaders(kind string) []Header {
	var of []Header
	for _, h := range p.Headers {
		if h.Kind == "" || h.Kind == kind {
			of = append(of, h)
		}
	}
	return of
}

// Scoped reports whether a verdict can be about one model or resource alone, so
// that it matters what a request asks for.
func (p *Provider) Scoped() bool {
	return slices.ContainsFunc(slices.Concat(p.Rules, p.Success), func(r Rule) bool { return r.Scope == pool.ScopeModel })
}

// With returns the provider with further rules, which are asked before its own
// and, unlike those, about every status from 400 on, or below where they list
// it. They are about the API, not the token endpoint.
func (p *Provider) With(rules ...Rule) *Provider {
	with := *p
	with.user = slices.Clone(p.user)
	for _, r := range rules {
		r.Endpoint, r.own = EndpointAPI, true
		if r.Name == "" {
			r.Name = "fail"
		}
		if r.Source == "" {
			r.Source = "the pool's own rule"
		}
		if r.Scope == "" {
			r.Scope = scopeOf(r.Meaning)
		}
		r.Header = slices.Clone(r.Header)
		for i := range r.Header {
			r.Header[i].Name = http.CanonicalHeaderKey(r.Header[i].Name)
		}
		r.Words, r.Body = lowerAll(r.Words), lowerAll(r.Body)
		with.user = append(with.user, r)
	}
	return &with
}

// providers holds every table, in order of name.
var providers = []*Provider{
	&anthropic,
	&azureOpenAI,
	&bedrock,
	&codex,
	&gemini,
	&generic,
	&github,
	&groq,
	&huggingface,
	&mistral,
	&openai,
	&openrouter,
	&slack,
	&stripe,
	&xai,
}

// TokenRules returns the rules that are asked about every provider's token
// endpoint, after the provider's own.
func TokenRules() []Rule { return slices.Clone(tokenRules) }

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

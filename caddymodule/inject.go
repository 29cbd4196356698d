package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/credentialpool/caddy-credential-pool/vault"
)

// Injection is one place in a request where the credential is put.
type Injection struct {
	// Where the value goes: `header` or `query`. Default: `header`.
	In string `json:"in,omitempty"`

	// The name of the header, such as `X-Api-Key`, or of the query parameter.
	Name string `json:"name"`

	// The value, with `{credential}` for the secret and `{credential.<field>}`
	// for one of its extra fields, such as `Bearer {credential}`.
	Template string `json:"template"`
}

// Places of an Injection.
const (
	inHeader = "header"
	inQuery  = "query"
)

// injection is an Injection compiled at Provision.
type injection struct {
	in    string
	name  string // canonical, if it is a header's
	parts []part
}

// part is a piece of a template: a literal, the secret, or an extra field.
type part struct {
	literal string
	field   string
	secret  bool
}

func (in injection) String() string { return "inject " + in.in + " " + in.name }

func (in Injection) compile() (injection, error) {
	c := injection{in: orDefault(in.In, inHeader), name: in.Name}
	switch c.in {
	case inHeader:
		if !httpguts.ValidHeaderFieldName(in.Name) {
			return c, fmt.Errorf("inject header: %q is not a header name", in.Name)
		}
		c.name = http.CanonicalHeaderKey(in.Name)
		if _, hop := hopByHop[c.name]; hop {
			return c, fmt.Errorf("%s: that header is about the connection and can't carry a credential", c)
		}
	case inQuery:
		if in.Name == "" || url.QueryEscape(in.Name) != in.Name {
			return c, fmt.Errorf("inject query: %q is not the name of a parameter", in.Name)
		}
	default:
		return c, fmt.Errorf("inject: unknown place %q; known: header, query", in.In)
	}
	var err error
	if c.parts, err = parseTemplate(in.Template); err != nil {
		return c, fmt.Errorf("%s: %w", c, err)
	}
	return c, nil
}

// hopByHop are headers that a proxy or net/http writes itself (RFC 9110,
// section 7.6.1).
var hopByHop = map[string]struct{}{
	"Connection": {}, "Proxy-Connection": {}, "Keep-Alive": {}, "Te": {}, "Trailer": {}, "Transfer-Encoding": {},
	"Upgrade": {}, "Host": {}, "Content-Length": {}, "Accept-Encoding": {},
}

func parseTemplate(template string) ([]part, error) {
	var parts []part
	holds := false
	for rest := template; rest != ""; {
		literal, after, found := strings.Cut(rest, "{")
		if literal != "" {
			if !httpguts.ValidHeaderFieldValue(literal) {
				return nil, errors.New("the template holds a control character")
			}
			parts = append(parts, part{literal: literal})
		}
		if !found {
			break
		}
		placeholder, after, closed := strings.Cut(after, "}")
		field, isField := strings.CutPrefix(placeholder, "credential.")
		switch {
		case !closed:
			return nil, errors.New("the template has a { without a }")
		case placeholder == "credential":
			parts = append(parts, part{secret: true})
		case isField && field != "":
			parts = append(parts, part{field: field})
		default:
			return nil, errors.New("the template may hold {credential} and {credential.<field>} only")
		}
		holds = true
		rest = after
	}
	if !holds {
		return nil, errors.New("the template needs {credential} or {credential.<field>}")
	}
	return parts, nil
}

// render puts the credential in. It fails if the credential lacks a field.
func (in injection) render(c vault.Credential) (string, error) {
	var b strings.Builder
	for _, p := range in.parts {
		switch {
		case p.secret:
			b.WriteString(c.Secret.Reveal())
		case p.field != "":
			v, ok := c.Fields[p.field]
			if !ok {
				return "", fmt.Errorf("the credential has no field %q, which %s needs", p.field, in)
			}
			b.WriteString(v.Reveal())
		default:
			b.WriteString(p.literal)
		}
	}
	return b.String(), nil
}

// presented returns the client's token from where the injection writes; empty if
// there is none.
func (in injection) presented(r *http.Request) string {
	values := r.Header[in.name]
	if in.in == inQuery {
		values = r.URL.Query()[in.name]
	}
	if len(values) != 1 {
		return ""
	}
	v := strings.TrimSpace(values[0])
	if prefix := in.parts[0].literal; prefix != "" {
		if len(v) < len(prefix) || !strings.EqualFold(v[:len(prefix)], prefix) {
			return ""
		}
		v = strings.TrimSpace(v[len(prefix):])
	}
	return v
}

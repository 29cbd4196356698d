package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/credentialpool/caddy-credential-pool/vault"
)

// Injection is one place in a request where the credential is put.
type Injection struct {
	// Where the value goes. Only `header` is known; it is the default.
	In string `json:"in,omitempty"`

	// The name of the header, such as `X-Api-Key`.
	Name string `json:"name"`

	// The value, with `{credential}` for the secret and `{credential.<field>}`
	// for one of its extra fields, such as `Bearer {credential}`.
	Template string `json:"template"`
}

// injection is an Injection compiled at Provision.
type injection struct {
	name  string // canonical
	parts []part
}

// part is a piece of a template: a literal, the secret, or an extra field.
type part struct {
	literal string
	field   string
	secret  bool
}

func (in Injection) compile() (injection, error) {
	if in.In != "" && in.In != "header" {
		return injection{}, fmt.Errorf("inject: unknown place %q; known: header", in.In)
	}
	if !httpguts.ValidHeaderFieldName(in.Name) {
		return injection{}, fmt.Errorf("inject header: %q is not a header name", in.Name)
	}
	name := http.CanonicalHeaderKey(in.Name)
	if _, hop := hopByHop[name]; hop {
		return injection{}, fmt.Errorf("inject header: %s is about the connection and can't carry a credential", name)
	}
	parts, err := parseTemplate(in.Template)
	if err != nil {
		return injection{}, fmt.Errorf("inject header %s: %w", name, err)
	}
	return injection{name, parts}, nil
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
				return "", fmt.Errorf("the credential has no field %q, which inject header %s needs", p.field, in.name)
			}
			b.WriteString(v.Reveal())
		default:
			b.WriteString(p.literal)
		}
	}
	return b.String(), nil
}

// presented returns the client's token from the header that the injection
// writes; empty if there is none.
func (in injection) presented(h http.Header) string {
	values := h[in.name]
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

package caddymodule

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// checkName refuses names that storages, metrics and URLs could take for
// something else. It does not quote them: where a name is forgotten, a secret
// may stand in its place.
func checkName(what, name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("this is no %s name: a name has at most 63 lower-case letters, digits, _ and -, and starts with a letter or digit", what)
	}
	return nil
}

var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// printable shortens what a user wrote, for an error's text.
func printable(s string) string {
	const limit = 80
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

var (
	// placeholder is anything that Caddy may replace.
	placeholder = regexp.MustCompile(`\{[a-z_]+\.[^{}\s]+\}`)

	// lookup is a placeholder that reads from the environment or a file.
	lookup = regexp.MustCompile(`\{(?:env|file)\.[^{}\s]+\}`)
)

// expand replaces placeholders. Its error names them, and never the value.
func expand(repl *caddy.Replacer, value string) (string, error) {
	expanded, err := repl.ReplaceOrErr(value, true, true)
	if err != nil {
		if named := lookup.FindAllString(value, -1); len(named) > 0 {
			return "", fmt.Errorf("%s is not set, or can't be read", strings.Join(named, " or "))
		}
		return "", fmt.Errorf("it holds a placeholder that is not known: %s", strings.Join(placeholder.FindAllString(value, -1), " or "))
	}
	if expanded = strings.TrimRight(expanded, "\r\n"); expanded == "" {
		return "", errors.New("it is empty")
	}
	return expanded, nil
}

var errSecretInConfig = errors.New("a secret may not stand in the config, where the admin API shows it; use a placeholder such as {env.NAME} or {file./path} ({$NAME} is replaced too early)")

// expandSecret replaces placeholders in a secret. One that stands in the config
// itself is refused: the admin API would show it.
func expandSecret(value string) (string, error) {
	if !placeholder.MatchString(value) {
		return "", errSecretInConfig
	}
	return expand(caddy.NewReplacer(), value)
}

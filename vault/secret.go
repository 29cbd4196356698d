package vault

import (
	"fmt"
	"io"
)

const redacted = "REDACTED"

// Secret is a string that shows itself only to those who ask for it by name:
// whatever prints, logs or marshals it gets the word REDACTED instead. The zero
// value is the empty secret.
type Secret struct {
	// == would compare pointers, so it must not compile.
	_ [0]func()

	// A pointer, because fmt calls no methods on unexported fields: inside
	// one, it prints the address, where it would print a string.
	value *string
}

// NewSecret makes a secret of s.
func NewSecret(s string) Secret {
	if s == "" {
		return Secret{}
	}
	return Secret{value: &s}
}

// Reveal returns the secret itself. Nothing else does.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// IsZero reports whether the secret is empty.
func (s Secret) IsZero() bool { return s.value == nil }

// String returns REDACTED.
func (Secret) String() string { return redacted }

// GoString returns REDACTED.
func (Secret) GoString() string { return redacted }

// Format writes REDACTED, whatever the verb and flags.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText returns REDACTED.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON returns "REDACTED".
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// Interface guards
var (
	_ fmt.Formatter  = Secret{}
	_ fmt.Stringer   = Secret{}
	_ fmt.GoStringer = Secret{}
)

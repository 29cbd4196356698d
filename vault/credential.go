package vault

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// KindStatic is the kind of a credential that stays as it was put: a key or a
// token, with optional extra fields.
const KindStatic = "static"

// Bounds of what can be put.
const (
	maxNameLen  = 63       // bytes in one segment of a name, or in a field's name
	maxFields   = 32       // extra fields of one credential
	maxValueLen = 32 << 10 // bytes in a secret or a field's value
)

// Credential is one secret of the vault, with all that belongs to it.
type Credential struct {
	// Name is "<pool>/<member>". Each of the two has 1 to 63 of a-z, 0-9, _
	// and -, and starts with a letter or digit.
	Name string

	// Kind is KindStatic or KindOAuth.
	Kind string

	// ID tells two credentials apart that had the same name one after the
	// other. Every put makes a new one.
	ID string

	// Generation counts the secrets that were kept under one ID, from 1.
	Generation uint64

	// Updated is when the credential was put, in UTC, in whole seconds.
	Updated time.Time

	// Secret is the key, or a login's access token: UTF-8 of 1 to 32,768 bytes without control characters of
	// ASCII, and without a space at either end, since it travels in HTTP
	// headers.
	Secret Secret

	// Fields are further values that the API wants beside the secret, such as
	// an account's ID: at most 32, each bounded as Secret is. Their names have
	// 1 to 63 of a-z, 0-9 and _, and start with a letter.
	Fields map[string]Secret

	// OAuth is the rest of a login; nil for all other kinds.
	OAuth *OAuth
}

// Info is what may be shown of a credential: all but its values.
type Info struct {
	Name    string    `json:"name"`
	Kind    string    `json:"kind"`
	ID      string    `json:"id"`
	Updated time.Time `json:"updated,omitzero"`

	// Fields are the names of the extra fields, sorted, and never nil.
	Fields []string `json:"fields"`

	// ExpiresAt is when a login's access token ends, and RefreshedAt when it was
	// last refreshed, if that is known.
	ExpiresAt   time.Time `json:"expires_at,omitzero"`
	RefreshedAt time.Time `json:"refreshed_at,omitzero"`

	// NeedsLogin is true if a login can't be refreshed any more, for that Reason.
	NeedsLogin bool   `json:"needs_login,omitempty"`
	Reason     string `json:"reason,omitempty"`

	// Error says why the record can't be used; then all but Name is empty.
	Error string `json:"error,omitempty"`
}

func (c Credential) info() Info {
	fields := slices.AppendSeq([]string{}, maps.Keys(c.Fields))
	slices.Sort(fields)
	info := Info{Name: c.Name, Kind: c.Kind, ID: c.ID, Updated: c.Updated, Fields: fields}
	if o := c.OAuth; o != nil {
		info.ExpiresAt, info.RefreshedAt = o.ExpiresAt, o.RefreshedAt
		info.NeedsLogin, info.Reason = o.Lost != "", o.Lost
	}
	return info
}

// Check reports whether Put takes the credential, but for its name. The error
// wraps ErrInvalid, and shows no value.
func (c Credential) Check() error {
	if err := c.check(); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

// check reports what is wrong with the parts that the operator gives. Its errors
// show no value, and no field's name that is not well formed either, in case it
// is a value in the wrong place.
func (c Credential) check() error {
	secret := "secret"
	switch {
	case c.Kind != KindStatic && c.Kind != KindOAuth:
		return fmt.Errorf("kind is not known (known: %s, %s)", KindStatic, KindOAuth)
	case (c.Kind == KindOAuth) != (c.OAuth != nil):
		return fmt.Errorf("what belongs to a login is for kind %s, which needs it", KindOAuth)
	case c.OAuth != nil:
		secret = "access_token"
		if err := c.OAuth.check(); err != nil {
			return err
		}
	}
	if err := checkValue(c.Secret.Reveal()); err != nil {
		return fmt.Errorf("%s %w", secret, err)
	}
	if len(c.Fields) > maxFields {
		return fmt.Errorf("%d fields are too many (at most %d)", len(c.Fields), maxFields)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Fields)) {
		if !validFieldName(name) {
			return errors.New("a field's name is not of 1 to 63 of a-z, 0-9 and _, starting with a letter")
		}
		if err := checkValue(c.Fields[name].Reveal()); err != nil {
			return fmt.Errorf("field %q %w", name, err)
		}
	}
	return nil
}

// checkValue finishes the sentence that begins with what the value is.
func checkValue(s string) error {
	switch {
	case s == "":
		return errors.New("is empty")
	case len(s) > maxValueLen:
		return fmt.Errorf("has more than %d bytes", maxValueLen)
	case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return errors.New("has a control character, such as a line break")
	case strings.Trim(s, " ") != s:
		return errors.New("begins or ends with a space")
	case !utf8.ValidString(s):
		return errors.New("is not UTF-8")
	}
	return nil
}

func validFieldName(s string) bool {
	return len(s) >= 1 && len(s) <= maxNameLen && isLower(s[0]) &&
		!strings.ContainsFunc(s, func(r rune) bool { return !isWord(r) })
}

// checkName refuses all that is not "<pool>/<member>". The name becomes part of
// a key, and storage does not clean its keys.
func checkName(name string) error {
	pool, member, _ := strings.Cut(name, "/")
	if validSegment(pool) && validSegment(member) {
		return nil
	}
	const shown = 64
	more := ""
	if len(name) > shown {
		name, more = name[:shown], "..."
	}
	return fmt.Errorf("name %q%s is not <pool>/<member>, each of 1 to %d of a-z, 0-9, _ and -, "+
		"starting with a letter or digit", name, more, maxNameLen)
}

func validSegment(s string) bool {
	return len(s) >= 1 && len(s) <= maxNameLen && (isLower(s[0]) || isDigit(s[0])) &&
		!strings.ContainsFunc(s, func(r rune) bool { return !isWord(r) && r != '-' })
}

func isLower[T byte | rune](c T) bool { return 'a' <= c && c <= 'z' }

func isDigit[T byte | rune](c T) bool { return '0' <= c && c <= '9' }

func isWord(r rune) bool { return isLower(r) || isDigit(r) || r == '_' }

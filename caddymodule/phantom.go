package caddymodule

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/credentialpool/caddy-credential-pool/vault"
)

const (
	// phantomSubject is how the subject of a phantom begins; the pool's name
	// follows.
	phantomSubject = "credential-pool:"

	// phantomRefresh is how a phantom refresh token begins. 43 digits of base64
	// follow.
	phantomRefresh = "cpr_"

	// phantomExpiry is 2100-01-01, before the dates at which 32 bits are too few.
	phantomExpiry = 4102444800
)

// phantomTokens are what a pool's clients hold in place of a login: tokens that
// are worth nothing elsewhere. They are made from the pool's name and the key in
// the vault and from nothing else, so that a client finds them the same, byte for
// byte, whatever member is active, after a restart, and on every instance.
type phantomTokens struct {
	access, refresh, id string
	accessHash          [sha256.Size]byte
	refreshHash         [sha256.Size]byte
}

// phantomClaims are those of a phantom access or ID token. The order of the
// fields is that of the bytes, and may not change.
type phantomClaims struct {
	Subject string            `json:"sub"`
	Email   string            `json:"email,omitempty"`
	Expiry  int64             `json:"exp"`
	OpenAI  phantomAuthClaims `json:"https://api.openai.com/auth"`
}

// phantomAuthClaims are what Codex CLI reads from a login.
type phantomAuthClaims struct {
	Plan    string `json:"chatgpt_plan_type"`
	Account string `json:"chatgpt_account_id"`
}

// newPhantomTokens makes the tokens of a pool.
func newPhantomTokens(key vault.Secret, pool string) (*phantomTokens, error) {
	secret := []byte(key.Reveal())
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: secret}, new(jose.SignerOptions).WithType("JWT"))
	if err != nil {
		return nil, fmt.Errorf("signing phantom tokens: %w", err)
	}
	sign := func(c phantomClaims) (string, error) {
		payload, err := json.Marshal(c)
		if err != nil {
			return "", fmt.Errorf("encoding the claims of a phantom token: %w", err)
		}
		signed, err := signer.Sign(payload)
		if err != nil {
			return "", fmt.Errorf("signing phantom tokens: %w", err)
		}
		return signed.CompactSerialize()
	}
	claims := phantomClaims{
		Subject: phantomAccount(pool), Expiry: phantomExpiry,
		OpenAI: phantomAuthClaims{Plan: "plus", Account: phantomAccount(pool)},
	}
	p := new(phantomTokens)
	if p.access, err = sign(claims); err != nil {
		return nil, err
	}
	claims.Email = pool + "@credential-pool.invalid" // a name that nobody can have (RFC 2606)
	if p.id, err = sign(claims); err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("refresh_token " + pool)) // no JWT begins like that
	p.refresh = phantomRefresh + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	p.accessHash, p.refreshHash = sha256.Sum256([]byte(p.access)), sha256.Sum256([]byte(p.refresh))
	return p, nil
}

// phantomAccount is the account that a client believes to have.
func phantomAccount(pool string) string { return phantomSubject + pool }

// phantomJWT is how a phantom JWT begins, whatever the pool and the key: its
// header, and its claims up to the pool's name.
var phantomJWT = base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." +
	base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"`+phantomSubject))

// looksLikePhantom reports whether a token was made as a phantom, whatever the
// pool and the key.
func looksLikePhantom(token string) bool {
	digits, ok := strings.CutPrefix(token, phantomRefresh)
	if !ok {
		if !strings.HasPrefix(token, phantomJWT) {
			return false
		}
		_, digits, _ = strings.Cut(token[len(phantomJWT):], ".")
	}
	mac, err := base64.RawURLEncoding.DecodeString(digits)
	return err == nil && len(mac) == sha256.Size
}

// holdsPhantom reports whether there is a phantom in a text: in plain, or escaped
// as in a URL or in JSON.
func holdsPhantom(text string) bool {
	return hasPhantom(text) || (strings.ContainsAny(text, `%\`) && hasPhantom(unescapeASCII(text)))
}

// unescapeASCII returns the text with the characters in plain that a URL or JSON
// has escaped.
func unescapeASCII(text string) string {
	plain := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		mark := 0
		switch {
		case text[i] == '%':
			mark = len(`%`)
		case strings.HasPrefix(text[i:], `\u00`):
			mark = len(`\u00`)
		}
		var c [1]byte
		if end := i + mark + 2; mark > 0 && end <= len(text) {
			if _, err := hex.Decode(c[:], []byte(text[end-2:end])); err == nil {
				plain = append(plain, c[0])
				i = end - 1
				continue
			}
		}
		plain = append(plain, text[i])
	}
	return string(plain)
}

// hasPhantom reports whether one of the words of a text is a phantom.
func hasPhantom(text string) bool {
	for word := range strings.FieldsFuncSeq(text, endsToken) {
		if looksLikePhantom(word) {
			return true
		}
	}
	return false
}

// endsToken reports whether a phantom can't have that character.
func endsToken(c rune) bool {
	return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.'
}

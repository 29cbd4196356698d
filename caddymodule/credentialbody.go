package caddymodule

import (
	"errors"
	"fmt"
	"time"

	"github.com/credentialpool/caddy-credential-pool/vault"
)

// credentialBody is a credential as the operator puts it. The keys after Fields
// are those of kind oauth, which has no secret.
type credentialBody struct {
	Kind   string            `json:"kind"`
	Secret string            `json:"secret"`
	Fields map[string]string `json:"fields"`

	AccessToken  string   `json:"access_token"`
	RefreshToken string   `json:"refresh_token"`
	ExpiresAt    string   `json:"expires_at"`
	TokenURL     string   `json:"token_url"`
	ClientID     string   `json:"client_id"`
	ClientSecret string   `json:"client_secret"`
	AuthStyle    string   `json:"auth_style"`
	Scopes       []string `json:"scopes"`
}

// credential checks which keys belong together; the vault checks their values.
// Errors show no value.
func (b credentialBody) credential(name string) (vault.Credential, error) {
	c := vault.Credential{Name: name, Kind: orDefault(b.Kind, vault.KindStatic), Fields: make(map[string]vault.Secret, len(b.Fields))}
	for field, v := range b.Fields {
		c.Fields[field] = vault.NewSecret(v)
	}
	if c.Kind != vault.KindOAuth {
		c.Secret = vault.NewSecret(b.Secret)
		if b.AccessToken+b.RefreshToken+b.ExpiresAt+b.TokenURL+b.ClientID+b.ClientSecret+b.AuthStyle != "" || len(b.Scopes) > 0 {
			return c, fmt.Errorf("%w: tokens, and what refreshes them, are for kind %s", vault.ErrInvalid, vault.KindOAuth)
		}
		return c, nil
	}
	if b.Secret != "" {
		return c, fmt.Errorf("%w: kind %s has an access_token, and no secret", vault.ErrInvalid, vault.KindOAuth)
	}
	c.Secret = vault.NewSecret(b.AccessToken)
	c.OAuth = &vault.OAuth{
		RefreshToken: vault.NewSecret(b.RefreshToken), TokenURL: b.TokenURL, ClientID: b.ClientID,
		ClientSecret: vault.NewSecret(b.ClientSecret), AuthStyle: b.AuthStyle, Scopes: b.Scopes,
	}
	var err error
	if c.OAuth.ExpiresAt, err = b.expiry(); err != nil {
		return c, fmt.Errorf("%w: expires_at: %w", vault.ErrInvalid, err)
	}
	return c, nil
}

// expiry returns when the access token ends: as given, or as the token says
// itself. It is zero if neither does.
func (b credentialBody) expiry() (time.Time, error) {
	if b.ExpiresAt == "" {
		return tokenExpiry(b.AccessToken), nil
	}
	t, err := time.Parse(time.RFC3339, b.ExpiresAt)
	if err != nil {
		return t, errors.New("it must be a time such as 2006-01-02T15:04:05Z")
	}
	return t, nil
}

package caddymodule

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
)

// jwtClaims reads the claims of a JWT, and reports whether it is one. The
// signature is for others to check: nothing is granted by what is read here.
func jwtClaims(token string, into any) bool {
	_, rest, _ := strings.Cut(token, ".")
	payload, _, ok := strings.Cut(rest, ".")
	if !ok {
		return false
	}
	plain, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(payload, "="))
	return err == nil && json.Unmarshal(plain, into) == nil
}

// tokenExpiry returns when an access token ends, if it is a JWT that says so
// (RFC 7519, section 4.1.4); else a zero time.
func tokenExpiry(token string) time.Time {
	var claims struct {
		Expiry float64 `json:"exp"`
	}
	const latest = 253402300799 // in year 9999
	if !jwtClaims(token, &claims) || claims.Expiry < 1 || claims.Expiry > latest {
		return time.Time{}
	}
	return time.Unix(int64(claims.Expiry), 0).UTC()
}

// accountOf returns the account that an ID token of OpenAI names beside the
// person, which their API wants in a header; else it is empty.
func accountOf(idToken string) string {
	var claims struct {
		OpenAI struct {
			Account string `json:"chatgpt_account_id"`
		} `json:"https://api.openai.com/auth"` // github.com/openai/codex, codex-rs/login
	}
	if !jwtClaims(idToken, &claims) {
		return ""
	}
	return claims.OpenAI.Account
}

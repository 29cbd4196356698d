package caddymodule

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
)

// tokenExpiry returns when an access token ends, if it is a JWT that says so
// (RFC 7519, section 4.1.4); else a zero time. The signature is for the API to
// check: nothing is granted by what is read here.
func tokenExpiry(token string) time.Time {
	_, rest, _ := strings.Cut(token, ".")
	payload, _, ok := strings.Cut(rest, ".")
	if !ok {
		return time.Time{}
	}
	plain, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(payload, "="))
	if err != nil {
		return time.Time{}
	}
	var claims struct {
		Expiry float64 `json:"exp"`
	}
	const latest = 253402300799 // in year 9999
	if json.Unmarshal(plain, &claims) != nil || claims.Expiry < 1 || claims.Expiry > latest {
		return time.Time{}
	}
	return time.Unix(int64(claims.Expiry), 0).UTC()
}

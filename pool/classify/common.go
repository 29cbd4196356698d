package classify

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

// Rules that hold for more than one provider.

// challenge is a Cloudflare page in place of the API's answer. It is about our
// address or the request's looks: any other account would get it too.
var challenge = Rule{
	Name:    "cloudflare-challenge",
	Header:  []HeaderIs{{Name: "Cf-Mitigated"}},
	Meaning: pool.RequestError,
	Source:  "developers.cloudflare.com/cloudflare-challenges/challenge-types/challenge-pages/detect-response",
}

// blockedAddress is Cloudflare's error page, or its one-line form.
var blockedAddress = Rule{
	Name:    "cloudflare-block",
	Status:  []int{403, 429},
	Also:    "the body is a page of Cloudflare's, or its line with an error code",
	bodyIf:  isCloudflarePage,
	Meaning: pool.RequestError,
	Source:  "developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-1xxx-errors",
}

func isCloudflarePage(e *evidence) bool {
	if e.markup {
		server := e.Header["Server"]
		return len(server) > 0 && strings.EqualFold(server[0], "cloudflare") || containsAny(e.lowered(), []string{"cloudflare"})
	}
	return e.says(everyPart, []string{"error code: 10"}) // 1000 to 1099
}

// lostRefreshTokens are the words of OAuth 2, and those that providers put in
// their place, for a refresh token or a client that will not work again.
var lostRefreshTokens = []string{
	// RFC 6749 section 5.2, RFC 6750 section 3.1
	"invalid_grant", "invalid_token", "invalid_client", "unauthorized_client",
	// OpenID Connect Core 1.0 section 3.1.2.6, as Microsoft's token endpoint uses them
	"interaction_required", "login_required", "consent_required",
	// seen at several providers
	"invalid_refresh_token", "bad_refresh_token", "expired_refresh_token",
	"refresh_token_expired", "refresh_token_reused", "refresh_token_invalidated", "refresh_token_revoked",
	"refresh_token_not_found", "incorrect_client_credentials", "deleted_client", "disabled_client", "token_expired", "token_revoked", "token_invalidated", "token_inactive",
	"account_deactivated", "account_inactive", "reauth_required", "app_session_terminated",
}

// tokenRules are asked about every provider's token endpoint, after the
// provider's own.
var tokenRules = []Rule{
	{
		Name:     "challenge",
		Endpoint: EndpointToken,
		Header:   challenge.Header,
		Meaning:  pool.RequestError,
		Source:   challenge.Source,
	},
	{
		Name:     "block",
		Endpoint: EndpointToken,
		Status:   blockedAddress.Status,
		Also:     blockedAddress.Also,
		bodyIf:   isCloudflarePage,
		Meaning:  pool.RequestError,
		Source:   blockedAddress.Source,
	},
	{
		Name:     "grant-lost",
		Endpoint: EndpointToken,
		Codes:    lostRefreshTokens,
		Meaning:  pool.AuthFailed,
		Source:   "RFC 6749 section 5.2 and the providers' words for the same",
	},
	{
		Name:     "token-rate-limit",
		Endpoint: EndpointToken,
		Status:   []int{http.StatusTooManyRequests},
		Meaning:  pool.RateLimited,
		Source:   "RFC 6585 section 4",
	},
	{
		Name:     "token-unauthorized",
		Endpoint: EndpointToken,
		Status:   []int{http.StatusUnauthorized},
		Also:     "the body is a JSON object with an error: what stands before the endpoint, such as a proxy, says 401 with a page, another object or nothing",
		bodyIf:   hasError,
		Meaning:  pool.AuthFailed,
		Source:   "RFC 6749 section 5.2: 401 is about the client's authentication",
	},
}

// hasError reports whether the body has what OAuth requires of a refusal.
func hasError(e *evidence) bool {
	var refusal struct {
		Error json.RawMessage `json:"error"`
	}
	return json.Unmarshal(trimStart(e.Body), &refusal) == nil && len(refusal.Error) > 0
}

// Rules by status alone, which stand at the end of many tables.
var (
	unauthorized = Rule{
		Name:    "unauthorized",
		Status:  []int{http.StatusUnauthorized},
		Meaning: pool.AuthFailed,
		Source:  "RFC 9110 section 15.5.2",
	}
	tooManyRequests = Rule{
		Name:    "too-many-requests",
		Status:  []int{http.StatusTooManyRequests},
		Meaning: pool.RateLimited,
		Source:  "RFC 6585 section 4",
	}
)

// bearer is the usual way of a token.
func bearer(kind, source string) Injection {
	return Injection{Kind: kind, Name: "Authorization", Template: "Bearer {credential}", Source: source}
}

// tooLarge is a request that no wait helps: it asks for more than the whole
// limit. Its code is that of a rate limit.
var tooLarge = Rule{
	Name:    "request-too-large",
	Also:    "the message says that more was requested than the whole limit",
	bodyIf:  asksTooMuch,
	Meaning: pool.RequestError,
	Source:  "seen: a message that compares Limit and Requested, of which the latter is larger",
}

// asksTooMuch reads "Limit 30000, Requested 30601" out of a message. What is
// used does not matter: the request alone is above the limit.
func asksTooMuch(e *evidence) bool {
	for i := range e.facts {
		f := &e.facts[i]
		if !f.isMessage {
			continue
		}
		text := string(f.unquoted())
		limit, known := numberAfter(text, "limit")
		requested, asked := numberAfter(text, "requested")
		if known && asked && requested > limit {
			return true
		}
		if strings.Contains(text, "request too large") {
			return true
		}
	}
	return false
}

// numberAfter finds the first number that follows the word and at most a colon
// or a tilde.
func numberAfter(text, word string) (float64, bool) {
	for {
		_, after, found := strings.Cut(text, word)
		if !found {
			return 0, false
		}
		number, rest := cutNumber(strings.TrimLeft(after, " :~"))
		// 30,000 is 30000.
		for len(rest) > 3 && rest[0] == ',' {
			thousands, more := cutNumber(rest[1:])
			if len(thousands) != 3 {
				break
			}
			number, rest = number+thousands, more
		}
		if number != "" {
			return parseNumber(number)
		}
		text = after
	}
}

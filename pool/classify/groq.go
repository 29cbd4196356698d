package classify

import (
	"net/http"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

const (
	groqErrors = "console.groq.com/docs/errors"
	groqLimits = "console.groq.com/docs/rate-limits"
	groqSpend  = "console.groq.com/docs/spend-limits"
)

// groqFlex is Groq's own status for a flex tier without capacity.
const groqFlex = 498

// groq is api.groq.com.
var groq = Provider{
	Name:   "groq",
	Inject: []Injection{bearer("", "console.groq.com/docs/api-reference")},
	Rules: []Rule{
		challenge,
		blockedAddress,
		{
			// "Try again in" stands in it too, but can never come true.
			Name:    tooLarge.Name,
			Also:    tooLarge.Also,
			bodyIf:  asksTooMuch,
			Meaning: pool.RequestError,
			Source:  tooLarge.Source,
		},
		{
			Name:    "flex-capacity",
			Status:  []int{groqFlex},
			Meaning: pool.Overloaded,
			Source:  groqErrors,
		},
		{
			Name:    "capacity",
			Codes:   []string{"capacity_exceeded", "model_over_capacity"},
			Meaning: pool.Overloaded,
			Source:  groqErrors,
		},
		{
			Name:    "busy",
			Words:   []string{"*over capacity", "*currently overloaded"},
			Meaning: pool.Overloaded,
			Source:  groqErrors,
		},
		{
			Name:          "spend-limit",
			Codes:         []string{"blocked_api_access", "insufficient_quota", "spend_limit_exceeded"},
			Meaning:       pool.QuotaExhausted,
			IgnoreWindows: true,
			Source:        groqSpend,
		},
		{
			Name:   "spend-limit-words",
			Status: []int{http.StatusBadRequest, http.StatusForbidden, http.StatusTooManyRequests},
			Words: []string{
				"your organization has reached its spend limit", "your organization has reached its * spend limit",
				"your organization has exceeded its * spend limit", "your organization has reached its spending limit",
				"organization has reached its spend limit",
			},
			Meaning:       pool.QuotaExhausted,
			IgnoreWindows: true,
			Source:        groqSpend,
		},
		{
			Name:    "account",
			Codes:   []string{"organization_restricted", "invalid_api_key", "expired_api_key"},
			Meaning: pool.AuthFailed,
			Source:  "seen: a 400 about the organization; " + groqErrors,
		},
		unauthorized,
		{
			Name:    "rate-limit",
			Status:  []int{http.StatusTooManyRequests},
			Codes:   []string{"rate_limit_exceeded"},
			Meaning: pool.RateLimited,
			Source:  groqLimits,
		},
		tooManyRequests,
	},
	Success: []Rule{
		spent("requests-spent", "X-Ratelimit-Remaining-Requests", "X-Ratelimit-Reset-Requests", groqLimits),
		spent("tokens-spent", "X-Ratelimit-Remaining-Tokens", "X-Ratelimit-Reset-Tokens", groqLimits),
	},
	Waits: []Wait{
		headerWait("Retry-After", parseRetryAfter, groqLimits),
		prose(groqLimits),
		window("X-Ratelimit-Reset-Requests", "X-Ratelimit-Remaining-Requests", groqLimits+": of the day"),
		window("X-Ratelimit-Reset-Tokens", "X-Ratelimit-Remaining-Tokens", groqLimits+": of the minute"),
	},
}

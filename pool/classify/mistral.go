package classify

import (
	"net/http"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

const (
	mistralErrors = "docs.mistral.ai/resources/error-glossary"
	mistralSeen   = "seen in answers of api.mistral.ai"
)

// mistral is api.mistral.ai. Its errors are not wrapped: type, code and message
// stand in the outermost object.
var mistral = Provider{
	Name:   "mistral",
	Inject: []Injection{bearer("", "docs.mistral.ai/api")},
	Rules: []Rule{
		{
			Name:    "tier-capacity-code",
			Codes:   []string{"service_tier_capacity_exceeded", "3505"},
			Meaning: pool.Overloaded,
			Source:  mistralSeen,
		},
		{
			// Its type may be invalid_request_error, with a status of 429.
			Name:    "tier-capacity",
			Words:   []string{"*capacity exceeded", "*currently overloaded"},
			Meaning: pool.Overloaded,
			Source:  mistralSeen + "; the maintainers: the backend's capacity, not the user's limit",
		},
		{
			Name:    "payment-required",
			Status:  []int{http.StatusPaymentRequired},
			Meaning: pool.QuotaExhausted,
			Source:  mistralErrors,
		},
		{
			Name:   "usage-limit",
			Status: []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests},
			Words: []string{
				"inactive subscription or usage limit reached", "inactive subscription", "usage limit reached", "monthly token limit",
				"monthly usage limit", "monthly limit", "monthly spending limit", "you have reached your monthly",
				"you have exceeded your monthly", "tokens per month", "spending limit reached",
			},
			Meaning: pool.QuotaExhausted,
			Source:  mistralSeen,
		},
		unauthorized,
		{
			Name:    "rate-limit",
			Codes:   []string{"rate_limited", "1300"},
			Meaning: pool.RateLimited,
			Source:  mistralSeen,
		},
		tooManyRequests,
	},
	Waits: []Wait{
		retryAfterWait,
		prose(mistralErrors),
		window("Ratelimitbysize-Reset", "Ratelimitbysize-Remaining", mistralSeen+": seconds"),
		window("X-Ratelimit-Reset", "X-Ratelimit-Remaining", mistralSeen),
	},
}

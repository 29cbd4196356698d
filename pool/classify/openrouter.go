package classify

import (
	"net/http"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

const (
	openrouterErrors = "openrouter.ai/docs/api/reference/errors-and-debugging"
	openrouterLimits = "openrouter.ai/docs/api/reference/limits"
)

// openrouter is openrouter.ai. The error's code is the status as a number; what
// tells more stands in error.metadata.
var openrouter = Provider{
	Name:   "openrouter",
	Inject: []Injection{bearer("", "openrouter.ai/docs/api/reference/authentication")},
	// What fails once a provider has begun is reported with 200.
	Streams:     true,
	SmallBodies: func(http.Header) bool { return true },
	Rules: []Rule{
		challenge,
		blockedAddress,
		{
			// The account at the provider is OpenRouter's own.
			Name:    "upstream-refusal",
			Status:  []int{http.StatusUnauthorized, http.StatusPaymentRequired},
			Words:   []string{"provider returned error"},
			Also:    "provider_name is given",
			bodyIf:  func(e *evidence) bool { return e.has("provider_name") },
			Meaning: pool.Overloaded,
			Source:  openrouterErrors + ": metadata.provider_name names the provider that refused",
		},
		{
			Name:    "request-above-budget",
			Codes:   []string{"weight_exceeds_budget"},
			Meaning: pool.RequestError,
			Source:  openrouterErrors + ": this one request is too dear",
		},
		{
			Name:    "budget-in-flight",
			Codes:   []string{"in_flight_budget_exhausted"},
			Meaning: pool.RateLimited,
			Source:  openrouterErrors + ": other requests hold the rest of the budget, for now",
		},
		{
			Name: "budget",
			Codes: []string{
				"openrouter_guardrail_budget", "openrouter_workspace_budget", "openrouter_key_limit", "payment_required",
			},
			Meaning: pool.QuotaExhausted,
			Source:  openrouterErrors + ": a 402, or a 403 with limit_source",
		},
		{
			Name:    "credits",
			Status:  []int{http.StatusPaymentRequired},
			Meaning: pool.QuotaExhausted,
			Source:  openrouterErrors,
		},
		{
			Name:    "key-limit",
			Status:  []int{http.StatusForbidden, http.StatusTooManyRequests},
			Words:   []string{"key limit exceeded", "budget limit exceeded"},
			Meaning: pool.QuotaExhausted,
			Source:  openrouterLimits,
		},
		{
			Name:    "free-daily",
			Codes:   []string{"openrouter_free_tier_daily"},
			Meaning: pool.QuotaExhausted,
			Source:  openrouterLimits,
		},
		{
			Name:    "free-daily-words",
			Status:  []int{http.StatusTooManyRequests},
			Words:   []string{"rate limit exceeded: free-models-per-day"},
			Meaning: pool.QuotaExhausted,
			Source:  openrouterLimits,
		},
		{
			Name:    "authentication",
			Codes:   []string{"authentication"},
			Meaning: pool.AuthFailed,
			Source:  openrouterErrors,
		},
		unauthorized,
		{
			Name:    "provider-overloaded",
			Codes:   []string{"provider_overloaded", "provider_unavailable", "server"},
			Meaning: pool.Overloaded,
			Source:  "openrouter.ai/docs/client-sdks/python/components/apierrortype",
		},
		{
			// Its limit is OpenRouter's own there, which every account shares.
			Name:    "upstream-limit",
			Status:  []int{http.StatusTooManyRequests},
			Also:    "provider_name is given, or the message speaks of an upstream",
			bodyIf:  func(e *evidence) bool { return e.has("provider_name") || e.says(everyPart, []string{"*upstream"}) },
			Meaning: pool.Overloaded,
			Source:  openrouterErrors + ": metadata.provider_name names the provider that refused",
		},
		{
			Name:    "rate-limit",
			Codes:   []string{"rate_limit_exceeded"},
			Meaning: pool.RateLimited,
			Source:  openrouterErrors,
		},
		tooManyRequests,
	},
	Waits: []Wait{
		headerWait("Retry-After", parseRetryAfter, openrouterErrors),
		fields(openrouterErrors + ": metadata.resets_at"),
		prose(openrouterErrors),
		window("X-Ratelimit-Reset", "X-Ratelimit-Remaining", openrouterLimits+": milliseconds since 1970, also in metadata.headers"),
	},
}

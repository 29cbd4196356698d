package classify

import (
	"net/http"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

const (
	openaiErrors = "developers.openai.com/api/docs/guides/error-codes"
	openaiLimits = "developers.openai.com/api/docs/guides/rate-limits"
)

// openai is api.openai.com, with API keys.
var openai = Provider{
	Name:   "openai",
	Inject: []Injection{bearer("", "developers.openai.com/api/reference/overview#authentication")},
	// They name an organization and a project of the client's, which the
	// member's key does not belong to.
	Strip:   []string{"Openai-Organization", "Openai-Project"},
	Streams: true,
	Rules: []Rule{
		challenge,
		blockedAddress,
		openaiPlace,
		tooLarge,
		openaiBilling,
		openaiAccount,
		{
			Name:    "missing-scope",
			Status:  []int{http.StatusUnauthorized, http.StatusForbidden},
			Words:   []string{"*missing scopes", "*insufficient permissions for this operation"},
			Meaning: pool.RequestError,
			Source:  "seen: a restricted key at an endpoint that it may not use; it works at others",
		},
		unauthorized,
		openaiSlowDown,
		openaiOverloaded,
		openaiBusy,
		openaiRateLimit,
		tooManyRequests,
	},
	Success: openaiSpent,
	Waits: append([]Wait{
		retryAfterWait,
		retryAfterMSWait,
		prose(openaiLimits),
	}, openaiWindows...),
}

// Rules of OpenAI's that others took over.
var (
	openaiPlace = Rule{
		Name:    "place",
		Codes:   []string{"unsupported_country_region_territory", "ip_not_authorized"},
		Meaning: pool.RequestError,
		Source:  openaiErrors + ": 401 and 403 about the address that the request came from",
	}
	openaiBilling = Rule{
		Name: "billing",
		Codes: []string{
			"insufficient_quota", "credit_balance_exhausted", "organization_spend_limit_exceeded",
			"project_spend_limit_exceeded", "organization_usage_limit_exceeded", "billing_hard_limit_reached",
			"billing_not_active", "quota_exceeded",
		},
		Meaning:       pool.QuotaExhausted,
		IgnoreWindows: true, // they are of requests and tokens
		Source:        "help.openai.com/en/articles/6614457, " + openaiErrors,
	}
	openaiAccount = Rule{
		Name: "account",
		Codes: []string{
			"invalid_api_key", "account_deactivated", "access_terminated", "organization_deactivated",
			"invalid_authentication",
		},
		Meaning: pool.AuthFailed,
		Source:  openaiErrors,
	}
	openaiSlowDown = Rule{
		Name:    "slow-down",
		Status:  []int{http.StatusTooManyRequests},
		Codes:   []string{"slow_down"},
		Meaning: pool.RateLimited,
		Source:  openaiErrors + ": the account's requests rose too fast",
	}
	openaiOverloaded = Rule{
		Name: "overloaded",
		Codes: []string{
			"server_is_overloaded", "slow_down", "engine_overloaded", "service_unavailable_error", "server_error",
			"internal_server_error", "internal_error",
		},
		Meaning: pool.Overloaded,
		Source:  openaiErrors + ": 500 and 503, which a stream reports by code",
	}
	openaiBusy = Rule{
		Name:    "busy",
		Words:   []string{"*currently overloaded", "*experiencing high demand", "*at capacity"},
		Meaning: pool.Overloaded,
		Source:  openaiErrors + ": the engine is currently overloaded",
	}
	openaiRateLimit = Rule{
		Name:    "rate-limit",
		Codes:   []string{"rate_limit_exceeded", "rate_limit_error"},
		Meaning: pool.RateLimited,
		Source:  openaiErrors,
	}
)

// openaiWindows are the windows of OpenAI's headers, with durations such as
// 6m0s.
var openaiWindows = []Wait{
	window("X-Ratelimit-Reset-Requests", "X-Ratelimit-Remaining-Requests", openaiLimits),
	window("X-Ratelimit-Reset-Tokens", "X-Ratelimit-Remaining-Tokens", openaiLimits),
	window("X-Ratelimit-Reset-Project-Tokens", "X-Ratelimit-Remaining-Project-Tokens", openaiLimits),
}

var openaiSpent = []Rule{
	spent("requests-spent", "X-Ratelimit-Remaining-Requests", "X-Ratelimit-Reset-Requests", openaiLimits),
	spent("tokens-spent", "X-Ratelimit-Remaining-Tokens", "X-Ratelimit-Reset-Tokens", openaiLimits),
}

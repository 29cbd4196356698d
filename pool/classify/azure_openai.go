package classify

import (
	"net/http"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

const azureLimits = "learn.microsoft.com/azure/ai-foundry/openai/how-to/quota"

// azureOpenAI is an Azure OpenAI resource, with its keys or with Entra ID.
var azureOpenAI = Provider{
	Name: "azure_openai",
	Inject: []Injection{
		{Kind: KindStatic, Name: "Api-Key", Template: "{credential}", Source: "learn.microsoft.com/azure/ai-foundry/openai/reference#authentication"},
		bearer(KindOAuth, "learn.microsoft.com/azure/ai-foundry/openai/reference#authentication"),
	},
	Strip:       []string{"Ocp-Apim-Subscription-Key"},
	StripParams: []string{"subscription-key", "api-key"},
	Streams:     true,
	Rules: []Rule{
		{
			Name:    "capacity",
			Codes:   []string{"NoCapacity", "server_is_overloaded", "ServiceUnavailable", "server_error"},
			Meaning: pool.Overloaded,
			Source:  azureLimits,
		},
		{
			Name:    "busy",
			Status:  []int{http.StatusTooManyRequests},
			Words:   []string{"*experiencing high demand", "*temporarily unable to process your request", "*currently overloaded"},
			Meaning: pool.Overloaded,
			Source:  azureLimits + ": a 429 of the shared capacity",
		},
		tooLarge,
		{
			Name:          "quota",
			Codes:         []string{"insufficient_quota", "QuotaExceeded", "quota_exceeded"},
			Meaning:       pool.QuotaExhausted,
			IgnoreWindows: true,
			Source:        azureLimits,
		},
		{
			Name:          "call-volume",
			Status:        []int{http.StatusForbidden, http.StatusTooManyRequests},
			Words:         []string{"out of call volume quota", "out of bandwidth quota"},
			Meaning:       pool.QuotaExhausted,
			IgnoreWindows: true,
			Source:        "learn.microsoft.com/azure/api-management/quota-policy",
		},
		{
			Name:   "resource-blocked",
			Status: []int{http.StatusForbidden},
			Words: []string{
				"your resource has been temporarily blocked", "your resource has been blocked",
				"your subscription is disabled", "this subscription is disabled", "the subscription * is disabled",
				"your account is disabled", "this account is disabled",
			},
			Meaning: pool.AuthFailed,
			Source:  azureLimits + ": the resource itself is blocked, for any request",
		},
		{
			// Which actions there are depends on the path.
			Name:    "action-not-permitted",
			Status:  []int{http.StatusUnauthorized, http.StatusForbidden},
			Codes:   []string{"PermissionDenied"},
			Meaning: pool.RequestError,
			Source:  "learn.microsoft.com/azure/ai-foundry/openai/how-to/role-based-access-control: the principal lacks the required data action",
		},
		unauthorized,
		{
			Name:    "rate-limit",
			Codes:   []string{"RateLimitReached", "rate_limit_exceeded", "rate_limit_error", "TooManyRequests", "too_many_requests"},
			Meaning: pool.RateLimited,
			Source:  azureLimits,
		},
		tooManyRequests,
	},
	Success: openaiSpent,
	Waits: append([]Wait{
		retryAfterWait,
		headerWait("Retry-After-Ms", parseMilliseconds, azureLimits),
		headerWait("X-Ms-Retry-After-Ms", parseMilliseconds, "learn.microsoft.com/azure/architecture/best-practices/retry-service-specific"),
		prose(azureLimits),
		window("X-Rate-Limit-Reset-Requests", "X-Rate-Limit-Remaining-Requests", "seen at Azure OpenAI: seconds"),
		window("X-Rate-Limit-Reset-Tokens", "X-Rate-Limit-Remaining-Tokens", "seen at Azure OpenAI: seconds"),
	}, openaiWindows...),
}

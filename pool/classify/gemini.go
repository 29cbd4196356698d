package classify

import (
	"net/http"
	"strings"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

const (
	geminiErrors = "ai.google.dev/gemini-api/docs/troubleshooting"
	googleReason = "github.com/googleapis/googleapis google/api/error_reason.proto"
	vertexLimits = "cloud.google.com/vertex-ai/generative-ai/docs/error-code-429"
	codeAssist   = "seen in answers of cloudcode-pa.googleapis.com"
	googleErrors = "cloud.google.com/apis/design/errors (google.rpc.Status)"
)

// gemini is the Generative Language API, with API keys, and Vertex AI and Code
// Assist, with OAuth.
var gemini = Provider{
	Name: "gemini",
	Inject: []Injection{
		{Kind: KindStatic, Name: "X-Goog-Api-Key", Template: "{credential}", Source: "ai.google.dev/gemini-api/docs/api-key"},
		bearer(KindOAuth, "developers.google.com/identity/protocols/oauth2"),
	},
	// It names the project that pays, which is not the client's to say.
	Strip: []string{"X-Goog-User-Project"},
	Rules: []Rule{
		{
			Name:    "capacity",
			Codes:   []string{"MODEL_CAPACITY_EXHAUSTED"},
			Meaning: pool.Overloaded,
			Source:  codeAssist,
		},
		{
			// Pay as you go shares one pool of capacity. The code is that of a
			// quota, so only the words tell.
			Name:    "shared-capacity",
			Status:  []int{http.StatusTooManyRequests},
			Words:   []string{"error-code-429", "resource exhausted. please try again later", "resource exhausted, please try again later", "no capacity available", "model is overloaded"},
			Meaning: pool.Overloaded,
			Source:  vertexLimits,
		},
		{
			Name: "place",
			Codes: []string{
				"API_KEY_HTTP_REFERRER_BLOCKED", "API_KEY_IP_ADDRESS_BLOCKED", "API_KEY_ANDROID_APP_BLOCKED",
				"API_KEY_IOS_APP_BLOCKED", "LOCATION_POLICY_VIOLATED", "SECURITY_POLICY_VIOLATED",
			},
			Meaning: pool.RequestError,
			Source:  googleReason + ": where the request came from",
		},
		{
			Name: "account",
			Codes: []string{
				"API_KEY_INVALID", "API_KEY_EXPIRED", "API_KEY_SERVICE_BLOCKED", "CONSUMER_INVALID", "CONSUMER_SUSPENDED",
				"ACCOUNT_STATE_INVALID", "ACCESS_TOKEN_EXPIRED", "ACCESS_TOKEN_TYPE_UNSUPPORTED", "CREDENTIALS_MISSING",
				"SERVICE_DISABLED", "USER_PROJECT_DENIED",
			},
			Meaning: pool.AuthFailed,
			Source:  googleReason,
		},
		{
			Name:    "code-assist-account",
			Codes:   []string{"VALIDATION_REQUIRED", "TOS_VIOLATION", "SUBSCRIPTION_REQUIRED", "INELIGIBLE_TIER", "RESTRICTED_AGE"},
			Meaning: pool.AuthFailed,
			Source:  codeAssist,
		},
		{
			Name:   "account-words",
			Status: []int{http.StatusBadRequest, http.StatusForbidden},
			Words: []string{
				"api key not valid", "api key not found", "api key expired", "reported as leaked", "unregistered callers",
				"has been suspended", "violation of terms",
			},
			Meaning: pool.AuthFailed,
			Source:  geminiErrors + ", and seen without a reason",
		},
		unauthorized,
		{
			Name:    "billing",
			Codes:   []string{"BILLING_DISABLED", "payment_required", "INSUFFICIENT_G1_CREDITS_BALANCE"},
			Meaning: pool.QuotaExhausted,
			Source:  googleReason + ", " + geminiErrors,
		},
		{
			Name:    "prepaid",
			Status:  []int{http.StatusPaymentRequired},
			Meaning: pool.QuotaExhausted,
			Source:  geminiErrors + ": the prepaid credits are used up",
		},
		{
			Name:    "quota",
			Codes:   []string{"QUOTA_EXHAUSTED", "quota_exceeded", "quotaExceeded", "dailyLimitExceeded"},
			Meaning: pool.QuotaExhausted,
			Source:  geminiErrors + ", " + codeAssist,
		},
		{
			Name:    "daily-quota",
			Also:    "quotaId or quota_limit names a day",
			bodyIf:  func(e *evidence) bool { return violates(e, "perday") },
			Meaning: pool.QuotaExhausted,
			Source:  googleErrors + ": QuotaFailure, whose quotaId names the period",
		},
		{
			Name:    "minute-quota",
			Also:    "quotaId or quota_limit names a minute",
			bodyIf:  func(e *evidence) bool { return violates(e, "perminute") },
			Meaning: pool.RateLimited,
			Source:  googleErrors + ": QuotaFailure, whose quotaId names the period",
		},
		{
			Name:    "rate-limit-reason",
			Codes:   []string{"RATE_LIMIT_EXCEEDED", "rateLimitExceeded", "userRateLimitExceeded"},
			Meaning: pool.RateLimited,
			Source:  googleReason,
		},
		{
			Name:    "quota-words",
			Status:  []int{http.StatusTooManyRequests},
			Words:   []string{"exceeded your current quota", "spending cap", "credits are depleted", "out of credits", "exhausted your capacity"},
			Meaning: pool.QuotaExhausted,
			Source:  geminiErrors + ", of an answer without details",
		},
		{
			Name:    "rate-limit",
			Codes:   []string{"RESOURCE_EXHAUSTED", "too_many_requests"},
			Meaning: pool.RateLimited,
			Source:  geminiErrors,
		},
		tooManyRequests,
	},
	Waits: []Wait{
		retryAfterWait,
		fields(googleErrors + ": RetryInfo.retryDelay; " + codeAssist + ": quotaResetDelay"),
		prose(geminiErrors),
	},
}

// violates reports whether one of the quotas that were exceeded has this in its
// ID, such as GenerateRequestsPerDayPerProjectPerModel-FreeTier. An ErrorInfo
// gives the same as its metadata's quota_limit.
func violates(e *evidence, period string) bool {
	for i := range e.facts {
		if f := &e.facts[i]; (f.key == "quotaid" || f.key == "quota_limit") && !f.header && strings.Contains(string(f.lowered()), period) {
			return true
		}
	}
	return false
}

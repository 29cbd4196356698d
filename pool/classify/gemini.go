package classify

import (
	"net/http"
	"strings"
	"time"

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
	// The API takes them before the header.
	StripParams: []string{"key", "access_token"},
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
			Words:   []string{"*error-code-429", "resource exhausted. please try again later", "resource exhausted, please try again later", "no capacity available", "*model is overloaded"},
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
			// A key may be for some methods only, and the client chooses the method.
			Name:    "method",
			Codes:   []string{"API_KEY_SERVICE_BLOCKED"},
			Meaning: pool.RequestError,
			Source:  googleReason + ": the key works for other methods",
		},
		{
			Name:    "project-of-the-request",
			Codes:   []string{"SERVICE_DISABLED", "CONSUMER_INVALID", "CONSUMER_SUSPENDED", "BILLING_DISABLED"},
			Also:    "the answer does not name the project of the key: metadata.service is another API than " + geminiService + ", and metadata.consumer no api_key",
			bodyIf:  func(e *evidence) bool { return !ofOwnProject(e) },
			Meaning: pool.RequestError,
			Source:  googleReason + ": Vertex AI and Code Assist take the project from the request",
		},
		{
			Name: "account",
			Codes: []string{
				"API_KEY_INVALID", "API_KEY_EXPIRED", "CONSUMER_INVALID", "CONSUMER_SUSPENDED", "ACCOUNT_STATE_INVALID",
				"ACCESS_TOKEN_EXPIRED", "ACCESS_TOKEN_TYPE_UNSUPPORTED", "CREDENTIALS_MISSING", "SERVICE_DISABLED",
				"USER_PROJECT_DENIED",
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
			Name:    "key-words",
			Status:  []int{http.StatusBadRequest},
			Codes:   []string{"INVALID_ARGUMENT"},
			Words:   []string{"api key not valid", "api key not found", "api key expired"},
			Meaning: pool.AuthFailed,
			Source:  geminiErrors + ", and seen without a reason",
		},
		{
			Name:   "account-words",
			Status: []int{http.StatusForbidden},
			Codes:  []string{"PERMISSION_DENIED"},
			Words: []string{
				"your api key was reported as leaked", "method doesn't allow unregistered callers", "your project has been suspended",
				"your account has been suspended", "this account has been suspended", "this service has been disabled in this account for violation of terms",
				"gemini has been disabled in this account for violation of terms",
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
			Name:    "daily-quota-of-a-model",
			Also:    "quotaId or quota_limit names a day and a model, wherever it names a day",
			bodyIf:  violatesModelsDay,
			Meaning: pool.QuotaExhausted,
			Scope:   pool.ScopeModel,
			key:     quotaModel,
			MinWait: minDailyWait,
			Source:  googleErrors + ": QuotaFailure, whose quotaDimensions name the model",
		},
		{
			Name:    "daily-quota",
			Also:    "quotaId or quota_limit names a day",
			bodyIf:  func(e *evidence) bool { return violates(e, "perday") },
			Meaning: pool.QuotaExhausted,
			MinWait: minDailyWait,
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
			Name:   "quota-words",
			Status: []int{http.StatusTooManyRequests},
			Codes:  []string{"RESOURCE_EXHAUSTED"},
			Words: []string{
				"you exceeded your current quota", "you have exceeded your current quota", "your project has exceeded its * spending cap",
				"your billing account has exceeded its * spending cap", "your prepayment credits are depleted",
				"you have exhausted your capacity on this model",
			},
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

// geminiService is the API whose consumer is always the project of the key.
const geminiService = "generativelanguage.googleapis.com"

// ofOwnProject reports whether the project that the answer is about is the one
// that the credential belongs to.
func ofOwnProject(e *evidence) bool {
	return strings.EqualFold(e.value("service"), geminiService) || hasPrefixFold(e.value("consumer"), "api_key:")
}

// minDailyWait is above what RetryInfo says of a day's quota, too: when the next
// minute begins.
const minDailyWait = 5 * time.Minute

// isQuota reports whether the value is the ID of a quota that was exceeded.
func (f *fact) isQuota() bool { return (f.key == "quotaid" || f.key == "quota_limit") && !f.header }

// violatesModelsDay reports whether quotas of a day were exceeded, all of them of
// single models.
func violatesModelsDay(e *evidence) bool {
	found := false
	for i := range e.facts {
		f := &e.facts[i]
		if id := string(f.lowered()); f.isQuota() && strings.Contains(id, "perday") {
			if !strings.Contains(id, "permodel") {
				return false
			}
			found = true
		}
	}
	return found
}

// quotaModel returns the key of the model whose quota was exceeded; the one that
// was asked for, if it is not named.
func quotaModel(e *evidence) string {
	for i := range e.facts {
		if f := &e.facts[i]; f.key == "model" && f.of == "quotadimensions" && !f.cut {
			if key := keyOf("model", f.text); key != "" {
				return key
			}
		}
	}
	return "model"
}

// violates reports whether one of the quotas that were exceeded has this in its
// ID, such as GenerateRequestsPerDayPerProjectPerModel-FreeTier. An ErrorInfo
// gives the same as its metadata's quota_limit.
func violates(e *evidence, period string) bool {
	for i := range e.facts {
		if f := &e.facts[i]; f.isQuota() && strings.Contains(string(f.lowered()), period) {
			return true
		}
	}
	return false
}

package classify

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

const (
	anthropicErrors = "platform.claude.com/docs/en/api/errors"
	anthropicLimits = "platform.claude.com/docs/en/api/rate-limits"
	anthropicPlans  = "seen in answers to OAuth logins of a Claude plan"
)

// anthropic is api.anthropic.com, with API keys and with the OAuth logins of a
// Claude plan, and its token endpoint.
var anthropic = Provider{
	Name: "anthropic",
	Inject: []Injection{
		{Kind: KindStatic, Name: "X-Api-Key", Template: "{credential}", Source: "platform.claude.com/docs/en/api/overview#authentication"},
		bearer(KindOAuth, anthropicPlans),
	},
	Headers: []Header{{
		Kind: KindOAuth, Name: "Anthropic-Beta", Value: "oauth-2025-04-20", Append: true,
		Source: anthropicPlans + ": without it an OAuth token is refused",
	}},
	Streams: true,
	Rules: []Rule{
		challenge,
		blockedAddress,
		{
			// An option of this request that is paid for apart.
			Name:    "option-not-included",
			Status:  []int{http.StatusTooManyRequests, http.StatusBadRequest},
			Words:   []string{"*required for fast mode", "*required for long context", "*long context beta"},
			Meaning: pool.RequestError,
			Source:  anthropicPlans,
		},
		{
			Name:     "plan-window",
			Status:   []int{http.StatusTooManyRequests},
			Also:     planIsOut,
			headerIf: planRejected,
			Meaning:  pool.QuotaExhausted,
			Source:   anthropicPlans + ": anthropic-ratelimit-unified-*",
		},
		{
			Name:     "model-window",
			Status:   []int{http.StatusTooManyRequests},
			Also:     modelIsOut,
			headerIf: modelRejected,
			Meaning:  pool.QuotaExhausted,
			Scope:    pool.ScopeModel,
			key:      rejectedModel,
			Source:   anthropicPlans + ": a window such as 7d_opus is rejected, that of the plan is not",
		},
		{
			Name:          "spend-cap",
			Codes:         []string{"enforced_spend_limit_reached"},
			Meaning:       pool.QuotaExhausted,
			IgnoreWindows: true,
			Source:        anthropicErrors + ": the tier's monthly cap, in error.details.error_code",
		},
		{
			Name:          "spend-limit",
			Status:        []int{http.StatusBadRequest, http.StatusTooManyRequests},
			Codes:         []string{"invalid_request_error", "rate_limit_error"},
			Words:         []string{"you have reached your specified api usage limits", "you have reached your specified workspace api usage limits", "your organization has reached its * spend limit", "your workspace has reached its * spend limit"},
			Meaning:       pool.QuotaExhausted,
			IgnoreWindows: true,
			Source:        anthropicErrors + ": a 400 whose message says when access resumes",
		},
		{
			Name:          "billing",
			Codes:         []string{"billing_error"},
			Meaning:       pool.QuotaExhausted,
			IgnoreWindows: true,
			Source:        anthropicErrors,
		},
		{
			Name:          "credit-balance",
			Status:        []int{http.StatusBadRequest},
			Codes:         []string{"invalid_request_error"},
			Words:         []string{"your credit balance is too low"},
			Meaning:       pool.QuotaExhausted,
			IgnoreWindows: true,
			Source:        "seen: a 400 invalid_request_error without credits",
		},
		{
			Name:          "extra-usage",
			Status:        []int{http.StatusBadRequest, http.StatusForbidden, http.StatusTooManyRequests},
			Codes:         []string{"invalid_request_error", "permission_error", "rate_limit_error"},
			Words:         []string{"you're out of extra usage", "you’re out of extra usage", "you are out of extra usage"},
			Meaning:       pool.QuotaExhausted,
			IgnoreWindows: true,
			Source:        anthropicPlans + ": what is paid for beyond the plan is used up too",
		},
		{
			Name:   "account",
			Status: []int{http.StatusBadRequest, http.StatusForbidden},
			Codes:  []string{"invalid_request_error", "permission_error"},
			Words: []string{
				"oauth token has been revoked", "this organization has been disabled", "your organization has been disabled",
				"your account has been disabled", "this account has been disabled", "your account does not have access to claude",
				"your organization does not have access to claude", "oauth authentication is currently not allowed for this organization",
			},
			Meaning: pool.AuthFailed,
			Source:  "seen: a permission_error or invalid_request_error about the account",
		},
		{
			// The path decides it.
			Name:    "no-oauth-here",
			Status:  []int{http.StatusUnauthorized},
			Codes:   []string{"authentication_error"},
			Words:   []string{"oauth authentication is currently not supported"},
			Meaning: pool.RequestError,
			Source:  "seen: a path that takes no OAuth token, of any account",
		},
		{
			Name:    "authentication",
			Codes:   []string{"authentication_error"},
			Meaning: pool.AuthFailed,
			Source:  anthropicErrors,
		},
		unauthorized,
		{
			Name:    "overloaded",
			Codes:   []string{"overloaded_error", "api_error", "timeout_error"},
			Meaning: pool.Overloaded,
			Source:  anthropicErrors + ": 500, 504 and 529, which a stream reports by type",
		},
		{
			Name:    "rate-limit",
			Codes:   []string{"rate_limit_error"},
			Meaning: pool.RateLimited,
			Source:  anthropicErrors,
		},
		tooManyRequests,
		{
			// The loser of two refreshes at a time gets it.
			Name:     "refresh-not-found",
			Endpoint: EndpointToken,
			Status:   []int{http.StatusNotFound},
			Codes:    []string{"not_found_error"},
			Meaning:  pool.AuthFailed,
			Source:   "seen at the token endpoint",
		},
	},
	Success: []Rule{
		{
			// Paid for beyond the plan, or the last one within it.
			Name:     "plan-rejected",
			Header:   []HeaderIs{{Name: unifiedPrefix + "Status", Values: []string{"rejected"}}},
			Also:     "not only windows of single models are rejected",
			headerIf: func(h http.Header) bool { return !modelRejected(h) },
			Meaning:  pool.QuotaExhausted,
			Source:   anthropicPlans,
		},
		windowRejected("5h"),
		windowRejected("7d"),
		{
			Name:     "model-rejected",
			Header:   []HeaderIs{{Name: unifiedPrefix + "Status", Values: []string{"rejected"}}},
			Also:     modelIsOut,
			headerIf: modelRejected,
			Meaning:  pool.QuotaExhausted,
			Scope:    pool.ScopeModel,
			key:      rejectedModel,
			Source:   anthropicPlans,
		},
		spent("requests-spent", "Anthropic-Ratelimit-Requests-Remaining", "Anthropic-Ratelimit-Requests-Reset", anthropicLimits),
		spent("tokens-spent", "Anthropic-Ratelimit-Tokens-Remaining", "Anthropic-Ratelimit-Tokens-Reset", anthropicLimits),
		spent("input-tokens-spent", "Anthropic-Ratelimit-Input-Tokens-Remaining", "Anthropic-Ratelimit-Input-Tokens-Reset", anthropicLimits),
		spent("output-tokens-spent", "Anthropic-Ratelimit-Output-Tokens-Remaining", "Anthropic-Ratelimit-Output-Tokens-Reset", anthropicLimits),
	},
	Waits: []Wait{
		retryAfterWait,
		retryAfterMSWait,
		prose(anthropicErrors + ": when access resumes"),
		{Name: unifiedPrefix + "*", Window: true, Source: anthropicPlans, find: findUnified},
		window("Anthropic-Ratelimit-Requests-Reset", "Anthropic-Ratelimit-Requests-Remaining", anthropicLimits),
		window("Anthropic-Ratelimit-Tokens-Reset", "Anthropic-Ratelimit-Tokens-Remaining", anthropicLimits),
		window("Anthropic-Ratelimit-Input-Tokens-Reset", "Anthropic-Ratelimit-Input-Tokens-Remaining", anthropicLimits),
		window("Anthropic-Ratelimit-Output-Tokens-Reset", "Anthropic-Ratelimit-Output-Tokens-Remaining", anthropicLimits),
	},
}

// The headers of a plan: one status and reset for the window that binds
// (representative-claim), and one for each window, such as 5h, 7d and 7d_opus.
// "overage" is what is paid for beyond the plan, and no window of it.
const unifiedPrefix = "Anthropic-Ratelimit-Unified-"

const (
	planIsOut  = "a window of the whole plan is rejected"
	modelIsOut = "only windows of single models are rejected"
)

// windowRejected is a window of the whole plan that is used up, though the
// request was served: paid for beyond the plan.
func windowRejected(window string) Rule {
	return Rule{
		Name:    window + "-rejected",
		Header:  []HeaderIs{{Name: unifiedPrefix + window + "-Status", Values: []string{"rejected"}}},
		Meaning: pool.QuotaExhausted,
		Source:  anthropicPlans,
	}
}

// claims are the names that representative-claim has for the windows.
var claims = map[string]string{"five_hour": "5h", "seven_day": "7d"}

// rejectedWindows returns the plan's windows that are used up.
func rejectedWindows(h http.Header) []string {
	var windows []string
	for name, values := range h {
		window, ok := strings.CutPrefix(name, unifiedPrefix)
		if !ok || len(values) == 0 || !strings.EqualFold(values[0], "rejected") {
			continue
		}
		if window, ok = strings.CutSuffix(window, "-Status"); ok && !strings.EqualFold(window, "overage") {
			windows = append(windows, strings.ToLower(window))
		}
	}
	slices.Sort(windows)
	return windows
}

// binding returns the window that representative-claim names.
func binding(h http.Header) string {
	v := h[unifiedPrefix+"Representative-Claim"]
	if len(v) == 0 {
		return ""
	}
	claim := strings.ToLower(v[0])
	if window, ok := claims[claim]; ok {
		return window
	}
	if model, ok := strings.CutPrefix(claim, "seven_day_"); ok {
		return "7d_" + model
	}
	return claim
}

// modelWindows returns the windows of single models that are used up, and
// whether none of the whole plan is.
func modelWindows(h http.Header) ([]string, bool) {
	windows := rejectedWindows(h)
	if len(windows) == 0 && statusRejected(h) {
		if window := binding(h); window != "" {
			windows = []string{window}
		}
	}
	ofModels := len(windows) > 0
	for _, w := range windows {
		ofModels = ofModels && strings.Contains(w, "_")
	}
	return windows, ofModels
}

func statusRejected(h http.Header) bool {
	v := h[unifiedPrefix+"Status"]
	return len(v) > 0 && strings.EqualFold(v[0], "rejected")
}

// planRejected reports whether the whole plan is used up, for now.
func planRejected(h http.Header) bool {
	windows, ofModels := modelWindows(h)
	return !ofModels && (len(windows) > 0 || statusRejected(h))
}

// modelRejected reports whether only single models are.
func modelRejected(h http.Header) bool {
	_, ofModels := modelWindows(h)
	return ofModels
}

// rejectedModel returns the key of the model whose window is used up. Not every
// window names its model, and there may be several; but the one that was asked
// for is out.
func rejectedModel(e *evidence) string {
	windows, _ := modelWindows(e.Header)
	if len(windows) == 1 {
		if _, model, ok := strings.Cut(windows[0], "_"); ok && slices.Contains([]string{"opus", "sonnet", "haiku", "fable"}, model) {
			return keyOf("model", model)
		}
	}
	return "model"
}

// findUnified finds when the plan's windows that are used up begin anew.
func findUnified(e *evidence) (time.Duration, bool) {
	var all longest
	resets := func(name string) {
		for _, value := range e.Header[name] {
			all.add(parseReset(value, e.Answer))
		}
	}
	for _, window := range rejectedWindows(e.Header) {
		resets(http.CanonicalHeaderKey(unifiedPrefix + window + "-Reset"))
	}
	if statusRejected(e.Header) {
		resets(unifiedPrefix + "Reset")
	}
	return all.result()
}

package classify

import (
	"net/http"
	"strings"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

const (
	codexClient = "github.com/openai/codex, codex-rs: the client that this API is for"
	codexSeen   = "seen in answers of chatgpt.com/backend-api/codex"
)

// codex is the ChatGPT backend of the Codex CLI, with a ChatGPT login, and its
// login host.
var codex = Provider{
	Name: "codex",
	Inject: []Injection{
		bearer("", codexClient),
		// One login can belong to several workspaces.
		{Name: "Chatgpt-Account-Id", Template: "{credential.account_id}", Source: codexClient},
	},
	Strip:   []string{"Openai-Organization", "Openai-Project"},
	Streams: true,
	Rules: []Rule{
		challenge,
		blockedAddress,
		openaiPlace,
		{
			Name:     "model-usage-limit",
			Codes:    codexUsedUp,
			Also:     "X-Codex-Active-Limit is that of a model",
			headerIf: func(h http.Header) bool { return codexModel(h) != "" },
			Meaning:  pool.QuotaExhausted,
			Scope:    pool.ScopeModel,
			key:      func(e *evidence) string { return codexModel(e.Header) },
			Source:   codexSeen + ": X-Codex-Active-Limit names a limit of one model",
		},
		{
			Name:    "usage-limit",
			Codes:   codexUsedUp,
			Meaning: pool.QuotaExhausted,
			Source:  codexClient,
		},
		tooLarge,
		openaiBilling,
		{
			Name:    "payment",
			Status:  []int{http.StatusPaymentRequired},
			Codes:   []string{"deactivated_workspace"},
			Meaning: pool.AuthFailed,
			Source:  codexSeen,
		},
		{
			Name:    "payment-required",
			Status:  []int{http.StatusPaymentRequired},
			Meaning: pool.QuotaExhausted,
			Source:  "RFC 9110 section 15.5.3",
		},
		{
			Name: "login-lost",
			Codes: []string{
				"token_invalidated", "token_revoked", "token_expired", "account_deactivated", "deactivated_workspace",
				"invalid_api_key", "access_terminated",
			},
			Meaning: pool.AuthFailed,
			Source:  codexSeen,
		},
		unauthorized,
		openaiSlowDown,
		openaiOverloaded,
		openaiBusy,
		openaiRateLimit,
		{
			Name:     "window",
			Status:   []int{http.StatusTooManyRequests},
			Also:     "X-Codex-Primary-Used-Percent or X-Codex-Secondary-Used-Percent is 100",
			headerIf: codexUsed,
			Meaning:  pool.QuotaExhausted,
			Source:   codexSeen + ": X-Codex-*-Used-Percent",
		},
		tooManyRequests,
	},
	Success: []Rule{
		codexSpent("primary-spent", "X-Codex-Primary-"),
		codexSpent("secondary-spent", "X-Codex-Secondary-"),
	},
	Waits: []Wait{
		retryAfterWait,
		retryAfterMSWait,
		fields(codexClient + ": resets_at, resets_in_seconds"),
		prose(codexClient + ": of rate_limit_exceeded"),
		codexWindow("X-Codex-Primary-"),
		codexWindow("X-Codex-Secondary-"),
	},
}

// codexUsedUp are the codes for a plan, or a workspace's credits, that are used
// up, or that never held this.
var codexUsedUp = []string{
	"usage_limit_reached", "usage_not_included", "usage_limit_exceeded",
	"workspace_owner_credits_depleted", "workspace_member_credits_depleted",
	"workspace_owner_usage_limit_reached", "workspace_member_usage_limit_reached",
}

// codexModel returns the key of the one model whose limit is the active one. The
// plain headers are of whatever limit is active; that of a model also has
// headers of its own, with its name.
func codexModel(h http.Header) string {
	active := h["X-Codex-Active-Limit"]
	if len(active) == 0 {
		return ""
	}
	family, ok := strings.CutPrefix(active[0], "codex_")
	if !ok {
		return ""
	}
	name := h[http.CanonicalHeaderKey("X-Codex-"+strings.ReplaceAll(family, "_", "-")+"-Limit-Name")]
	if len(name) == 0 {
		return ""
	}
	return keyOf("model", name[0])
}

// codexWindow is one of the two windows of the active limit. Which of them is
// the weekly one depends on the plan, so nothing rests on their names: a window
// counts if it is used up, and the longest wait wins.
func codexWindow(prefix string) Wait {
	used := http.CanonicalHeaderKey(prefix + "Used-Percent")
	after := http.CanonicalHeaderKey(prefix + "Reset-After-Seconds")
	at := http.CanonicalHeaderKey(prefix + "Reset-At")
	return Wait{Name: at, Window: true, Source: codexClient, find: func(e *evidence) (time.Duration, bool) {
		for _, value := range e.header(used) {
			if n, ok := parseNumber(value); ok && n < 100 {
				return 0, false
			}
		}
		// Both are of one moment, and the one that is relative needs no clock.
		for _, value := range e.header(after) {
			if wait, ok := parseDecimal(value, time.Second); ok {
				return wait, true
			}
		}
		for _, value := range e.header(at) {
			if wait, ok := parseReset(value, e.Answer); ok {
				return wait, true
			}
		}
		return 0, false
	}}
}

// codexUsed reports whether a window is used up.
func codexUsed(h http.Header) bool {
	for _, name := range []string{"X-Codex-Primary-Used-Percent", "X-Codex-Secondary-Used-Percent"} {
		if v := h[name]; len(v) > 0 && isFull(v[0]) {
			return true
		}
	}
	return false
}

// isFull reports whether a percentage is the whole.
func isFull(value string) bool {
	n, ok := parseNumber(value)
	return ok && n >= 100
}

// codexSpent is a window that this answer used up.
func codexSpent(name, prefix string) Rule {
	return Rule{
		Name: name,
		Header: []HeaderIs{{
			Name:  http.CanonicalHeaderKey(prefix + "Used-Percent"),
			Also:  "is 100",
			value: isFull,
		}},
		// Without limit, the window means nothing.
		Also: "X-Codex-Credits-Unlimited is not true",
		headerIf: func(h http.Header) bool {
			v := h["X-Codex-Credits-Unlimited"]
			return len(v) == 0 || !strings.EqualFold(v[0], "true")
		},
		Meaning: pool.QuotaExhausted,
		Source:  codexSeen,
	}
}

// keyOf makes a key of ScopeModel from a kind and the upstream's name for the
// thing; empty if that is no name.
func keyOf(kind, name string) string {
	const longest = 64
	if name == "" || len(name) > longest {
		return ""
	}
	low := lower([]byte(strings.TrimSpace(name)))
	for _, c := range low {
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return ""
		}
	}
	if len(low) == 0 {
		return ""
	}
	return kind + ":" + string(low)
}

package classify

import (
	"net/http"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

const (
	xaiErrors = "docs.x.ai/docs/key-information/debugging"
	xaiSeen   = "seen in answers of api.x.ai"
)

// xai is api.x.ai. Its errors are {"code": …, "error": …}, and both are
// sentences as often as not.
var xai = Provider{
	Name:   "xai",
	Inject: []Injection{bearer("", "docs.x.ai/docs/api-reference")},
	Rules: []Rule{
		challenge,
		blockedAddress,
		{
			Name:    "usage-exhausted",
			Status:  []int{http.StatusPaymentRequired, http.StatusForbidden, http.StatusTooManyRequests},
			Codes:   []string{"*-exhausted", "subscription:*", "*:spending-limit"},
			Meaning: pool.QuotaExhausted,
			Source:  xaiSeen,
		},
		{
			Name:   "credits",
			Status: []int{http.StatusPaymentRequired, http.StatusForbidden, http.StatusTooManyRequests},
			Words: []string{
				"your team has either used all available credits", "your team * has either used all available credits",
				"your newly created team doesn't have any credits", "your team doesn't have any credits", "your team does not have any credits",
				"you have run out of credits", "you need a grok subscription", "you've used all the included free usage",
			},
			Meaning: pool.QuotaExhausted,
			Source:  xaiSeen + ", with 403 and with 429",
		},
		{
			Name:    "payment-required",
			Status:  []int{http.StatusPaymentRequired},
			Meaning: pool.QuotaExhausted,
			Source:  "RFC 9110 section 15.5.3",
		},
		{
			Name:    "bad-credentials",
			Codes:   []string{"unauthenticated:*", "unauthenticated"},
			Meaning: pool.AuthFailed,
			Source:  xaiSeen + ", with 403",
		},
		{
			Name:   "key",
			Status: []int{http.StatusBadRequest, http.StatusForbidden},
			Words: []string{
				"incorrect api key", "invalid api key", "no api key", "the api key is ", "the api key has been ", "your api key is ",
				"your api key has been ", "api key is currently blocked", "your team is blocked", "your team is currently blocked",
				"the team is blocked", "the team is currently blocked", "your team * is blocked", "your team * is currently blocked",
			},
			Meaning: pool.AuthFailed,
			Source:  xaiErrors + ": 400 for a wrong key, 403 for one that is blocked",
		},
		unauthorized,
		{
			Name:    "busy",
			Words:   []string{"*at capacity", "*currently overloaded", "*service is currently unavailable", "*temporarily unavailable"},
			Meaning: pool.Overloaded,
			Source:  xaiSeen,
		},
		tooManyRequests,
	},
	Success: []Rule{
		spent("requests-spent", "X-Ratelimit-Remaining-Requests", "X-Ratelimit-Reset-Requests", xaiSeen),
		spent("tokens-spent", "X-Ratelimit-Remaining-Tokens", "X-Ratelimit-Reset-Tokens", xaiSeen),
	},
	Waits: append([]Wait{
		retryAfterWait,
		prose(xaiErrors),
	}, openaiWindows...),
}

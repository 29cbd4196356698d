package classify

import (
	"net/http"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

const (
	huggingfaceLimits  = "huggingface.co/docs/hub/rate-limits"
	huggingfacePricing = "huggingface.co/docs/inference-providers/pricing"
)

// huggingface is the Hub and Inference Providers.
var huggingface = Provider{
	Name:   "huggingface",
	Inject: []Injection{bearer("", "huggingface.co/docs/hub/security-tokens")},
	Rules: []Rule{
		{
			Name:   "credits",
			Status: []int{http.StatusPaymentRequired, http.StatusForbidden, http.StatusTooManyRequests},
			Words: []string{
				"you have exceeded your monthly included credits", "you have depleted your monthly included credits",
				"you have exceeded your gpu quota", "you have exceeded your free", "you have exceeded your pro gpu quota",
			},
			Meaning: pool.QuotaExhausted,
			Source:  huggingfacePricing,
		},
		{
			Name:    "payment-required",
			Status:  []int{http.StatusPaymentRequired},
			Meaning: pool.QuotaExhausted,
			Source:  huggingfacePricing,
		},
		unauthorized,
		{
			Name:    "loading",
			Words:   []string{"*is currently loading", "model too busy"},
			Meaning: pool.Overloaded,
			Source:  "huggingface.co/docs/api-inference: the model is loaded when it is asked for",
		},
		tooManyRequests,
	},
	Success: []Rule{{
		Name:    "spent",
		Header:  []HeaderIs{{Name: "Ratelimit", Also: "has a policy with r=0", value: rateLimitIsSpent}},
		Meaning: pool.RateLimited,
		Source:  huggingfaceLimits,
	}},
	Waits: []Wait{
		retryAfterWait,
		prose("seen in answers of ZeroGPU spaces"),
		rateLimitFieldWait,
	},
}

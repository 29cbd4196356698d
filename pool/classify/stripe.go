package classify

import (
	"github.com/credentialpool/caddy-credential-pool/pool"
)

const (
	stripeLimits = "docs.stripe.com/rate-limits"
	stripeErrors = "docs.stripe.com/error-codes"
)

// stripe is api.stripe.com. A 402 is a card that was declined, not an account
// without money.
var stripe = Provider{
	Name:   "stripe",
	Inject: []Injection{bearer("", "docs.stripe.com/api/authentication")},
	Rules: []Rule{
		{
			Name:    "lock-timeout",
			Codes:   []string{"lock_timeout"},
			Meaning: pool.RequestError,
			Source:  stripeLimits + ": a 429 about one object",
		},
		{
			Name:    "object-limit",
			Header:  []HeaderIs{{Name: "Stripe-Rate-Limited-Reason", Values: []string{"resource-specific"}}},
			Meaning: pool.RequestError,
			Source:  stripeLimits + ": such as 1,000 updates of one PaymentIntent in an hour",
		},
		{
			Name:    "key",
			Codes:   []string{"api_key_expired", "platform_api_key_expired", "secret_key_required"},
			Meaning: pool.AuthFailed,
			Source:  stripeErrors,
		},
		unauthorized,
		{
			Name:    "rate-limit",
			Codes:   []string{"rate_limit", "rate_limit_error"},
			Meaning: pool.RateLimited,
			Source:  stripeErrors,
		},
		tooManyRequests,
	},
	Waits: []Wait{retryAfterWait},
}

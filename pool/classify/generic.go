package classify

import (
	"net/http"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

// generic is for an API that follows the RFCs, and for the two families of
// error codes that many APIs took over from others.
var generic = Provider{
	Name:   "generic",
	Inject: []Injection{bearer("", "RFC 6750 section 2.1")},
	Rules: []Rule{
		tooManyRequests,
		// RFC 9110 section 15.5.2: valid credentials are lacking. A 403
		// (15.5.4) says that they were understood, so by itself it is about the
		// request.
		unauthorized,
		{
			Name:    "forbidden-rate-limit",
			Status:  []int{http.StatusForbidden},
			Body:    []string{"rate_limit_exceeded"},
			Meaning: pool.RateLimited,
			Source:  "convention: OpenAI's error code, taken over by compatible APIs",
		},
		{
			Name:    "forbidden-quota",
			Status:  []int{http.StatusForbidden},
			Body:    []string{"insufficient_quota", "quota_exceeded", "quota exhausted"},
			Meaning: pool.QuotaExhausted,
			Source:  "convention: OpenAI's error code, and the words of other APIs for the same",
		},
	},
	Waits: []Wait{
		retryAfterWait,
		retryAfterMSWait,
		rateLimitFieldWait,
		window("Ratelimit-Reset", "Ratelimit-Remaining", "draft-ietf-httpapi-ratelimit-headers-03"),
		window("X-Ratelimit-Reset", "X-Ratelimit-Remaining", "convention, of GitHub's API and others"),
	},
}

package classify

import (
	"net/http"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

const (
	bedrockErrors = "docs.aws.amazon.com/bedrock/latest/userguide/troubleshooting-api-error-codes.html"
	awsErrors     = "docs.aws.amazon.com/bedrock/latest/APIReference/CommonErrors.html"
)

// bedrock is the Bedrock runtime with API keys; requests that are signed with
// the body in them (SigV4) cannot be given another credential. The error's name
// stands in X-Amzn-ErrorType or in the body's __type.
var bedrock = Provider{
	Name:   "bedrock",
	Inject: []Injection{bearer("", "docs.aws.amazon.com/bedrock/latest/userguide/api-keys-use.html")},
	Strip:  []string{"X-Amz-Security-Token", "X-Amz-Date", "X-Amz-Content-Sha256"},
	// A URL that is signed beforehand holds a credential of the client's.
	StripParams: []string{
		"X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature",
		"X-Amz-Security-Token",
	},
	Rules: []Rule{
		{
			Name: "model-not-ready",
			Codes: []string{
				"ModelNotReadyException", "ServiceUnavailableException", "ModelTimeoutException", "ModelErrorException",
				"ModelStreamErrorException", "InternalServerException",
			},
			Meaning: pool.Overloaded,
			Source:  bedrockErrors,
		},
		{
			Name:    "daily-tokens",
			Status:  []int{http.StatusTooManyRequests},
			Codes:   []string{"ThrottlingException"},
			Words:   []string{"too many tokens per day"},
			Meaning: pool.QuotaExhausted,
			Source:  "seen: a ThrottlingException of the daily quota",
		},
		{
			Name:    "service-quota",
			Codes:   []string{"ServiceQuotaExceededException"},
			Meaning: pool.QuotaExhausted,
			Source:  bedrockErrors,
		},
		{
			Name:    "payment",
			Status:  []int{http.StatusForbidden},
			Codes:   []string{"AccessDeniedException"},
			Words:   []string{"model access is denied due to invalid_payment_instrument"},
			Meaning: pool.QuotaExhausted,
			Source:  bedrockErrors,
		},
		{
			Name: "credential",
			Codes: []string{
				"ExpiredTokenException", "ExpiredToken", "UnrecognizedClientException", "InvalidClientTokenId",
				"InvalidSignatureException", "SignatureDoesNotMatch", "IncompleteSignature", "IncompleteSignatureException",
				"MissingAuthenticationToken", "MissingAuthenticationTokenException", "InvalidAccessKeyId", "OptInRequired",
			},
			Meaning: pool.AuthFailed,
			Source:  awsErrors,
		},
		{
			// AccessDeniedException is also the answer to a model that was not
			// enabled, which is about the request.
			Name:   "api-key",
			Status: []int{http.StatusForbidden},
			Codes:  []string{"AccessDeniedException"},
			Words: []string{
				"authentication failed", "bearer token has expired", "bearer token is", "the bearer token ", "invalid api key",
				"api key is", "api key has", "the api key ", "the security token included in the request",
			},
			Meaning: pool.AuthFailed,
			Source:  "seen: an AccessDeniedException about the API key",
		},
		unauthorized,
		{
			Name:    "throttling",
			Codes:   []string{"ThrottlingException", "Throttling", "TooManyRequestsException"},
			Meaning: pool.RateLimited,
			Source:  bedrockErrors,
		},
		tooManyRequests,
	},
	Waits: []Wait{retryAfterWait, prose(bedrockErrors)},
}

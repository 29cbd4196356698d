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
			Words:   []string{"tokens per day"},
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
			Words:   []string{"invalid_payment_instrument"},
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
			Name:    "api-key",
			Status:  []int{http.StatusForbidden},
			Words:   []string{"authentication failed", "api key", "bearer token", "security token"},
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

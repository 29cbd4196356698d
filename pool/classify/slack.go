package classify

import (
	"net/http"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

const (
	slackErrors = "docs.slack.dev/reference/methods: errors of each method"
	slackLimits = "docs.slack.dev/apis/web-api/rate-limits"
)

// slack is the Web API, which answers 200 with ok:false to nearly all that
// fails.
var slack = Provider{
	Name:        "slack",
	Inject:      []Injection{bearer("", "docs.slack.dev/authentication")},
	StripParams: []string{"token"},
	SmallBodies: func(http.Header) bool { return true },
	Rules: []Rule{
		{
			Name:    "rate-limit",
			Codes:   []string{"ratelimited", "rate_limited", "message_limit_exceeded"},
			Meaning: pool.RateLimited,
			Source:  slackLimits,
		},
		{
			Name: "token",
			Codes: []string{
				"invalid_auth", "not_authed", "account_inactive", "token_revoked", "token_expired", "two_factor_setup_required",
			},
			Meaning: pool.AuthFailed,
			Source:  slackErrors,
		},
		unauthorized,
		{
			Name:    "busy",
			Codes:   []string{"internal_error", "fatal_error", "service_unavailable", "request_timeout", "team_added_to_org"},
			Meaning: pool.Overloaded,
			Source:  slackErrors,
		},
		tooManyRequests,
	},
	Waits: []Wait{headerWait("Retry-After", parseRetryAfter, slackLimits)},
}

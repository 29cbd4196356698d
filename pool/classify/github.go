package classify

import (
	"net/http"
	"strings"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

const (
	githubLimits  = "docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api"
	githubErrors  = "docs.github.com/rest/using-the-rest-api/troubleshooting-the-rest-api"
	githubGraphQL = "docs.github.com/graphql/overview/rate-limits-and-query-limits-for-the-graphql-api"
)

// githubLimited are the statuses of GitHub's rate limits.
var githubLimited = []int{http.StatusForbidden, http.StatusTooManyRequests}

// github is api.github.com, REST and GraphQL.
var github = Provider{
	Name:     "github",
	Inject:   []Injection{bearer("", "docs.github.com/rest/authentication/authenticating-to-the-rest-api")},
	Resource: githubPart,
	// GraphQL answers 200 when a limit is hit.
	SmallBodies: func(h http.Header) bool { return githubResource(h) == "resource:graphql" },
	Rules: []Rule{
		{
			// It does not obey x-ratelimit-reset, which is of the primary limit.
			Name:          "secondary-limit",
			Words:         []string{"secondary rate limit", "secondary-rate-limit", "abuse detection", "abuse-rate-limit"},
			Meaning:       pool.RateLimited,
			Wait:          time.Minute,
			IgnoreWindows: true,
			Source:        githubLimits + ": otherwise, wait for at least one minute",
		},
		{
			Name:     "resource-limit",
			Status:   githubLimited,
			Header:   []HeaderIs{{Name: "X-Ratelimit-Remaining", Also: "is 0", value: isZero}},
			Also:     oneResource,
			headerIf: ofOneResource,
			Meaning:  pool.RateLimited,
			Scope:    pool.ScopeModel,
			key:      githubResource,
			Source:   githubLimits + ": x-ratelimit-resource",
		},
		{
			Name:    "primary-limit",
			Status:  githubLimited,
			Header:  []HeaderIs{{Name: "X-Ratelimit-Remaining", Also: "is 0", value: isZero}},
			Meaning: pool.RateLimited,
			Source:  githubLimits,
		},
		{
			Name:    "limit-words",
			Status:  githubLimited,
			Words:   []string{"api rate limit exceeded"},
			Meaning: pool.RateLimited,
			Source:  githubLimits,
		},
		{
			Name:     "graphql-limit",
			Codes:    []string{"RATE_LIMITED", "RATE_LIMIT"},
			Also:     oneResource,
			headerIf: ofOneResource,
			Meaning:  pool.RateLimited,
			Scope:    pool.ScopeModel,
			key:      githubResource,
			Source:   githubGraphQL,
		},
		{
			Name:    "logins",
			Status:  []int{http.StatusForbidden},
			Words:   []string{"maximum number of login attempts"},
			Meaning: pool.AuthFailed,
			Source:  githubErrors + ": after several invalid credentials even the valid ones are refused",
		},
		{
			Name:    "suspended",
			Status:  []int{http.StatusForbidden},
			Words:   []string{"account was suspended", "account is suspended", "account has been suspended", "installation has been suspended"},
			Meaning: pool.AuthFailed,
			Source:  "seen: a 403 about the account",
		},
		unauthorized,
		{
			Name:    "copilot-quota",
			Status:  []int{http.StatusPaymentRequired, http.StatusTooManyRequests, http.StatusForbidden},
			Codes:   []string{"quota_exceeded"},
			Meaning: pool.QuotaExhausted,
			Source:  "seen in answers of api.githubcopilot.com",
		},
		{
			Name:    "too-many-requests",
			Status:  []int{http.StatusTooManyRequests},
			Meaning: pool.RateLimited,
			Wait:    time.Minute,
			Source:  githubLimits + ": otherwise, wait for at least one minute",
		},
	},
	Success: []Rule{
		{
			Name:     "resource-spent",
			Header:   spent("", "X-Ratelimit-Remaining", "X-Ratelimit-Reset", "").Header,
			Also:     oneResource,
			headerIf: ofOneResource,
			Meaning:  pool.RateLimited,
			Scope:    pool.ScopeModel,
			key:      githubResource,
			Source:   githubLimits,
		},
		spent("spent", "X-Ratelimit-Remaining", "X-Ratelimit-Reset", githubLimits),
	},
	Waits: []Wait{
		retryAfterWait,
		prose("seen in answers of models.github.ai"),
		window("X-Ratelimit-Reset", "X-Ratelimit-Remaining", githubLimits),
	},
}

const oneResource = "X-Ratelimit-Resource names another part of the API than core"

// githubPart returns the part of the API that a path belongs to, also below
// /api/v3 of an enterprise's own server; of those that have a limit of their own,
// the ones that are used much (docs.github.com/rest/rate-limit).
func githubPart(path string) string {
	path = strings.TrimPrefix(strings.TrimPrefix(path, "/api/v3"), "/api")
	switch {
	case path == "/graphql":
		return "resource:graphql"
	case path == "/search/code":
		return "resource:code_search"
	case strings.HasPrefix(path, "/search/"):
		return "resource:search"
	}
	return ""
}

// githubResource returns the key of the part of the API that the answer's limit
// is of.
func githubResource(h http.Header) string {
	v := h["X-Ratelimit-Resource"]
	if len(v) == 0 {
		return ""
	}
	return keyOf("resource", v[0])
}

// ofOneResource reports whether the limit is of a part of the API. "core" is
// most of it, and stands for the whole.
func ofOneResource(h http.Header) bool {
	v := h["X-Ratelimit-Resource"]
	return len(v) > 0 && !strings.EqualFold(v[0], "core") && githubResource(h) != ""
}

package classify

import (
	"net/http"
	"slices"
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
	SmallBodies: func(h http.Header) bool { return githubResource(h) == githubGraph },
	Rules: []Rule{
		{
			// It does not obey x-ratelimit-reset, which is of the primary limit.
			Name:          "secondary-limit",
			Status:        githubLimited,
			Words:         slices.Concat(githubSecondary, []string{"https://docs.github.com/*secondary-rate-limit", "https://d*.github.com/*abuse-rate-limit"}),
			Meaning:       pool.RateLimited,
			Wait:          time.Minute,
			IgnoreWindows: true,
			Source:        githubLimits + ": otherwise, wait for at least one minute",
		},
		{
			// Errors about the query have a type.
			Name:          "graphql-secondary-limit",
			Within:        true,
			Words:         githubSecondary,
			Also:          "no error has a type",
			bodyIf:        func(e *evidence) bool { return !e.has("type") },
			Meaning:       pool.RateLimited,
			Wait:          time.Minute,
			IgnoreWindows: true,
			Source:        githubGraphQL + ": 200 or 403",
		},
		{
			Name:     "resource-limit",
			Status:   githubLimited,
			Header:   []HeaderIs{{Name: "X-Ratelimit-Remaining", Also: "is 0", value: isZero}},
			Also:     oneResource,
			headerIf: ofOneResource,
			Meaning:  pool.RateLimited,
			Scope:    pool.ScopeModel,
			key:      githubKey,
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
			Name:    "graphql-limit",
			Codes:   []string{"RATE_LIMITED", "RATE_LIMIT"},
			Meaning: pool.RateLimited,
			Scope:   pool.ScopeModel,
			key:     githubKey,
			Source:  githubGraphQL,
		},
		{
			Name:    "logins",
			Status:  []int{http.StatusForbidden},
			Words:   []string{"maximum number of login attempts exceeded"},
			Meaning: pool.AuthFailed,
			Source:  githubErrors + ": after several invalid credentials even the valid ones are refused",
		},
		{
			Name:   "suspended",
			Status: []int{http.StatusForbidden},
			Words: []string{
				"sorry. your account was suspended", "sorry. your account is suspended", "your account was suspended",
				"your account is suspended", "your account has been suspended", "this installation has been suspended",
			},
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
			key:      githubKey,
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

// githubSecondary are the messages of the limits that have no headers.
var githubSecondary = []string{"you have exceeded a secondary rate limit", "you have triggered an abuse detection mechanism"}

const oneResource = "X-Ratelimit-Resource names graphql, search or code_search"

// Parts of the API that have a limit of their own and can be told from a path
// (docs.github.com/rest/rate-limit). A bench for another part would be found by no
// request, so the limits of those are taken for the whole member's.
const (
	githubGraph      = "resource:graphql"
	githubSearch     = "resource:search"
	githubCodeSearch = "resource:code_search"
)

// githubPart returns the part of the API that a path belongs to, also below
// /api/v3 of an enterprise's own server.
func githubPart(path string) string {
	path = strings.TrimPrefix(strings.TrimPrefix(path, "/api/v3"), "/api")
	switch {
	case path == "/graphql":
		return githubGraph
	case path == "/search/code":
		return githubCodeSearch
	case strings.HasPrefix(path, "/search/"):
		return githubSearch
	}
	return ""
}

// githubResource returns the key of the part of the API that the answer's limit
// is of, if githubPart knows it.
func githubResource(h http.Header) string {
	v := h["X-Ratelimit-Resource"]
	if len(v) == 0 {
		return ""
	}
	for _, key := range []string{githubGraph, githubSearch, githubCodeSearch} {
		if strings.EqualFold(v[0], key[len("resource:"):]) {
			return key
		}
	}
	return ""
}

func githubKey(e *evidence) string { return githubResource(e.Header) }

// ofOneResource reports whether the limit is of a part of the API.
func ofOneResource(h http.Header) bool { return githubResource(h) != "" }

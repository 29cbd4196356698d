package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// The ways in which providers refuse an account that no status alone tells, each
// before a client that must see nothing of it.

var anthropicRefusals = map[string]http.HandlerFunc{
	"400 the balance is too low": refusal(400, `{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits."},"request_id":"req_1"}`),
	"429 the plan's window is used up": func(w http.ResponseWriter, r *http.Request) {
		reset := fmt.Sprint(time.Now().Add(time.Hour).Unix())
		for name, value := range map[string]string{"Status": "rejected", "Representative-Claim": "five_hour", "5h-Status": "rejected", "5h-Reset": reset, "Reset": reset} {
			w.Header().Set("Anthropic-Ratelimit-Unified-"+name, value)
		}
		refusal(429, `{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed your account's rate limit. Please try again later."}}`)(w, r)
	},
	"403 the organization is disabled": refusal(403, `{"type":"error","error":{"type":"permission_error","message":"OAuth token has been revoked. Please obtain a new token."}}`),
}

func TestProvider_anthropic(t *testing.T) {
	t.Parallel()
	anthropicAPI.by("anthropic", anthropicRefusals).failsOver(t, func(t *testing.T, c *caddy) string {
		client := c.anthropicClient()
		res, err := client.Messages.New(t.Context(), prompt)
		if err != nil {
			t.Fatal(err)
		}
		return res.Content[0].Text
	})
}

func TestProvider_anthropicWithClaudeCode(t *testing.T) {
	t.Parallel()
	node, cli := onPath(t, "node"), fromNPM(t, "@anthropic-ai/claude-code/cli-wrapper.cjs")
	anthropicAPI.by("anthropic", anthropicRefusals).failsOver(t, func(t *testing.T, c *caddy) string { return c.claude(t, node, cli) })
}

func TestProvider_openAIStream(t *testing.T) {
	t.Parallel()
	openAI.by("openai", map[string]http.HandlerFunc{
		"429 the quota is used up": refusal(429, `{"error":{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}`),
		"401 the account is gone":  refusal(401, `{"error":{"message":"The OpenAI account associated with this API key has been deactivated.","type":"invalid_request_error","param":null,"code":"account_deactivated"}}`),
		"insufficient_quota within a stream": func(w http.ResponseWriter, _ *http.Request) {
			send(w, "error", `{"error":{"message":"You exceeded your current quota.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}`)
		},
	}).failsOver(t, func(t *testing.T, c *caddy) string { return c.openAIStream(t) })
}

// codexByName is the pool of a user who has only said which API it is.
var codexByName = codexAPI.by("codex", map[string]http.HandlerFunc{
	"429 the plan is used up": func(w http.ResponseWriter, r *http.Request) {
		for name, value := range map[string]string{"Primary-Used-Percent": "100", "Primary-Window-Minutes": "10080", "Primary-Reset-After-Seconds": "86400"} {
			w.Header().Set("X-Codex-"+name, value)
		}
		refusal(429, `{"error":{"type":"usage_limit_reached","message":"The usage limit has been reached","plan_type":"free"}}`)(w, r)
	},
	"402 the workspace is deactivated": refusal(402, `{"detail":{"code":"deactivated_workspace"}}`),
	"usage_limit_reached within a stream": func(w http.ResponseWriter, _ *http.Request) {
		send(w, "", `{"type":"error","error":{"type":"usage_limit_reached","message":"The usage limit has been reached","resets_in_seconds":3600}}`)
	},
})

func TestProvider_codex(t *testing.T) {
	t.Parallel()
	codexByName.failsOver(t, func(t *testing.T, c *caddy) string {
		a := c.do(c.request(http.MethodPost, codexAPI.path, `{"input":"say hi"}`, "ChatGPT-Account-Id", nobodys))
		if a.status != http.StatusOK || strings.Contains(a.body, "usage_limit") {
			t.Errorf("got %d %s", a.status, a.body)
		}
		_, rest, _ := strings.Cut(a.body, `"text":"`)
		text, _, _ := strings.Cut(rest, `"`)
		return text
	})
}

// graphQL is GitHub's, which answers 200 when a limit is hit.
var graphQL = api{
	start: bearer,
	path:  "/graphql",
	serve: func(account string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if asked(w, r) != nil {
				w.Header().Set("X-Ratelimit-Resource", "graphql")
				_, _ = io.WriteString(w, "served by "+account)
			}
		}
	},
}

func TestProvider_gitHub(t *testing.T) {
	t.Parallel()
	graphQL.by("github", map[string]http.HandlerFunc{
		"403 a secondary limit": func(w http.ResponseWriter, r *http.Request) {
			// The reset is of the primary limit, which was not hit.
			w.Header().Set("X-Ratelimit-Remaining", "4000")
			w.Header().Set("X-Ratelimit-Reset", fmt.Sprint(time.Now().Add(time.Hour).Unix()))
			refusal(403, `{"message":"You have exceeded a secondary rate limit. Please wait a few minutes before you try again.","documentation_url":"https://docs.github.com/rest/overview/rate-limits-for-the-rest-api#about-secondary-rate-limits"}`)(w, r)
		},
		"403 the primary limit": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Ratelimit-Remaining", "0")
			w.Header().Set("X-Ratelimit-Resource", "core")
			w.Header().Set("X-Ratelimit-Reset", fmt.Sprint(time.Now().Add(time.Hour).Unix()))
			refusal(403, `{"message":"API rate limit exceeded for user ID 1."}`)(w, r)
		},
		"401 bad credentials": refusal(401, `{"message":"Bad credentials","documentation_url":"https://docs.github.com/rest","status":"401"}`),
	}).failsOver(t, func(t *testing.T, c *caddy) string {
		return c.do(c.request(http.MethodPost, "/graphql", "say hi")).body
	})
}

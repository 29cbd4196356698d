package e2e

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

var codexAPI = api{
	start: login,
	path:  "/backend-api/codex/responses",
	refusals: map[string]http.HandlerFunc{
		"429": refusal(429, `{"error":{"type":"usage_limit_reached","message":"The usage limit has been reached","plan_type":"plus","resets_at":4102444800,"resets_in_seconds":3600}}`),
		"401": refusal(401, `{"error":{"message":"Provided authentication token is expired. Please try signing in again.","type":null,"code":"token_expired","param":null},"status":401}`),
	},
	serve: response,
	check: func(t *testing.T, c *caddy, h hit) {
		t.Helper()
		equal(t, "the token is home's", h.header.Get("Authorization") == "Bearer "+c.secrets["home"], true)
		equal(t, "the number is home's", h.header.Get("Chatgpt-Account-Id") == c.secrets["home's number"], true)
	},
}

// response answers the calls that Codex CLI makes.
func response(account string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/models"):
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprint(w, `{"models":[]}`)
		case strings.HasSuffix(r.URL.Path, "/responses"):
			if asked(w, r) == nil {
				return
			}
			send(w, "response.created", `{"type":"response.created","response":{"id":"resp_1"}}`)
			send(w, "response.output_item.done", fmt.Sprintf(`{"type":"response.output_item.done","output_index":0,`+
				`"item":{"type":"message","role":"assistant","id":"msg_1","content":[{"type":"output_text","text":%q}]}}`, "served by "+account))
			send(w, "response.completed", `{"type":"response.completed","response":{"id":"resp_1","usage":{"input_tokens":1,"input_tokens_details":null,`+
				`"output_tokens":1,"output_tokens_details":null,"total_tokens":2}}}`)
		default:
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprint(w, `{}`)
		}
	}
}

// jwt makes a token of the form that Codex CLI wants, signed by nobody.
func jwt(claims string) string {
	mac := hmac.New(sha256.New, []byte(rand.Text()))
	b64 := base64.RawURLEncoding
	text := b64.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + b64.EncodeToString([]byte(claims))
	_, _ = mac.Write([]byte(text))
	return text + "." + b64.EncodeToString(mac.Sum(nil))
}

// nobodys is the account in the client's own login.
const nobodys = "account-of-nobody"

// login starts a Caddy whose pool puts an account's token and its number into
// the request, both from the vault.
func login(c *caddy) {
	c.phantom = jwt(`{"exp":4102444800,"https://api.openai.com/auth":{"chatgpt_plan_type":"plus","chatgpt_account_id":"` + nobodys + `"}}`)
	c.setenv("PHANTOM", c.phantom)
	c.start(config{
		members: c.vaulted(),
		pool:    "inject header Authorization \"Bearer {credential}\"\ninject header ChatGPT-Account-Id {credential.account_id}",
	})
	for _, name := range c.accounts {
		c.secrets[name+"'s number"] = c.canary()
		c.want(200, http.MethodPut, "/credential_pool/credentials/api/"+name, fmt.Sprintf(
			`{"kind":"static","secret":%q,"fields":{"account_id":%q}}`, c.secrets[name], c.secrets[name+"'s number"]), nil)
	}
}

func TestCodex_exec(t *testing.T) {
	t.Parallel()
	node, cli := onPath(t, "node"), fromNPM(t, "@openai/codex/bin/codex.js")
	codexAPI.failsOver(t, func(t *testing.T, c *caddy) string {
		p := c.program("CODEX_HOME=" + c.path("client/codex"))
		p.file("codex/auth.json", fmt.Sprintf(`{"auth_mode":"chatgpt","OPENAI_API_KEY":null,"last_refresh":%q,`+
			`"tokens":{"id_token":%q,"access_token":%q,"refresh_token":"none","account_id":%q}}`,
			time.Now().UTC().Format(time.RFC3339),
			jwt(`{"email":"agent@example.com","exp":4102444800,"https://api.openai.com/auth":{"chatgpt_plan_type":"plus","chatgpt_account_id":"`+nobodys+`"}}`),
			c.phantom, nobodys))
		p.file("codex/config.toml", fmt.Sprintf(`model_provider = "pool"
chatgpt_base_url = %q
check_for_update_on_startup = false
analytics.enabled = false

[model_providers.pool]
name = "pool"
base_url = %q
wire_api = "responses"
requires_openai_auth = true
supports_websockets = false
request_max_retries = 0
stream_max_retries = 0
`, c.url("/backend-api/"), c.url("/backend-api/codex")))
		told := p.run(t, node, cli, "exec", "--skip-git-repo-check", "say hi")
		for _, h := range c.upstream.seen() {
			if h.header.Get("Chatgpt-Account-Id") != c.secrets[h.account+"'s number"] {
				t.Errorf("%s %s: the account's number is not %s's", h.method, h.path, h.account)
			}
		}
		return told
	})
}

package e2e

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
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
		p.file("codex/config.toml", c.codexConfig())
		told := p.run(t, node, cli, "exec", "--skip-git-repo-check", "say hi")
		for _, h := range c.upstream.seen() {
			if h.header.Get("Chatgpt-Account-Id") != c.secrets[h.account+"'s number"] {
				t.Errorf("%s %s: the account's number is not %s's", h.method, h.path, h.account)
			}
		}
		return told
	})
}

// codexConfig is the configuration of a Codex CLI that uses the pool.
func (c *caddy) codexConfig() string {
	return fmt.Sprintf(`model_provider = "pool"
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
`, c.url("/backend-api/"), c.url("/backend-api/codex"))
}

// planUsedUp is how the backend refuses an account whose plan is used up.
func planUsedUp(w http.ResponseWriter, r *http.Request) {
	reset := time.Now().Add(5 * 24 * time.Hour)
	for name, value := range map[string]any{
		"Active-Limit": "premium", "Plan-Type": "plus",
		"Primary-Used-Percent": 100, "Primary-Window-Minutes": 300, "Primary-Reset-After-Seconds": 9000,
		"Secondary-Used-Percent": 100, "Secondary-Window-Minutes": 10080, "Secondary-Reset-After-Seconds": 432000,
	} {
		w.Header().Set("X-Codex-"+name, fmt.Sprint(value))
	}
	refusal(http.StatusTooManyRequests, fmt.Sprintf(`{"error":{"type":"usage_limit_reached","message":"The usage limit has been reached",`+
		`"plan_type":"plus","resets_at":%d,"eligible_promo":null,"resets_in_seconds":432000}}`, reset.Unix()))(w, r)
}

// A Codex CLI with the login that the command prints, as it is and in need of a
// refresh, before accounts that log in at a server whose refresh tokens work
// once. The first account is used up, and the client is told nothing of it.
func TestCodex_withAPhantomLogin(t *testing.T) {
	t.Parallel()
	node, cli := onPath(t, "node"), fromNPM(t, "@openai/codex/bin/codex.js")
	expired := jwt(`{"exp":1600000000,"https://api.openai.com/auth":{"chatgpt_plan_type":"plus","chatgpt_account_id":"credential-pool:api"}}`)
	for name, spoil := range map[string]func(auth string, p phantomLogin) string{
		"as it is printed": func(auth string, _ phantomLogin) string { return auth },
		"in need of a refresh": func(auth string, p phantomLogin) string {
			return strings.ReplaceAll(auth, p.AccessToken, expired)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCaddy(t, "work", "home")
			s := newAuthServer(t, c)
			for account, answers := range map[string]http.HandlerFunc{"work": planUsedUp, "home": response("home")} {
				c.upstream.answer(account, s.guarded(answers))
			}
			c.provider = "codex"
			c.start(config{members: c.vaulted(), handler: s.door(c)})
			for _, account := range c.accounts {
				c.secrets[account+"'s number"] = c.canary()
				s.putWith(c, time.Now().Add(-time.Minute), account, "app", map[string]any{
					"fields": map[string]string{"account_id": c.secrets[account+"'s number"]},
				})
				s.refreshed(c, account, 1)
			}
			auth := must(c.pooled("", "phantom", "api", "--codex"))
			p := c.phantoms()
			c.phantom = p.AccessToken

			cl := c.program("CODEX_HOME="+c.path("client/codex"), "CODEX_REFRESH_TOKEN_URL_OVERRIDE="+c.url(tokenPath))
			cl.file("codex/auth.json", spoil(auth, p))
			cl.file("codex/config.toml", c.codexConfig())
			equal(t, "the client is told", cl.run(t, node, cli, "exec", "--skip-git-repo-check", "say hi"), "served by home")
			login, err := os.ReadFile(c.path("client/codex/auth.json"))
			if err != nil || !strings.Contains(string(login), p.AccessToken) || !strings.Contains(string(login), p.RefreshToken) {
				t.Errorf("its login has changed to %s, %v", login, err)
			}
			answered := 0
			for _, h := range c.upstream.seen() {
				if h.account == "" { // some calls have no credential of the client's either
					continue
				}
				equal(t, h.path+": the token is the account's newest", h.header.Get("Authorization") == "Bearer "+c.record(h.account).Access, true)
				equal(t, h.path+": the number is the account's", h.header.Get("Chatgpt-Account-Id") == c.secrets[h.account+"'s number"], true)
				if h.account == "home" && h.path == codexAPI.path {
					answered++
				}
			}
			equal(t, "questions answered by home", answered, 1)
			c.is("work", "cooling")
			s.saw(t, len(c.accounts), 0) // none by the client
		})
	}
}

// phantomLogin is what the admin API says of a pool's phantom.
type phantomLogin struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	IDToken      string `json:"id_token"`
}

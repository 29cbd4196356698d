package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

func TestModel_inThePath(t *testing.T) {
	for path, want := range map[string]string{
		"": "", "/": "", "/v1/chat/completions": "", "/v1/models": "", "/v1/models/": "", "models": "",
		"/v1/models/gpt-4o": "gpt-4o",
		"/v1beta/models/gemini-2.5-pro:streamGenerateContent":                  "gemini-2.5-pro",
		"/v1/projects/p/locations/l/publishers/google/models/gemini-x:predict": "gemini-x",
		"/model/anthropic.claude-sonnet-4-20250514-v1:0/invoke":                "anthropic.claude-sonnet-4-20250514-v1",
		"/openai/deployments/my-gpt/chat/completions":                          "my-gpt",
	} {
		if got := modelInPath(path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

// ask makes a request for a model, in the body as an SDK does it.
func (d *door) ask(t *testing.T, model string) {
	t.Helper()
	res, body := d.do(http.MethodPost, "/v1/messages", `{"max_tokens":1,"messages":[{"role":"user","content":"hi"}],"model":"`+model+`"}`, "Content-Type", "application/json")
	if res.StatusCode != 200 {
		t.Errorf("%s: status %d: %s", model, res.StatusCode, body)
	}
}

func TestScope_aMemberThatIsOutForOneModelServesTheOthers(t *testing.T) {
	for name, refused := range map[string]struct {
		answer http.HandlerFunc
		key    string
	}{
		"a family of models": {status(429, "Anthropic-Ratelimit-Unified-Status", "rejected", "Anthropic-Ratelimit-Unified-7d_opus-Status", "rejected",
			"Anthropic-Ratelimit-Unified-7d_opus-Reset", fmt.Sprint(time.Now().Add(time.Hour).Unix())), "model:opus"},
		"the model that was asked for": {status(429, "Anthropic-Ratelimit-Unified-Status", "rejected", "Anthropic-Ratelimit-Unified-7d_oi-Status", "rejected",
			"Anthropic-Ratelimit-Unified-7d_oi-Reset", fmt.Sprint(time.Now().Add(time.Hour).Unix())), "model=claude-opus-4"},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			d := open(t, u, "provider anthropic", directive())
			u.on("credential-a", refused.answer)
			d.ask(t, "claude-opus-4")
			u.on("credential-a", nil)
			if got := u.credentials(); got != "credential-a credential-b" {
				t.Fatalf("the upstream saw %s", got)
			}
			if m := memberOf(t, d, "a"); m.State != pool.StateReady || !m.Active || len(m.Scopes) != 1 || m.Scopes[0].Key != refused.key || time.Until(m.Scopes[0].Until) < 59*time.Minute {
				t.Errorf("a is %+v", m)
			}
			d.ask(t, "claude-opus-4")
			d.ask(t, "claude-sonnet-4")
			if got := u.credentials(); got != "credential-b credential-a" {
				t.Errorf("then the upstream saw %s", got)
			}
			for _, h := range []string{fmt.Sprintf("for %q alone", refused.key), "failed over from \"a\" to \"b\""} {
				if n := notices.recent(1)[0]; !strings.Contains(n.Message, h) || n.Key != refused.key {
					t.Errorf("told %q", n.Message)
				}
			}
		})
	}
}

func TestScope_aPartOfTheAPI(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "provider github", directive())
	u.on("credential-a", status(403, "X-Ratelimit-Remaining", "0", "X-Ratelimit-Resource", "search", "X-Ratelimit-Reset", fmt.Sprint(time.Now().Add(time.Minute).Unix())))
	d.do(http.MethodGet, "/search/issues?q=x", "")
	u.on("credential-a", nil)
	d.do(http.MethodGet, "/search/repositories?q=x", "")
	d.do(http.MethodGet, "/user", "")
	d.do(http.MethodGet, "/search/code?q=x", "") // has a limit of its own
	if got := u.credentials(); got != "credential-a credential-b credential-b credential-a credential-a" {
		t.Errorf("the upstream saw %s", got)
	}
}

func TestScope_byThePlaceholder(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "provider anthropic\nscope {http.request.header.X-Model}", directive())
	u.on("credential-a", status(429, "Anthropic-Ratelimit-Unified-Status", "rejected", "Anthropic-Ratelimit-Unified-7d_opus-Status", "rejected"))
	d.do(http.MethodGet, "/", "", "X-Model", "Claude-Opus-4")
	u.on("credential-a", nil)
	d.do(http.MethodGet, "/", "", "X-Model", "Claude-Opus-4")
	d.do(http.MethodGet, "/", "", "X-Model", "Claude-Sonnet-4")
	if got := u.credentials(); got != "credential-a credential-b credential-b credential-a" {
		t.Errorf("the upstream saw %s", got)
	}
}

func TestScope_readingAheadLosesNoBody(t *testing.T) {
	for name, option := range map[string]string{"nothing is recorded": "replay_limit 0", "little is": "replay_limit 10B", "all is": ""} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			d := open(t, u, "provider anthropic", directive(option))
			opusIsOut(t, d)
			d.ask(t, "claude-sonnet-4")
			d.ask(t, "claude-opus-4")
			hits := u.seen()
			if len(hits) != 2 || hits[0].credential != "credential-a" || hits[1].credential != "credential-b" {
				t.Fatalf("the upstream got %+v", hits)
			}
			for _, h := range hits {
				if !json.Valid([]byte(h.body)) {
					t.Errorf("the upstream got the body %q", h.body)
				}
			}
			if used := recordings.used.Load(); used != 0 {
				t.Errorf("%d bytes of the budget are not given back", used)
			}
		})
	}
}

// opusIsOut benches the first member for one family of models.
func opusIsOut(t *testing.T, d *door) {
	t.Helper()
	app, err := runningApp()
	if err != nil {
		t.Fatal(err)
	}
	lease, err := app.pools[d.pool].Acquire(time.Now(), "model:claude-opus-4")
	if err != nil {
		t.Fatal(err)
	}
	lease.Report(time.Now(), pool.Verdict{Meaning: pool.QuotaExhausted, Scope: pool.ScopeModel, Key: "model:opus", Wait: time.Hour, Reason: "429"})
	if m := memberOf(t, d, "a"); m.State != pool.StateReady || len(m.Scopes) != 1 {
		t.Fatalf("a is %+v", m)
	}
}

func TestScope_whatNoRequestCanBeMatchedToIsTheWholeMember(t *testing.T) {
	u := newUpstream(t)
	// Without an upstream, no body is read.
	d := open(t, u, "provider anthropic\ninject header Authorization \"Bearer {credential}\"", withoutUpstream)
	u.on("credential-a", status(429, "Anthropic-Ratelimit-Unified-Status", "rejected", "Anthropic-Ratelimit-Unified-7d_opus-Status", "rejected",
		"Anthropic-Ratelimit-Unified-7d_opus-Reset", fmt.Sprint(time.Now().Add(100*time.Hour).Unix())))
	d.want(429)
	if m := memberOf(t, d, "a"); m.State != pool.StateCooling || time.Until(m.Until) > 61*time.Minute {
		t.Errorf("a is %+v", m)
	}
	d.want(200)
}

func TestScope_placeholderWithAColonIsAModel(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "provider anthropic\nscope {http.request.header.X-Model}", directive())
	opusIsOut(t, d)
	d.do(http.MethodGet, "/", "", "X-Model", "claude-opus-4:thinking")
	d.do(http.MethodGet, "/", "", "X-Model", "claude-sonnet-4:thinking")
	if got := u.credentials(); got != "credential-b credential-a" {
		t.Errorf("the upstream saw %s", got)
	}
}

func TestBlame_anotherFailureInBetweenEndsTheRow(t *testing.T) {
	u := newUpstream(t)
	t.Setenv("TEST_CREDENTIAL_C", "credential-c")
	d := open(t, u, "cooldown rate_limited 10s\nmember a {env.TEST_CREDENTIAL_A}\nmember b {env.TEST_CREDENTIAL_B}\nmember c {env.TEST_CREDENTIAL_C}", directive())
	u.on("credential-a", status(429, "Retry-After", "3600"))
	u.on("credential-b", status(401))
	u.on("credential-c", status(429, "Retry-After", "3600"))
	d.want(429)
	if m := memberOf(t, d, "c"); time.Until(m.Until) < 59*time.Minute {
		t.Errorf("c is %+v", m)
	}
}

func TestBlame_whatEveryMemberRefusesInTheSameWayIsBenchedForTheBase(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "cooldown rate_limited 10s", directive())
	u.on("credential-a", status(429, "Retry-After", "3600"))
	u.on("credential-b", status(429, "Retry-After", "3600"))
	d.want(429)
	if m := memberOf(t, d, "a"); time.Until(m.Until) < 59*time.Minute {
		t.Errorf("a is %+v", m)
	}
	if m := memberOf(t, d, "b"); m.State != pool.StateCooling || time.Until(m.Until) > 11*time.Second {
		t.Errorf("b is %+v", m)
	}
	if n := notices.recent(1)[0]; n.Kind != pool.Exhausted || !n.Repeated {
		t.Errorf("told %+v", n)
	}
}

package caddymodule

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/pool/classify"
	"github.com/credentialpool/caddy-credential-pool/vault"
)

func TestProviders_eachPutsACredentialIn(t *testing.T) {
	for _, name := range classify.Names() {
		sp, err := (&PoolConfig{Provider: name, Members: []Member{{Name: "a"}}}).served()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		sp.Pool = pool.New(pool.Config{Members: sp.names}, pool.NewState(name, nil))
		c := vault.Credential{
			ID: "id", Kind: vault.KindStatic, Secret: vault.NewSecret("the-secret"),
			Fields: map[string]vault.Secret{"account_id": vault.NewSecret("the-account")},
		}
		if err := sp.arm(0, c); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		client := http.Header{
			"Authorization": {"Bearer own"}, "X-Api-Key": {"own"}, "X-Goog-Api-Key": {"own"}, "Api-Key": {"own"},
			"Chatgpt-Account-Id": {"own"}, "Openai-Organization": {"own"}, "Accept": {"text/plain"},
		}
		out := sp.outgoingHeader(client, sp.armed[0].Load(), nil)
		found := false
		for header, values := range out {
			found = found || strings.Contains(values[0], "the-secret")
			if strings.Contains(values[0], "own") && (header != "Openai-Organization" && header != "Chatgpt-Account-Id") {
				t.Errorf("%s: the client's own %s goes upstream", name, header)
			}
		}
		if !found || out.Get("Accept") != "text/plain" || client.Get("Authorization") != "Bearer own" {
			t.Errorf("%s sends %v", name, out)
		}
	}
}

func TestProviders_codexPutsTheAccountInAndTheClientsOut(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "provider codex\nmember a\nmember b", directive())
	app, err := runningApp()
	if err != nil {
		t.Fatal(err)
	}
	c := vault.Credential{Name: d.pool + "/a", Kind: vault.KindStatic, Secret: vault.NewSecret("credential-a")}
	if _, err := app.putCredential(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if m := memberOf(t, d, "a"); m.State != pool.StateMissing || !strings.Contains(m.Reason, `no field "account_id"`) {
		t.Errorf("without its account it is %+v", m)
	}
	c.Fields = map[string]vault.Secret{"account_id": vault.NewSecret("account-a")}
	if _, err := app.putCredential(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	d.do(http.MethodGet, "/", "", "ChatGPT-Account-Id", "own", "OpenAI-Organization", "own")
	h := u.seen()[0]
	if h.credential != "credential-a" || h.header.Get("Chatgpt-Account-Id") != "account-a" || h.header.Get("Openai-Organization") != "" {
		t.Errorf("the upstream got %v", h.header)
	}
}

func TestProviders_theirOwnHeaderIsNoneForTheSecondForm(t *testing.T) {
	_, err := adapt("{\ncredential_pool {\npool p {\nprovider anthropic\nmember a\n}\n}\n}\nhttp://:80 {\ncredential_pool p {\nallow_any_client\n}\n}")
	if err != nil {
		t.Fatal(err)
	}
	sp, err := (&PoolConfig{Provider: "anthropic", Members: []Member{{Name: "a"}}}).served()
	if err != nil {
		t.Fatal(err)
	}
	sp.Pool = pool.New(pool.Config{Members: sp.names}, pool.NewState("second-form", nil))
	if err := sp.checkAuthorizationOnly(); err == nil || !strings.Contains(err.Error(), "X-Api-Key") {
		t.Errorf("got %v", err)
	}
}

func TestInject_replacesTheProvidersPlacesButNotItsCare(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "provider codex\ninject header Authorization \"Bearer {credential}\"", directive())
	d.do(http.MethodGet, "/", "", "ChatGPT-Account-Id", "own")
	if got := u.seen()[0].header.Get("Chatgpt-Account-Id"); got != "" {
		t.Errorf("the client's account %q goes upstream with the member's token", got)
	}
}

func TestProviders_theClientsOwnParametersGoOut(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "provider gemini\ninject header Authorization \"Bearer {credential}\"", directive())
	d.do(http.MethodGet, "/v1beta/models?Key=own&alt=sse&access_token=own", "")
	if got := u.seen()[0].query; got != "alt=sse" {
		t.Errorf("the upstream got %q", got)
	}
}

func TestInject_aQueryParameter(t *testing.T) {
	u := newUpstream(t)
	t.Setenv("TEST_CREDENTIAL_A", "key/with+odd=signs&more")
	u.on("", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("key") != "credential-b" {
			w.Header().Set("Location", r.URL.RequestURI())
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		_, _ = io.WriteString(w, "ok")
	})
	d := open(t, u, "inject query key {credential}", directive())
	t.Setenv("TEST_CREDENTIAL_A", "key/with+odd=signs&more")
	d.load("inject query key {credential}", directive(), u, t.TempDir())

	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.url+"/v1?a=%20b&key="+phantom+"&k%65y=own&c", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != 401 {
		t.Errorf("two keys, of which one is the client's: status %d", res.StatusCode)
	}
	u.seen()

	res, body := d.do(http.MethodGet, "/v1?a=%20b&key=own&c", "")
	if res.StatusCode != 200 || body != "ok" {
		t.Fatalf("status %d, %s", res.StatusCode, body)
	}
	hits := u.seen()
	want := []string{"a=%20b&c&key=key%2Fwith%2Bodd%3Dsigns%26more", "a=%20b&c&key=credential-b"}
	if len(hits) != 2 || hits[0].query != want[0] || hits[1].query != want[1] {
		t.Errorf("the upstream got %+v", hits)
	}

	u.on("", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", r.URL.RequestURI())
		w.WriteHeader(http.StatusFound)
	})
	res, _ = d.do(http.MethodGet, "/v1?key="+phantom, "")
	if res.Header.Get("Location") != "" {
		t.Errorf("the client got %v", res.Header)
	}
	if hits = u.seen(); strings.Contains(fmt.Sprint(hits), phantom) {
		t.Errorf("the upstream got the client's token: %+v", hits)
	}
	u.on("", status(302, "Location", "/?key=key%2fwith%2bodd%3dsigns%26more"))
	app, err := runningApp()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := app.pools[d.pool].Recover(time.Now(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := app.pools[d.pool].Rotate(time.Now(), "a", 0); err != nil {
		t.Fatal(err)
	}
	if res, _ = d.do(http.MethodGet, "/", ""); res.Header.Get("Location") != "" {
		t.Errorf("the client got %v", res.Header)
	}
	if _, err := app.pools[d.pool].Rotate(time.Now(), "b", 0); err != nil {
		t.Fatal(err)
	}
	// What net/http says about this one holds the URL.
	conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = fmt.Fprintf(conn, "OPTIONS * HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n", strings.TrimPrefix(d.url, "http://"), phantom)
	if answer, err := io.ReadAll(conn); err != nil || strings.Contains(string(answer), "credential-b") {
		t.Errorf("the client got %s, %v", answer, err)
	}
}

func TestHosts_letDynamicUpstreamsGetACredential(t *testing.T) {
	u := newUpstream(t)
	host, port, _ := strings.Cut(strings.TrimPrefix(u.URL, "http://"), ":")
	config := func(hosts, proxy string) []byte {
		return fmt.Appendf(nil, `{"admin": {"disabled": true}, "logging": {"logs": {"default": {"writer": {"output": "discard"}}}},
			"storage": {"module": "file_system", "root": %q},
			"apps": {
			"credential_pool": {"pools": {"hosts-test": {"members": [{"name": "a", "secret": "{env.TEST_CREDENTIAL_A}"}] %s}}},
			"http": {"servers": {"x": {"listen": ["127.0.0.1:0"], "routes": [{"handle": [{
				"handler": "credential_pool", "pool": "hosts-test", "allow_any_client": true, "proxy": {%s}
			}]}]}}}
		}}`, t.TempDir(), hosts, proxy)
	}
	t.Setenv("TEST_CREDENTIAL_A", "credential-a")
	dynamic := fmt.Sprintf(`"dynamic_upstreams": {"source": "a", "name": %q, "port": %q}`, host, port)
	for _, proxy := range []string{dynamic, `"upstreams": [{"dial": "{http.request.header.X-To}"}]`} {
		if err := caddy.Load(config("", proxy), true); err == nil || !strings.Contains(err.Error(), "name them with hosts in pool hosts-test") {
			t.Errorf("%s without hosts: %v", proxy, err)
		}
	}
	t.Cleanup(func() { _ = caddy.Stop() })

	d := open(t, u, "member a {env.TEST_CREDENTIAL_A}\nhosts 127.0.0.0/8 api.example.com",
		"credential_pool POOL {\nclient agent "+phantom+"\nto {http.request.header.X-To}\n}")
	for to, want := range map[string]int{host + ":" + port: 200, "localhost:" + port: 502} {
		res, body := d.do(http.MethodGet, "/", "", "X-To", to)
		if res.StatusCode != want {
			t.Errorf("to %s: status %d %s, want %d", to, res.StatusCode, body, want)
		}
	}
	if got := u.credentials(); got != "credential-a" {
		t.Errorf("the upstream saw %q", got)
	}
}

func TestHosts_patterns(t *testing.T) {
	patterns, err := parseHosts([]string{"API.example.com", "*.example.org", "10.0.0.0/8", "192.0.2.1", "::1"})
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]bool{
		"api.example.com": true, "api.example.com.": true, "API.EXAMPLE.COM": true, "x.api.example.com": false, "example.com": false,
		"a.example.org": true, "a.b.example.org": true, "example.org": false, "aexample.org": false, "example.org.evil.test": false,
		"10.1.2.3": true, "11.1.2.3": false, "192.0.2.1": true, "192.0.2.2": false, "::ffff:10.1.2.3": true, "::1": true, "[::1]": true, "::2": false, "": false,
	} {
		got := false
		for _, p := range patterns {
			got = got || p.matches(host)
		}
		if got != want {
			t.Errorf("%q: %v, want %v", host, got, want)
		}
	}
	for _, bad := range []string{"", "https://example.com", "example.com:443", "a.*.com", "**.x", "{env.X}", "user@host", "a b"} {
		if _, err := parseHosts([]string{bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestProviders_aSuccessThatTellsBenchesForTheNextRequest(t *testing.T) {
	for form, text := range map[string]string{"with upstream": directive(), "without": withoutUpstream} {
		t.Run(form, func(t *testing.T) {
			u := newUpstream(t)
			d := open(t, u, "provider anthropic\ninject header Authorization \"Bearer {credential}\"", text)
			u.on("credential-a", status(200, "Anthropic-Ratelimit-Requests-Remaining", "0",
				"Anthropic-Ratelimit-Requests-Reset", time.Now().Add(time.Minute).UTC().Format(time.RFC3339)))
			if body := d.want(200); body != "OK" {
				t.Errorf("the client got %q", body)
			}
			if m := memberOf(t, d, "a"); m.State != pool.StateCooling || time.Until(m.Until) < 50*time.Second {
				t.Errorf("a is %+v", m)
			}
			d.want(200)
			if got := u.credentials(); got != "credential-a credential-b" {
				t.Errorf("the upstream saw %s", got)
			}
		})
	}
}

func TestProviders_aSmallBodyThatReportsAFailureIsTriedAgain(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "provider slack", directive())
	answer := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
			_, _ = io.WriteString(w, body)
		}
	}
	u.on("credential-a", answer(`{"ok":false,"error":"channel_not_found"}`))
	if body := d.want(200); body != `{"ok":false,"error":"channel_not_found"}` {
		t.Errorf("the client got %s", body)
	}
	u.on("credential-a", answer(`{"ok":false,"error":"token_revoked"}`))
	u.on("credential-b", answer(`{"ok":true}`))
	if body := d.want(200); body != `{"ok":true}` {
		t.Errorf("the client got %s", body)
	}
	if m := memberOf(t, d, "a"); m.Meaning != pool.AuthFailed || m.Reason != "token_revoked" {
		t.Errorf("a is %+v", m)
	}
}

func TestFail_theUsersRulesComeFirst(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, `fail quota_exhausted {
		status 400 402
		body "out of credits"
	}
	fail request_error {
		status 429
		header X-Limit model
	}
	fail rate_limited {
		status 503
	}`, directive("retries 1"))
	refuse := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			_, _ = io.WriteString(w, body)
		}
	}
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		status int
		want   pool.Meaning // of a; empty if it is not benched
	}{
		{"a body that counts", refuse(402, `{"message":"You are OUT OF CREDITS"}`), 200, pool.QuotaExhausted},
		{"another body", refuse(402, "no"), 402, ""},
		{"a 429 that is about the request", status(429, "X-Limit", "model"), 429, ""},
		{"any other 429", status(429), 200, pool.RateLimited},
		{"a 503, which is not tried again", status(503), 503, pool.RateLimited},
	} {
		app, err := runningApp()
		if err != nil {
			t.Fatal(err)
		}
		sp := app.pools[d.pool]
		for _, name := range []string{"a", "b"} {
			if _, err := sp.Recover(time.Now(), name); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := sp.Rotate(time.Now(), "a", time.Millisecond); err != nil {
			t.Fatal(err)
		}
		u.on("credential-a", tt.answer)
		if res, body := d.do(http.MethodPost, "/", "x"); res.StatusCode != tt.status {
			t.Errorf("%s: status %d %s, want %d", tt.name, res.StatusCode, body, tt.status)
		}
		if m := memberOf(t, d, "a"); m.Meaning != tt.want {
			t.Errorf("%s: a is %+v", tt.name, m)
		}
	}
}

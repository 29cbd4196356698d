package caddymodule

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/caddyserver/caddy/v2"

	"github.com/credentialpool/caddy-credential-pool/vault"
)

// keyOfTheTests is a key of 32 bytes.
var keyOfTheTests = vault.NewSecret("0123456789abcdef0123456789abcdef")

// Clients hold these for years: neither an update of a library nor one of ours
// may change a byte.
func TestPhantom_bytesNeverChange(t *testing.T) {
	p, err := newPhantomTokens(keyOfTheTests, "openai")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ what, got, want string }{
		{"access token", p.access, "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9." +
			"eyJzdWIiOiJjcmVkZW50aWFsLXBvb2w6b3BlbmFpIiwiZXhwIjo0MTAyNDQ0ODAwLCJodHRwczovL2FwaS5vcGVuYWkuY29tL2F1dGgiOnsiY2hhdGdwdF9wbGFuX3R5cGUiOiJwbHVzIiwiY2hhdGdwdF9hY2NvdW50X2lkIjoiY3JlZGVudGlhbC1wb29sOm9wZW5haSJ9fQ." +
			"LnmdI8Sg9z41A4rVj-h2QccOwFGthpxKRzrtUdjK_lE"},
		{"ID token", p.id, "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9." +
			"eyJzdWIiOiJjcmVkZW50aWFsLXBvb2w6b3BlbmFpIiwiZW1haWwiOiJvcGVuYWlAY3JlZGVudGlhbC1wb29sLmludmFsaWQiLCJleHAiOjQxMDI0NDQ4MDAsImh0dHBzOi8vYXBpLm9wZW5haS5jb20vYXV0aCI6eyJjaGF0Z3B0X3BsYW5fdHlwZSI6InBsdXMiLCJjaGF0Z3B0X2FjY291bnRfaWQiOiJjcmVkZW50aWFsLXBvb2w6b3BlbmFpIn19." +
			"uEx9qHQSioZII4l0bO0woXqs53KgJjnfSPBY6D4USGU"},
		{"refresh token", p.refresh, "cpr_IZGUgIpzfhHCQDC7em0dOflvE_SkTaHYuyBtbXjMRXc"},
	} {
		if tc.got != tc.want {
			t.Errorf("the %s is %s", tc.what, tc.got)
		}
	}
}

func TestPhantom_claimsAreThoseOfALogin(t *testing.T) {
	p, err := newPhantomTokens(keyOfTheTests, "openai")
	if err != nil {
		t.Fatal(err)
	}
	const auth = `"exp":4102444800,"https://api.openai.com/auth":{"chatgpt_plan_type":"plus","chatgpt_account_id":"credential-pool:openai"}}`
	for token, want := range map[string]string{
		p.access: `{"sub":"credential-pool:openai",` + auth,
		p.id:     `{"sub":"credential-pool:openai","email":"openai@credential-pool.invalid",` + auth,
	} {
		jws, err := jose.ParseSigned(token, []jose.SignatureAlgorithm{jose.HS256})
		if err != nil {
			t.Fatal(err)
		}
		claims, err := jws.Verify([]byte(keyOfTheTests.Reveal()))
		if err != nil || string(claims) != want {
			t.Errorf("claims %s, %v", claims, err)
		}
		header, _, _ := strings.Cut(token, ".")
		if b, _ := base64.RawURLEncoding.DecodeString(header); string(b) != `{"alg":"HS256","typ":"JWT"}` {
			t.Errorf("header %s", b)
		}
	}
}

func TestPhantom_differsByPoolAndKey(t *testing.T) {
	seen := make(map[string]bool)
	for _, key := range []vault.Secret{keyOfTheTests, vault.NewSecret(strings.Repeat("k", 32))} {
		for _, pool := range []string{"a", "b"} {
			p, err := newPhantomTokens(key, pool)
			if err != nil {
				t.Fatal(err)
			}
			for _, token := range []string{p.access, p.id, p.refresh} {
				if seen[token] || !looksLikePhantom(token) {
					t.Errorf("%s: seen before: %t, looks like a phantom: %t", token, seen[token], looksLikePhantom(token))
				}
				seen[token] = true
			}
		}
	}
}

func TestPhantom_othersTokensDoNotLookLikeOne(t *testing.T) {
	b64 := base64.RawURLEncoding.EncodeToString
	jwt := func(header, claims string) string {
		return b64([]byte(header)) + "." + b64([]byte(claims)) + "." + b64([]byte("mac"))
	}
	for _, token := range []string{
		"", "cpr_", "cpr_x", "cpr_" + strings.Repeat("A", 42), "cpr_" + strings.Repeat("A", 44), "cpr_" + strings.Repeat("!", 43),
		"rt_" + strings.Repeat("A", 43), "sk-ant-ort01-x", "a.b.c", "..",
		jwt(`{"alg":"HS256","typ":"JWT"}`, `{"sub":"user-1"}`),
		jwt(`{"alg":"HS256","typ":"JWT"}`, `{"sub":7}`),
		jwt(`{"alg":"HS256","typ":"JWT"}`, `[]`),
		jwt(`{"alg":"RS256","typ":"JWT"}`, `{"sub":"credential-pool:openai"}`),
		jwt(`{"alg":"HS256","typ":"JWT"}`, `{"sub":"credential-pool:openai"}`), // the MAC is too short
	} {
		if looksLikePhantom(token) {
			t.Errorf("%q looks like one of ours", token)
		}
	}
}

// operate makes a request to the admin API, and decodes the answer into a value
// if there is one.
func (d *door) operate(method, path string, want int, into any) {
	d.t.Helper()
	req, err := http.NewRequestWithContext(d.t.Context(), method, "http://"+d.admin+path, http.NoBody)
	if err != nil {
		d.t.Fatal(err)
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != want {
		d.t.Fatalf("%s %s gives %d %s, %v; want %d", method, path, res.StatusCode, b, err, want)
	}
	if into != nil {
		if err := json.Unmarshal(b, into); err != nil {
			d.t.Fatal(err)
		}
	}
}

// phantoms returns what the API says of the pool's phantoms.
func (d *door) phantoms() phantomView {
	d.t.Helper()
	var v phantomView
	d.operate(http.MethodGet, "/credential_pool/phantom/"+d.pool, 200, &v)
	return v
}

// as makes a request as the client with this token, and returns the status.
func (d *door) as(token string, header ...string) int {
	d.t.Helper()
	res, _ := d.do(http.MethodPost, "/v1/x", "hello", append([]string{"Authorization", "Bearer " + token}, header...)...)
	return res.StatusCode
}

const phantomClient = "credential_pool POOL UPSTREAM {\nclient codex phantom\nclient agent " + phantom + "\n}"

func TestPhantom_isAClientsToken(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "", phantomClient)
	foreign, err := newPhantomTokens(keyOfTheTests, d.pool)
	if err != nil {
		t.Fatal(err)
	}
	if code := d.as(foreign.access); code != 503 {
		t.Errorf("before there is a key, a phantom gets %d", code)
	}
	u.seen()
	if code := d.as(phantom, "Cookie", "empty="); code != 200 || u.seen()[0].header.Get("Cookie") != "empty=" {
		t.Errorf("before there is a key, a cookie without a value is taken for a phantom; status %d", code)
	}
	v := d.phantoms()
	for token, want := range map[string]int{v.AccessToken: 200, phantom: 200, foreign.access: 401, v.RefreshToken: 401, v.IDToken: 401, "": 401, "phantom": 401} {
		if code := d.as(token); code != want {
			t.Errorf("%.20s… gets %d, want %d", token, code, want)
		}
	}
	u.seen()
	if code := d.as(v.AccessToken, "X-Copy", v.AccessToken, "Cookie", "a=b; c="+v.AccessToken); code != 200 {
		t.Fatalf("status %d", code)
	}
	for _, h := range u.seen() {
		if h.credential != "credential-a" || strings.Contains(fmt.Sprint(h.header), v.AccessToken) {
			t.Errorf("the upstream saw %v", h.header)
		}
	}
}

// Whoever shows which of them where, of this pool or another, of this key or one
// before: the upstream gets none.
func TestPhantom_noneGoesUpstream(t *testing.T) {
	for name, directive := range map[string]string{
		"with an upstream":           phantomClient,
		"without an upstream":        "credential_pool POOL {\nclient agent " + phantom + "\n}\nreverse_proxy UPSTREAM",
		"without a phantom's client": directive(),
		"for any client":             "credential_pool POOL UPSTREAM {\nallow_any_client\n}",
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			d := open(t, u, "", directive)
			v := d.phantoms()
			foreign, err := newPhantomTokens(keyOfTheTests, "other")
			if err != nil {
				t.Fatal(err)
			}
			for _, token := range []string{v.AccessToken, v.RefreshToken, v.IDToken, foreign.access, foreign.refresh, foreign.id} {
				res, _ := d.do(http.MethodPost, "/v1/x?keep=%20x&t="+token+"&u="+strings.Replace(token, "_", "%5F", 1), "hello",
					"X-Copy", token, "X-Bearer", "Bearer "+token, "X-Kept", "kept", "Cookie", `a=b;c=`+token+`; d="`+token+`"; e=f`)
				if res.StatusCode != 200 {
					t.Fatalf("status %d", res.StatusCode)
				}
				for _, h := range u.seen() {
					if text := fmt.Sprint(h.header, h.query); strings.Contains(text, token) || h.query != "keep=%20x" ||
						h.header.Get("Cookie") != "a=b; e=f" || h.header.Get("X-Kept") != "kept" || h.credential != "credential-a" {
						t.Errorf("the upstream saw %v and %s", h.header, h.query)
					}
				}
			}
			// What holds none is left as it is.
			d.do(http.MethodPost, "/v1/x?a=&&b=%2f", "hello", "Cookie", "a=b;c=d")
			if h := u.seen(); len(h) != 1 || h[0].query != "a=&&b=%2f" || h[0].header.Get("Cookie") != "a=b;c=d" {
				t.Errorf("the upstream saw %+v", h)
			}
		})
	}
}

func TestPhantom_withoutAnUpstreamToo(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "", "credential_pool POOL {\nclient codex phantom\n}\nreverse_proxy UPSTREAM")
	if code := d.as(d.phantoms().AccessToken); code != 200 || u.credentials() != "credential-a" {
		t.Errorf("status %d", code)
	}
}

func TestPhantom_staysTheSame(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "", phantomClient)
	storage := t.TempDir()
	d.load("", phantomClient, u, storage)
	first := d.phantoms()
	same := func(after string) {
		t.Helper()
		if now := d.phantoms(); now != first {
			t.Errorf("after %s it is\n%v and was\n%v", after, now, first)
		}
		if code := d.as(first.AccessToken); code != 200 {
			t.Errorf("after %s it gets %d", after, code)
		}
	}
	same("a look")
	u.on("credential-a", status(429))
	same("a failover")
	d.operate(http.MethodPost, "/credential_pool/pools/"+d.pool+"/members/a/recover", 200, nil)
	u.on("credential-a", nil)
	d.operate(http.MethodPost, "/credential_pool/pools/"+d.pool+"/rotate", 200, nil)
	same("a rotate of the pool")
	d.load("park_for 1m", phantomClient, u, storage)
	same("a reload")
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	d.load("", phantomClient, u, storage)
	same("a restart")
}

func TestCommands_phantomIsALoginForCodex(t *testing.T) {
	s := openSite(t, newUpstream(t), "INFO")
	out, err := s.command("", "phantom", s.pool, "--codex")
	if err != nil {
		t.Fatal(err)
	}
	var v phantomView
	if _, answer := s.operate(http.MethodGet, "/credential_pool/phantom/"+s.pool, ""); json.Unmarshal([]byte(answer), &v) != nil {
		t.Fatal(answer)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if at, err := time.Parse(time.RFC3339, fmt.Sprint(got["last_refresh"])); err != nil || time.Since(at) > time.Minute {
		t.Errorf("last_refresh %v, %v", got["last_refresh"], err)
	}
	delete(got, "last_refresh")
	assertJSON(t, got, fmt.Sprintf(`{"OPENAI_API_KEY":null,"auth_mode":"chatgpt","tokens":{"access_token":%q,"account_id":%q,"id_token":%q,"refresh_token":%q}}`,
		v.AccessToken, "credential-pool:"+s.pool, v.IDToken, v.RefreshToken))

	if _, err := s.command("", "phantom", "--rotate"); err != nil {
		t.Error(err)
	}
	log, err := os.ReadFile(s.log)
	if err != nil || !strings.Contains(string(log), `"action":"phantoms_rotated"`) || strings.Contains(string(log), v.AccessToken) {
		t.Errorf("the log tells of no rotate, or shows a token: %v", err)
	}
}

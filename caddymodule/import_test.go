package caddymodule

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// jwt is an access token that says when it ends.
func jwt(payload string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"none"}`)) + "." + encode([]byte(payload)) + "." + encode([]byte(canaryA))
}

func TestImport(t *testing.T) {
	u := newUpstream(t)
	s := openSite(t, u, "INFO")
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("CODEX_HOME", "")
	t.Setenv("CLAUDE_CONFIG_DIR", filepath.Join(home, "claude"))
	write := func(path, content string) {
		t.Helper()
		path = filepath.Join(home, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	access := jwt(`{"exp":4000000000}`)
	write(".codex/auth.json", fmt.Sprintf(`{"auth_mode":"chatgpt","OPENAI_API_KEY":null,"tokens":{"id_token":"x.y.z","access_token":%q,"refresh_token":%q,"account_id":%q},"last_refresh":"2026-01-02T03:04:05Z"}`, access, canaryB, canaryField))
	write("claude/.credentials.json", fmt.Sprintf(`{"claudeAiOauth":{"accessToken":%q,"refreshToken":%q,"expiresAt":4000000001500,"scopes":["user:inference"]}}`, canaryA, canaryB))
	write("key.json", `{"OPENAI_API_KEY":"`+canaryA+`","tokens":null}`)
	for _, tc := range []struct{ stdin, args, want string }{
		{"", "import POOL a --from codex", "POOL/a is in the vault"},
		{"", "list", "account_id"},
		{"", "import POOL b --from claude-code", "POOL/b is in the vault"},
		{"", "import POOL b --from claude-code nowhere.json", "error: no such file"},
		{"", "import POOL b --from codex " + home + "/key.json", "error: holds no login"},
		{canaryA, "import POOL b --from codex -", "error: holds no login"},
		{"", "import POOL b", "error: --from must be"},
		{`{"access_token":"` + canaryA + `","refresh_token":"` + canaryB + `","token_url":"https://auth.example.com/token","client_id":"app"}`, "add POOL b --kind oauth --field account_id=" + canaryField, "POOL/b is in the vault"},
		{`{"access_token":"` + canaryA + `","refresh_token":"` + canaryB + `"}`, "add POOL b --kind oauth", "error: refresh_token needs token_url"},
		{`{"acces_token":"` + canaryA + `"}`, "add POOL b --kind oauth", "error: no keys but access_token"},
		{canaryA, "add POOL b --kind oauth", "error: a login is a JSON object"},
		{canaryA, "add POOL b --kind magic", "error: --kind must be"},
	} {
		out, err := s.command(tc.stdin, strings.Fields(strings.ReplaceAll(tc.args, "POOL", s.pool))...)
		want := strings.ReplaceAll(tc.want, "POOL", s.pool)
		if failure, ok := strings.CutPrefix(want, "error: "); ok {
			if err == nil || !strings.Contains(err.Error(), failure) {
				t.Errorf("%s: error %v, want %s", tc.args, err, failure)
			}
		} else if err != nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v\n%s\nwant %s", tc.args, err, out, want)
		}
	}
	_, answer := s.operate("GET", "/credential_pool/credentials/"+s.pool+"/a", "")
	if !strings.Contains(answer, `"kind":"oauth"`) || !strings.Contains(answer, `"expires_at":"2096-10-02T07:06:40Z"`) {
		t.Errorf("the login is %s", answer)
	}
	for _, form := range append(canaries(), access) {
		if strings.Contains(s.seen.String(), form) {
			t.Error("a command shows a secret")
		}
	}
}

func TestPutLogin_isCheckedAndServes(t *testing.T) {
	u := newUpstream(t)
	s := openSite(t, u, "INFO")
	path := "/credential_pool/credentials/" + s.pool + "/a"
	for body, want := range map[string]string{
		`{"kind":"oauth"}`: "access_token is empty",
		`{"kind":"oauth","access_token":"x","secret":"` + canaryA + `"}`:                                                                "and no secret",
		`{"kind":"static","secret":"x","refresh_token":"` + canaryA + `"}`:                                                              "are for kind oauth",
		`{"kind":"oauth","access_token":"x","expires_at":"` + canaryA + `"}`:                                                            "expires_at",
		`{"kind":"oauth","access_token":"x","refresh_token":"y","client_id":"c","token_url":"http://example.com/?` + canaryField + `"}`: "not https",
		`{"kind":"oauth","access_token":"x","scopes":"` + canaryA + `"}`:                                                                "JSON object",
	} {
		if code, answer := s.operate("PUT", path, body); code != 400 || !strings.Contains(answer, want) {
			t.Errorf("%s\ngives %d %s", body, code, answer)
		}
	}
	code, answer := s.operate("PUT", path, fmt.Sprintf(`{"kind":"oauth","access_token":%q,"refresh_token":%q,"client_secret":%q,"expires_at":"2090-01-02T03:04:05+01:00","token_url":"https://auth.example.com/token","client_id":"app","auth_style":"header","scopes":["a"],"fields":{"account_id":"x"}}`, canaryA, canaryB, canaryField))
	if code != 200 || !strings.Contains(answer, `"expires_at":"2090-01-02T02:04:05Z"`) {
		t.Fatalf("%d %s", code, answer)
	}
	u.on(canaryA, status(200, "X-Refresh", canaryB, "X-Client", canaryField))
	if code, answer := s.get("/"); code != 200 {
		t.Errorf("%d %s", code, answer)
	}
	if got := u.credentials(); got != canaryA {
		t.Error("the access token did not go upstream")
	}
	if _, answer := s.operate("GET", "/credential_pool/pools/"+s.pool, ""); !strings.Contains(answer, `"kind":"oauth","expires_at":"2090`) {
		t.Errorf("the pool is %s", answer)
	}
	for _, form := range canaries() {
		if strings.Contains(s.seen.String(), form) {
			t.Error("an answer shows a secret")
		}
	}
}

func TestTokenExpiry(t *testing.T) {
	for token, want := range map[string]time.Time{
		jwt(`{"exp":4000000000}`):         time.Unix(4000000000, 0),
		jwt(`{"exp":4000000000.7}`):       time.Unix(4000000000, 0),
		jwt(`{"exp":-1}`):                 {},
		jwt(`{"exp":1e300}`):              {},
		jwt(`{"exp":"soon"}`):             {},
		jwt(`{}`):                         {},
		"a.b":                             {},
		"a.!.c":                           {},
		"opaque":                          {},
		jwt(`{"exp":4000000000,"exp":1}`): time.Unix(1, 0),
	} {
		if got := tokenExpiry(token); !got.Equal(want) {
			t.Errorf("%s: %v", token, got)
		}
	}
}

package caddymodule

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// serveLogins makes the server one with a network, which answers at once.
func (s *loginServer) serveLogins(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.metadata = map[string]any{"/.well-known/openid-configuration": map[string]any{
		"issuer": server.URL, "token_endpoint": server.URL + "/token", "device_authorization_endpoint": server.URL + "/device",
	}}
	s.device["interval"], s.device["verification_uri"] = 1, server.URL+"/activate"
	return server.URL
}

func TestLoginCommand(t *testing.T) {
	u := newUpstream(t)
	site := openSite(t, u, "DEBUG")
	s := newLoginServer()
	issuer := s.serveLogins(t)
	s.tokens["access_token"], s.tokens["refresh_token"] = canaryA, canaryB
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(canaryField+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := site.command("", "login", site.pool, "a", "--issuer", issuer, "--client-id", "app", "--client-secret-file", secret,
		"--field", "account_id=acc-7", "--scope", "offline_access")
	if err != nil || !strings.Contains(out, "WDJB-MJHT") || !strings.HasSuffix(out, "Waiting for the login…\n"+site.pool+"/a is in the vault\n") {
		t.Fatalf("error %v, and it says\n%s", err, out)
	}
	if _, list := site.operate(http.MethodGet, "/credential_pool/credentials", ""); !strings.Contains(list, `"kind":"oauth"`) || !strings.Contains(list, `"fields":["account_id"]`) {
		t.Errorf("the vault has %s", list)
	}

	// As JSON, from standard input, and for a pool that is yet to come.
	out, err = site.command(canaryField, "login", "later", "one", "--issuer", issuer, "--client-id", "app", "--client-secret-file", "-", "--json")
	if err != nil || !strings.Contains(out, "No pool of the running config has the member later/one yet") || !strings.Contains(out, `"name":"later/one"`) {
		t.Errorf("error %v, and it says\n%s", err, out)
	}
	for _, form := range canaries() {
		if strings.Contains(site.seen.String(), form) {
			t.Error("the command shows a secret")
		}
	}
}

func TestLoginCommand_saysWhatIsWrongBeforeAnybodyIsAsked(t *testing.T) {
	t.Setenv("LOGIN_TEST_SPARE", canaryB)
	site := openSite(t, newUpstream(t), "INFO")
	s := newLoginServer()
	issuer := s.serveLogins(t)
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "lines"), []byte("secret\n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ args, want string }{
		{"login POOL a", "--client-id is missing"},
		{"login POOL a --client-id app --issuer ISSUER --client-secret-file DIR/lines", "client_secret has a control character"},
		{"login POOL a --client-id app", "say where to log in: --issuer, or"},
		{"login POOL --client-id app", "it is: caddy credential-pool login <pool> <member>"},
		{"login POOL a --client-id app --issuer ISSUER --flow browser", "--flow must be device or code"},
		{"login POOL a --client-id app --issuer ISSUER --flow code", "give --auth-url, or use --flow device"},
		{"login POOL a --client-id app --issuer ISSUER --auth-style post", "--auth-style must be params or header"},
		{"login POOL a --client-id app --issuer ISSUER --timeout 0s", "--timeout must be more than zero"},
		{"login POOL a --client-id app --issuer ISSUER --timeout soon", "invalid argument"},
		{"login POOL a --client-id app --token-url http://id.example.com/token", "--token-url is not https"},
		{"login POOL a --client-id app --token-url ISSUER/token", "there is no endpoint to log in at"},
		{"login POOL a --client-id app --issuer ISSUER --param state=x", "--param: state is the command's own"},
		{"login POOL a --client-id app --issuer ISSUER --param x", "--param wants name=value"},
		{"login POOL a --client-id app --issuer ISSUER --field x", "--field wants name=value"},
		{"login POOL a --client-id app --issuer ISSUER --field X=y", "a field's name is not"},
		{"login POOL a --client-id app --issuer ISSUER --client-secret-file DIR/none", "--client-secret-file: open"},
		{"login POOL a --client-id app --issuer ISSUER --client-secret-file DIR/empty", "--client-secret-file: the file is empty"},
		{"login POOL A --client-id app --issuer ISSUER", "this is no member name"},
		{"login POOL a --client-id app --issuer ISSUER/nothing", "no metadata of an authorization server"},
		{"login POOL a --client-id app --issuer ISSUER --client-secret secret", "unknown flag: --client-secret"},
	} {
		args := strings.NewReplacer("POOL", site.pool, "ISSUER", issuer, "DIR", dir).Replace(tc.args)
		out, err := site.command("", strings.Fields(args)...)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want %s\n%s", tc.args, err, tc.want, out)
		}
	}
	if strings.Contains(s.seen(), "POST") {
		t.Errorf("somebody was asked: %s", s.seen())
	}
	site.admin = freeAddress(t)
	_, err := site.command("", "login", site.pool, "a", "--client-id", "app", "--issuer", issuer)
	if err == nil || !strings.Contains(err.Error(), "is Caddy running") || strings.Contains(s.seen(), "POST") {
		t.Errorf("nobody listens: error %v, asked %s", err, s.seen())
	}
}

// A vault that fails just when the login is complete must not cost the login.
func TestLoginCommand_keepsTheLoginWhileTheVaultFails(t *testing.T) {
	s := newLoginServer()
	issuer := s.serveLogins(t)
	var puts int
	var body credentialBody
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPut {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		if puts++; puts == 1 {
			answerJSON(w, http.StatusServiceUnavailable, map[string]string{"error": "the disk is full"})
			return
		}
		_ = json.NewDecoder(r.Body).Decode(&body)
		answerJSON(w, http.StatusOK, map[string]string{"name": "api/work"})
	}))
	t.Cleanup(admin.Close)
	site := &site{t: t, admin: admin.Listener.Addr().String()}
	out, err := site.command("", "login", "api", "work", "--client-id", "app", "--issuer", issuer)
	if err != nil || puts != 2 || body.AccessToken != loginAccess || !strings.Contains(out, "the vault does not take it: the disk is full.") || !strings.Contains(out, "api/work is in the vault") {
		t.Errorf("error %v after %d puts of %q, and it says\n%s", err, puts, body.AccessToken, out)
	}
	if strings.Contains(out, loginAccess) || strings.Contains(out, loginRefresh) {
		t.Error("it shows a token")
	}
}

func TestLoginCommand_saysThatALoginIsLost(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	site := standIn(t, listener, http.StatusServiceUnavailable, `{"error":"the disk is full"}`)
	var told strings.Builder
	cmd := new(cobra.Command)
	cmd.SetErr(&told)
	op := &operator{address: site.admin, cmd: cmd}
	body := credentialBody{AccessToken: loginAccess}
	err = op.keepLogin(t.Context(), []string{"api", "work"}, body, time.Millisecond)
	if err == nil || err.Error() != "the login is lost, since the vault did not take it within 1ms (--timeout): the disk is full; mend that and log in again" {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = op.keepLogin(ctx, []string{"api", "work"}, body, time.Minute)
	if err == nil || !strings.Contains(err.Error(), "the login is given up; if caddy credential-pool list does not show it") {
		t.Errorf("error %v", err)
	}
}

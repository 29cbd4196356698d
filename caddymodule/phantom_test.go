package caddymodule

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"

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

// another returns the vault as another process on the same storage has it.
func another(t *testing.T, storage string) *vault.Vault {
	t.Helper()
	v, err := vault.New(&certmagic.FileStorage{Path: storage}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// eventually waits until the client gets that status.
func (d *door) eventually(token string, want int) {
	d.t.Helper()
	for deadline := time.Now().Add(3 * defaultSyncInterval); d.as(token) != want; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			d.t.Fatalf("the token does not get %d", want)
		}
	}
}

// What another process has just made is known at the first request.
func TestPhantom_isThatOfAllProcessesOnOneStorage(t *testing.T) {
	e := newEndpoint(t)
	d := open(t, e.upstream, "", tokenForms["with an upstream"])
	storage := t.TempDir()
	for range 3 {
		d.load("", tokenForms["with an upstream"], e.upstream, storage)
		key, err := another(t, storage).RotatePhantomKey(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := newPhantomTokens(key.Key, d.pool)
		if err != nil {
			t.Fatal(err)
		}
		if code := d.as(theirs.access); code != 200 {
			t.Errorf("a new one gets %d", code)
		}
		if key, err = another(t, storage).RotatePhantomKey(t.Context()); err != nil {
			t.Fatal(err)
		}
		old := theirs.access
		theirs, _ = newPhantomTokens(key.Key, d.pool)
		if res, answer := d.grant(formBody, refreshForm(theirs.refresh)); res.StatusCode != 200 {
			t.Errorf("a new one gets %d %s at the token endpoint", res.StatusCode, answer)
		}
		if code := d.as(old); code != 401 {
			t.Errorf("the old one gets %d", code)
		}
		if v := d.phantoms(); v.AccessToken != theirs.access || v.RefreshToken != theirs.refresh || v.IDToken != theirs.id {
			t.Error("the two processes have different ones")
		}
	}
	// A revoked one is found out even if nobody asks.
	old := d.phantoms().AccessToken
	if _, err := another(t, storage).RotatePhantomKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.eventually(old, 401)
}

// However many clients show however many tokens that might be of a new key, the
// storage is asked once a second, and nobody is answered from before.
func TestPhantom_clientsCanNotFloodTheStorage(t *testing.T) {
	t.Setenv("TEST_IDENTITY", testIdentity(t))
	synctest.Test(t, func(t *testing.T) {
		storage := new(hungStorage)
		a := &App{logger: zap.NewNop(), storage: storage, Vault: &VaultConfig{Identities: []string{"{env.TEST_IDENTITY}"}}}
		if err := a.openVault(); err != nil {
			t.Fatal(err)
		}
		sp := new(servedPool)
		a.pools = map[string]*servedPool{"p": sp}
		var running sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		running.Go(func() { a.recheckPhantoms(ctx) })
		ask := func(token string) (bool, error) {
			p, err := a.phantomsWith(t.Context(), sp, func(p *phantomTokens) bool { return p.refreshes(token) })
			return p != nil, err
		}

		var clients sync.WaitGroup
		for i := range 1000 {
			clients.Go(func() {
				time.Sleep(time.Duration(i) * 5 * time.Millisecond)
				if known, err := ask("unknown"); known || !errors.Is(err, errNoPhantoms) {
					t.Errorf("an unknown one: %t, %v", known, err)
				}
			})
		}
		clients.Wait()
		if n := storage.called(); n > 7 {
			t.Errorf("the storage was asked %d times in 5 s", n)
		}

		p, err := newPhantomTokens(keyOfTheTests, "p")
		if err != nil {
			t.Fatal(err)
		}
		goOn := storage.hang()
		began := time.Now()
		if known, err := ask(p.refresh); known || !errors.Is(err, errStorageSilent) || time.Since(began) > recheckWait {
			t.Errorf("while the storage hangs: %t, %v after %s", known, err, time.Since(began))
		}
		time.Sleep(time.Minute)
		calls := storage.called()
		for range 20 {
			_, _ = ask(p.refresh)
		}
		if more := storage.called() - calls; more > 0 {
			t.Errorf("a storage that hangs was asked %d times more", more)
		}
		goOn()
		key, err := a.vault.RotatePhantomKey(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if p, err = newPhantomTokens(key.Key, "p"); err != nil {
			t.Fatal(err)
		}
		if known, err := ask(p.refresh); !known || err != nil {
			t.Errorf("the one of the new key: %t, %v", known, err)
		}
		cancel()
		running.Wait()
	})
}

// A storage from which the key can't be read leaves the other clients alone, and
// costs those that hold a phantom nothing but time.
func TestPhantom_coldStartWithoutTheKey(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"a storage that fails": func(path string) error { return os.Mkdir(path, 0o700) },
		"a record that is broken": func(path string) error {
			return os.WriteFile(path, []byte("broken"), 0o600)
		},
		"a storage that is not mounted": func(string) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			e := newEndpoint(t)
			d := open(t, e.upstream, "", tokenForms["with an upstream"])
			storage := t.TempDir()
			d.load("", tokenForms["with an upstream"], e.upstream, storage)
			v := d.phantoms()
			if err := caddy.Stop(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(storage, "credential_pool", "phantom.age")
			if err := errors.Join(os.Rename(path, path+".away"), spoil(path)); err != nil {
				t.Fatal(err)
			}
			d.load("", tokenForms["with an upstream"], e.upstream, storage)
			if res, body := d.do(http.MethodPost, "/v1/x", "hello", "Authorization", "Bearer "+v.AccessToken); res.StatusCode != 503 ||
				res.Header.Get("Retry-After") == "" || !strings.Contains(body, "temporarily_unavailable") {
				t.Errorf("a phantom gets %d %s", res.StatusCode, body)
			}
			res, body := d.grant(formBody, refreshForm(v.RefreshToken))
			if res.StatusCode != 503 || res.Header.Get("Retry-After") == "" || !strings.HasPrefix(body, `{"error":"temporarily_unavailable",`) {
				t.Errorf("its refresh gets %d %s", res.StatusCode, body)
			}
			if code := d.as(phantom); code != 200 {
				t.Errorf("another client gets %d", code)
			}
			if code := d.as("no-token-of-anybody"); code != 401 {
				t.Errorf("nobody gets %d", code)
			}
			if res, _ := d.grant(formBody, "grant_type=client_credentials"); res.StatusCode != 418 {
				t.Errorf("another grant gets %d", res.StatusCode)
			}
			if seen := e.hits(); len(seen) != 1 {
				t.Errorf("the real endpoint got %v", seen)
			}
			if err := errors.Join(os.RemoveAll(path), os.Rename(path+".away", path)); err != nil {
				t.Fatal(err)
			}
			if code := d.as(v.AccessToken); code != 200 {
				t.Errorf("once the key can be read, the phantom gets %d", code)
			}
			if v != d.phantoms() {
				t.Error("the phantoms have changed")
			}
		})
	}
}

func TestPhantom_rotateRevokesAtOnce(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "", phantomClient)
	old := d.phantoms()
	d.operate(http.MethodPost, "/credential_pool/phantom/rotate", 200, nil)
	if code := d.as(old.AccessToken); code != 401 {
		t.Errorf("the old one gets %d", code)
	}
	now := d.phantoms()
	if code := d.as(now.AccessToken); code != 200 || now.AccessToken == old.AccessToken || now.RefreshToken == old.RefreshToken {
		t.Errorf("the new one gets %d", code)
	}
	if code := d.as(phantom); code != 200 {
		t.Errorf("the token of another client gets %d", code)
	}
}

func TestPhantom_requestsDuringRotatesGetEitherAnswer(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "", phantomClient)
	v := d.phantoms()
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for ctx.Err() == nil {
				if code := d.as(v.AccessToken); code != 200 && code != 401 {
					t.Errorf("a phantom gets %d", code)
				}
			}
		})
	}
	for range 5 {
		d.operate(http.MethodPost, "/credential_pool/phantom/rotate", 200, nil)
	}
	cancel()
	clients.Wait()
	if code := d.as(d.phantoms().AccessToken); code != 200 {
		t.Errorf("the last one gets %d", code)
	}
}

func TestPhantom_needsAnIdentity(t *testing.T) {
	v, err := vault.New(struct{ certmagic.Storage }{}, nil, nil) // no files
	if err != nil {
		t.Fatal(err)
	}
	app := &App{vault: v}
	if err := app.canHavePhantoms(); !errors.Is(err, vault.ErrNoIdentity) || !strings.Contains(err.Error(), "vault { identity") {
		t.Errorf("error %v", err)
	}
	if _, _, err := rotatePhantoms(app, httptest.NewRequestWithContext(t.Context(), "POST", "/", http.NoBody), nil); !errors.Is(err, vault.ErrNoIdentity) {
		t.Errorf("error %v", err)
	}
}

func TestPhantom_keyThatCanNotBeReadIsNotReplaced(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "", phantomClient)
	storage := t.TempDir()
	d.load("", phantomClient, u, storage)
	v := d.phantoms()
	file := &certmagic.FileStorage{Path: storage}
	const key = "credential_pool/phantom.age"
	whole, err := file.Load(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := file.Store(t.Context(), key, whole[1:]); err != nil {
		t.Fatal(err)
	}
	d.eventually(v.AccessToken, 503)
	d.operate(http.MethodGet, "/credential_pool/phantom/"+d.pool, 409, nil)
	if err := file.Store(t.Context(), key, whole); err != nil {
		t.Fatal(err)
	}
	d.eventually(v.AccessToken, 200)
	if err := file.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	d.eventually(v.AccessToken, 503)
	if d.phantoms().AccessToken == v.AccessToken {
		t.Error("a key that was deleted is still in use")
	}
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

// runningKey is the key that the running app uses.
func runningKey() (vault.Secret, error) {
	app, err := runningApp()
	if err != nil {
		return vault.Secret{}, err
	}
	app.phantoms.mu.Lock()
	defer app.phantoms.mu.Unlock()
	return app.phantoms.key, nil
}

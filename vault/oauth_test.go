package vault

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
)

func login() Credential {
	return Credential{
		Name: "codex/work", Kind: KindOAuth, Secret: NewSecret("access-" + canary),
		Fields: map[string]Secret{"account_id": NewSecret("acct-" + canary)},
		OAuth: &OAuth{
			RefreshToken: NewSecret("refresh-" + canary), ExpiresAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
			TokenURL: "https://auth.example.com/token", ClientID: "app", ClientSecret: NewSecret("client-" + canary),
			AuthStyle: AuthHeader, Scopes: []string{"openid", "offline_access"},
		},
	}
}

func openMemory(t *testing.T) (*Vault, *memory) {
	t.Helper()
	m := newMemory()
	v, err := New(m, []string{newIdentity(t).String()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return v, m
}

func putLogin(t *testing.T, v *Vault) Credential {
	t.Helper()
	if _, err := v.Put(t.Context(), login()); err != nil {
		t.Fatal(err)
	}
	c, err := v.Get(t.Context(), "codex/work")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func refreshed(c Credential, access string) Credential {
	o := *c.OAuth
	o.RefreshedAt, o.RefreshToken = time.Now().UTC(), NewSecret("next-refresh")
	c.Secret, c.OAuth = NewSecret(access), &o
	c.Generation++
	return c
}

func TestOAuth_comesBackAsItWas(t *testing.T) {
	v, _ := openMemory(t)
	c, want := putLogin(t, v), login()
	got, err := json.Marshal(c.OAuth.record())
	if err != nil {
		t.Fatal(err)
	}
	wanted, _ := json.Marshal(want.OAuth.record())
	if string(got) != string(wanted) || c.Secret.Reveal() != want.Secret.Reveal() || c.Generation != 1 {
		t.Errorf("got %s\nwant %s", got, wanted)
	}
}

func TestOAuth_refusesWhatIsNoLogin(t *testing.T) {
	v, _ := openMemory(t)
	for says, spoil := range map[string]func(*Credential){
		"access_token is empty":                func(c *Credential) { c.Secret = Secret{} },
		"refresh_token needs":                  func(c *Credential) { c.OAuth.TokenURL = "" },
		"token_url is not https":               func(c *Credential) { c.OAuth.TokenURL = "http://auth.example.com/" + canary },
		"token_url is not an":                  func(c *Credential) { c.OAuth.TokenURL = "file:///" + canary },
		"token_url holds":                      func(c *Credential) { c.OAuth.TokenURL = "https://u:" + canary + "@example.com/" },
		"auth_style is not known":              func(c *Credential) { c.OAuth.AuthStyle = canary },
		"refresh_token has a control":          func(c *Credential) { c.OAuth.RefreshToken = NewSecret(canary + "\n") },
		"client_secret begins or ends":         func(c *Credential) { c.OAuth.ClientSecret = NewSecret(canary + " ") },
		"a scope is empty":                     func(c *Credential) { c.OAuth.Scopes = []string{""} },
		"scopes are too many":                  func(c *Credential) { c.OAuth.Scopes = make([]string, 65) },
		"expires_at is out of range":           func(c *Credential) { c.OAuth.ExpiresAt = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"what belongs to a login is for kind":  func(c *Credential) { c.Kind = KindStatic },
		"what belongs to a login is for kind ": func(c *Credential) { c.OAuth = nil },
	} {
		c := login()
		spoil(&c)
		_, err := v.Put(t.Context(), c)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v, want %q", err, says)
		}
		if err != nil && strings.Contains(err.Error(), canary) {
			t.Errorf("the error shows a value: %v", err)
		}
	}
	for _, url := range []string{"http://127.0.0.1:1/t", "http://[::1]/t", "http://localhost/t?a=b"} {
		c := login()
		c.OAuth.TokenURL = url
		if _, err := v.Put(t.Context(), c); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	// A token that nobody can refresh is a login, too.
	if _, err := v.Put(t.Context(), Credential{Name: "codex/work", Kind: KindOAuth, Secret: NewSecret("x"), OAuth: &OAuth{}}); err != nil {
		t.Error(err)
	}
}

func TestOAuth_isShownWithoutAToken(t *testing.T) {
	v, _ := openMemory(t)
	c := putLogin(t, v)
	if _, err := v.Lose(t.Context(), c, "invalid_grant"); err != nil {
		t.Fatal(err)
	}
	infos, err := v.List(t.Context())
	if err != nil || len(infos) != 1 {
		t.Fatal(infos, err)
	}
	b, _ := json.Marshal(infos)
	text := string(b) + fmt.Sprintf("%v %+v %#v", c, c.OAuth, c.OAuth)
	if strings.Contains(text, canary) || !strings.Contains(text, `"expires_at":"2026-01-02T03:04:05Z"`) || !strings.Contains(text, `"needs_login":true,"reason":"invalid_grant"`) {
		t.Errorf("shown is %s", text)
	}
}

func TestRefreshed_keepsTheIDAndCountsUp(t *testing.T) {
	v, _ := openMemory(t)
	c := putLogin(t, v)
	noted, err := v.Begin(t.Context(), c, time.Now(), "me")
	if err != nil || noted.OAuth.Intent.Generation != 1 || noted.OAuth.Intent.By != "me" {
		t.Fatal(noted.OAuth, err)
	}
	next, err := v.Refreshed(t.Context(), refreshed(noted, "access-2"))
	if err != nil || next.ID != c.ID || next.Generation != 2 || !next.OAuth.Intent.IsZero() || !next.Updated.Equal(c.Updated) {
		t.Fatal(next, err)
	}
	if again, err := v.Refreshed(t.Context(), refreshed(noted, "access-2")); err != nil || again.Generation != 2 {
		t.Errorf("a store that is made again: generation %d, %v", again.Generation, err)
	}
}

func TestRefreshed_neverOverwritesANewerGeneration(t *testing.T) {
	v, _ := openMemory(t)
	old := putLogin(t, v)
	if _, err := v.Refreshed(t.Context(), refreshed(old, "access-2")); err != nil {
		t.Fatal(err)
	}
	stale := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, ErrStale) {
			t.Errorf("%s: error %v", what, err)
		}
	}
	_, err := v.Refreshed(t.Context(), refreshed(old, "access-late"))
	stale("a late refresh", err)
	_, err = v.Lose(t.Context(), old, "invalid_grant")
	stale("a late failure", err)
	_, err = v.Begin(t.Context(), old, time.Now(), "me")
	stale("a late intent", err)
	replaced := putLogin(t, v) // by the operator
	_, err = v.Refreshed(t.Context(), refreshed(old, "access-late"))
	stale("a refresh of what was replaced", err)
	if c, _ := v.Get(t.Context(), "codex/work"); c.ID != replaced.ID || c.Secret.Reveal() != replaced.Secret.Reveal() {
		t.Error("the record was overwritten")
	}
}

func TestRecord_intentsAndLossesAreChecked(t *testing.T) {
	id := newIdentity(t)
	for name, login := range map[string]string{
		"no login":      ``,
		"a bad reason":  `,"oauth":{"lost":"a\nb"}`,
		"a bad intent":  `,"oauth":{"intent":{"time":"0001-02-01T00:00:00Z","generation":1,"by":"x"}}`,
		"a bad url":     `,"oauth":{"token_url":"http://example.com/"}`,
		"a future form": `,"oauth":{"expires_at":"tomorrow"}`,
	} {
		plain := `{"version":1,"name":"codex/work","kind":"oauth","id":"I","generation":1,"updated":"2026-01-02T03:04:05Z","secret":"x"` + login + `}`
		if _, err := open(sealPlain(t, []byte(plain), id.Recipient()), "codex/work", []age.Identity{id}); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

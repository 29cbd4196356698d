package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"

	"github.com/credentialpool/caddy-credential-pool/vault"
)

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
		a, storage := appOnHungStorage(t)
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

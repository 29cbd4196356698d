package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"filippo.io/age"
	"go.uber.org/zap"

	"github.com/caddyserver/certmagic"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/vault"
)

// hungStorage takes no notice of the context. While it hangs no call of it
// returns; then the calls go on where they were.
type hungStorage struct {
	certmagic.Storage
	mu      sync.Mutex
	hanging chan struct{} // closed when it goes on; nil if it does not hang
	calls   int
	files   map[string]string
}

func (s *hungStorage) hang() (goOn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	hanging := make(chan struct{})
	s.hanging = hanging
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.hanging = nil
		close(hanging)
	}
}

func (s *hungStorage) wait() {
	s.mu.Lock()
	s.calls++
	hanging := s.hanging
	s.mu.Unlock()
	if hanging != nil {
		<-hanging
	}
}

func (s *hungStorage) Store(_ context.Context, key string, value []byte) error {
	s.wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files == nil {
		s.files = make(map[string]string)
	}
	s.files[key] = string(value)
	return nil
}

func (s *hungStorage) Load(_ context.Context, key string) ([]byte, error) {
	s.wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if content, ok := s.files[key]; ok {
		return []byte(content), nil
	}
	return nil, fs.ErrNotExist
}

func (s *hungStorage) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	content, err := s.Load(ctx, key)
	return certmagic.KeyInfo{Key: key, Size: int64(len(content))}, err
}

func (s *hungStorage) Lock(context.Context, string) error   { return nil }
func (s *hungStorage) Unlock(context.Context, string) error { return nil }

func (s *hungStorage) called() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

// active returns the pool's active member as it is saved.
func (s *hungStorage) active(t *testing.T, name string) string {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var saved savedState
	if err := json.Unmarshal([]byte(s.files["credential_pool/state/"+name+".json"]), &saved); err != nil {
		t.Fatal(err)
	}
	return saved.Active
}

func TestState_isSavedInOrderByAStorageThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage, ctx, log := new(hungStorage), t.Context(), zap.NewNop()
		s := &sharedState{name: "api", state: pool.NewState("api", nil), key: make([]byte, 32), loaded: true}
		p := pool.New(pool.Config{Members: []string{"a", "b", "c"}}, s.state)
		for _, name := range []string{"a", "b", "c"} {
			p.SetCredential(name, "id-of-"+name)
		}
		rotate := func(to string) {
			if _, err := p.Rotate(time.Now(), to, 0); err != nil {
				t.Fatal(err)
			}
		}

		rotate("b")
		goOn := storage.hang()
		for range 20 {
			began := time.Now()
			if err := s.save(ctx, storage, log, nil, false); !errors.Is(err, errStorageSilent) || time.Since(began) != saveTime {
				t.Errorf("got %v after %s", err, time.Since(began))
			}
			rotate("c")
		}
		if n := storage.called(); n != 1 {
			t.Errorf("a storage that hangs was called %d times", n)
		}
		goOn()
		synctest.Wait()
		for range 2 { // the first takes the result of the write that hung
			if err := s.save(ctx, storage, log, nil, false); err != nil {
				t.Error(err)
			}
		}
		if got := storage.active(t, "api"); got != "c" {
			t.Errorf("saved is %s", got)
		}
	})
}

func TestState_thatCouldNotBeReadIsReadBeforeItIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		until := time.Now().Add(time.Hour).UTC()
		before, err := json.Marshal(savedState{pool.Document{Version: 1, Active: "b", Records: []pool.DocumentRecord{
			{Member: "a", Identity: "id-of-a", CoolingUntil: until, Meaning: pool.RateLimited},
		}}, make([]byte, 32)})
		if err != nil {
			t.Fatal(err)
		}
		storage := &hungStorage{files: map[string]string{"credential_pool/state/read-late.json": string(before)}}
		goOn := storage.hang()
		s, _, err := acquireState("read-late", storage, 0, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.release() }()
		p := pool.New(pool.Config{Members: []string{"a", "b"}}, s.state)
		p.SetCredential("a", "id-of-a")
		p.SetCredential("b", "id-of-b")
		if _, err := p.Park(time.Now(), "b", time.Minute, ""); err != nil { // a change
			t.Fatal(err)
		}
		goOn()
		synctest.Wait()
		if err := s.save(t.Context(), storage, zap.NewNop(), nil, false); err != nil {
			t.Fatal(err)
		}
		if m := p.Status(time.Now()).Members[0]; m.State != pool.StateCooling || !m.Until.Equal(until) {
			t.Errorf("what was saved before is lost: %+v", m)
		}
	})
}

// appOnHungStorage returns an app whose vault is on such a storage. It needs
// TEST_IDENTITY.
func appOnHungStorage(t *testing.T) (*App, *hungStorage) {
	t.Helper()
	storage := new(hungStorage)
	a := &App{logger: zap.NewNop(), storage: storage, Vault: &VaultConfig{Identities: []string{"{env.TEST_IDENTITY}"}}}
	if err := a.openVault(); err != nil {
		t.Fatal(err)
	}
	return a, storage
}

func TestVault_aStorageThatHangsHoldsUpNobodyForLong(t *testing.T) {
	t.Setenv("TEST_IDENTITY", testIdentity(t))
	synctest.Test(t, func(t *testing.T) {
		a, storage := appOnHungStorage(t)
		secret := func(s string) vault.Credential {
			return vault.Credential{Name: "api/work", Kind: vault.KindStatic, Secret: vault.NewSecret(s)}
		}
		goOn := storage.hang()
		for range 3 {
			began := time.Now()
			_, err := a.putCredential(t.Context(), secret("the-older-secret"))
			if !errors.Is(err, errStorageSilent) || time.Since(began) != vaultTime {
				t.Errorf("put: %v after %s", err, time.Since(began))
			}
		}
		goOn()
		synctest.Wait()
		if n := storage.called(); n != 1 {
			t.Errorf("%d writes; those that the operator was told to have failed must not follow", n)
		}
		if _, err := a.putCredential(t.Context(), secret("the-newer-secret")); err != nil {
			t.Fatal(err)
		}
		if c, err := a.vault.Get(t.Context(), "api/work"); err != nil || c.Secret.Reveal() != "the-newer-secret" {
			t.Errorf("got %v", err)
		}
	})
}

func testIdentity(t *testing.T) string {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id.String()
}

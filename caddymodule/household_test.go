package caddymodule

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"
	"go.uber.org/zap"

	"github.com/caddyserver/certmagic"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/vault"
)

// sharedStorage is a storage in memory, with locks, for several instances.
type sharedStorage struct {
	certmagic.Storage
	mu    sync.Mutex
	files map[string]string
	times map[string]time.Time
	locks turns
	held  map[string]func()

	// fails is asked before each write.
	fails func(key string) error
	// gate is passed before each read and write, without the lock.
	gate func(operation, key string)
}

func newSharedStorage() *sharedStorage {
	return &sharedStorage{files: map[string]string{}, times: map[string]time.Time{}, held: map[string]func(){}}
}

func (s *sharedStorage) pass(operation, key string) {
	s.mu.Lock()
	gate := s.gate
	s.mu.Unlock()
	if gate != nil {
		gate(operation, key)
	}
}

// hangNext makes the next operation of that kind wait until it may go on, without
// regard to its context. It returns what waits until it has begun, and what lets
// it go on.
func (s *sharedStorage) hangNext(operation string) (begun <-chan struct{}, goOn func()) {
	started, end := make(chan struct{}), make(chan struct{})
	var first atomic.Bool
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gate = func(op, _ string) {
		if op == operation && first.CompareAndSwap(false, true) {
			close(started)
			<-end
		}
	}
	return started, func() { close(end) }
}

func (s *sharedStorage) Store(_ context.Context, key string, value []byte) error {
	s.pass("store", key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails != nil {
		if err := s.fails(key); err != nil {
			return err
		}
	}
	s.files[key] = string(value)
	s.times[key] = s.times[key].Add(1)
	return nil
}

func (s *sharedStorage) Load(_ context.Context, key string) ([]byte, error) {
	s.pass("load", key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if content, ok := s.files[key]; ok {
		return []byte(content), nil
	}
	return nil, fs.ErrNotExist
}

func (s *sharedStorage) Stat(_ context.Context, key string) (certmagic.KeyInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if content, ok := s.files[key]; ok {
		return certmagic.KeyInfo{Key: key, Size: int64(len(content)), Modified: s.times[key]}, nil
	}
	return certmagic.KeyInfo{}, fs.ErrNotExist
}

func (s *sharedStorage) Delete(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.files, key)
	return nil
}

func (s *sharedStorage) Lock(ctx context.Context, name string) error {
	release, err := s.locks.take(ctx, name)
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.held[name] = release
	}
	return err
}

func (s *sharedStorage) Unlock(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[name]()
	delete(s.held, name)
	return nil
}

func (s *sharedStorage) failing(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails = func(string) error { return err }
}

// instance is as much of a Caddy as refreshes logins. It ends with stop.
type instance struct {
	t      *testing.T
	app    *App
	sp     *servedPool
	mu     sync.Mutex
	events []pool.Event
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// household is several instances on one storage, with one token server.
type household struct {
	t        *testing.T
	storage  *sharedStorage
	server   *tokenServer
	identity string
	disk     *certmagic.FileStorage // in the place of storage, if it is set
	accounts []string
}

func (h *household) shared() certmagic.Storage {
	if h.disk != nil {
		return h.disk
	}
	return h.storage
}

func newHousehold(t *testing.T) *household {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	accounts := []string{"a", "b"}
	return &household{t: t, storage: newSharedStorage(), server: newTokenServer(accounts...), identity: id.String(), accounts: accounts}
}

// put puts the login that the server now knows for the account.
func (h *household) put(account string, expires time.Time) {
	h.t.Helper()
	n := h.server.newest(account)
	_, err := h.vault().Put(h.t.Context(), vault.Credential{
		Name: "codex/" + account, Kind: vault.KindOAuth, Secret: vault.NewSecret(accessToken(account, n)),
		OAuth: &vault.OAuth{RefreshToken: vault.NewSecret(refreshToken(account, n)), ExpiresAt: expires, TokenURL: "https://auth.example.com/token", ClientID: "app"},
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *household) vault() *vault.Vault {
	v, err := vault.New(h.shared(), []string{h.identity}, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	return v
}

func (h *household) stored(account string) vault.Credential {
	h.t.Helper()
	c, err := h.vault().Get(h.t.Context(), "codex/"+account)
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

// fillDiskAtTheGrant makes the storage take no writes once the server is asked.
func (h *household) fillDiskAtTheGrant() {
	h.server.before = func(http.ResponseWriter, *http.Request) bool {
		h.storage.failing(errors.New("the disk is full"))
		return false
	}
}

// refreshed stores new tokens of c, as another process would do it. They end with
// that word.
func (h *household) refreshed(c vault.Credential, word string) {
	h.t.Helper()
	login := *c.OAuth
	login.RefreshToken, login.ExpiresAt = vault.NewSecret("refresh-"+word), time.Now().Add(time.Hour)
	c.Secret, c.OAuth = vault.NewSecret("access-"+word), &login
	c.Generation++
	if _, err := h.vault().Refreshed(h.t.Context(), c); err != nil {
		h.t.Error(err)
	}
}

// start starts an instance, as another process would be one.
func (h *household) start() *instance {
	h.t.Helper()
	return h.startIn(newProcess())
}

// startIn starts an instance as a config of that process.
func (h *household) startIn(p *process) *instance {
	h.t.Helper()
	in := &instance{t: h.t}
	config := new(PoolConfig)
	for _, name := range h.accounts {
		config.Members = append(config.Members, Member{Name: name})
	}
	sp, err := config.served()
	if err != nil {
		h.t.Fatal(err)
	}
	in.sp = sp
	sp.shared = &sharedState{name: "codex"}
	sp.Pool = pool.New(pool.Config{Members: sp.names}, pool.NewState("codex", func(e pool.Event) {
		in.mu.Lock()
		defer in.mu.Unlock()
		in.events = append(in.events, e)
	}))
	in.app = &App{logger: zap.NewNop(), storage: h.shared(), vault: h.vault(), process: p, pools: map[string]*servedPool{"codex": sp}}
	r := in.app.newRefresher()
	r.client.Transport = h.server
	in.app.refresher, sp.refresher = r, r
	var ctx context.Context
	ctx, in.cancel = context.WithCancel(context.Background())
	in.app.look(ctx)
	in.wg.Go(func() { every(ctx, refreshTick, in.app.refreshLogins) })
	in.wg.Go(func() { every(ctx, defaultSyncInterval, func() { in.app.look(ctx) }) })
	return in
}

func (in *instance) stop() {
	in.cancel()
	in.wg.Wait()
	in.app.refresher.stop()
}

// token returns the token that a request now gets.
func (in *instance) token() string {
	in.t.Helper()
	lease, err := in.sp.Acquire(time.Now(), "")
	if err != nil {
		return err.Error()
	}
	a := in.sp.arms(in.t.Context(), time.Now(), lease)
	if a == nil {
		return "none"
	}
	return strings.TrimPrefix(a.headers[0].values[0], "Bearer ")
}

func (in *instance) state(position int) pool.MemberStatus {
	return in.sp.Status(time.Now()).Members[position]
}

// told returns the events of that kind.
func (in *instance) told(kind pool.EventKind) (of []pool.Event) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, e := range in.events {
		if e.Kind == kind {
			of = append(of, e)
		}
	}
	return of
}

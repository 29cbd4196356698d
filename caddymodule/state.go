package caddymodule

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/vault"
)

const (
	// saveInterval is how soon a change is saved.
	saveInterval = 500 * time.Millisecond
	// saveTime bounds what a save waits for a storage that hangs.
	saveTime = 5 * time.Second
)

// states holds what outlives a config, by the pool's name. A config that
// replaces another one finds it here; what no config uses any more is dropped.
var states = caddy.NewUsagePool()

// sharedState is a pool's state with its place in the storage.
type sharedState struct {
	name  string
	state *pool.State

	// key tells inline secrets apart; see inlineIdentity. It is not changed once
	// the state is in use.
	key []byte

	// mu guards the following, and lets one save at a time.
	mu          sync.Mutex
	maxCooldown time.Duration
	loaded      bool   // what the storage had is in the state
	frozen      bool   // a newer version's file is left alone
	saved       uint64 // revision
	failing     bool   // the last save failed, and the log says so

	loading patient[[]byte]
	storing patient[uint64]
}

// savedState is the file: the pool's document, with the key.
type savedState struct {
	pool.Document
	IdentityKey []byte `json:"identity_key"`
}

// acquireState returns the state of the pool of that name. It is read from the
// storage, unless it is inherited: another config in this process has it. Every
// call wants a release.
func acquireState(name string, storage certmagic.Storage, maxCooldown time.Duration, logger *zap.Logger) (s *sharedState, inherited bool, err error) {
	v, inherited, err := states.LoadOrNew(name, func() (caddy.Destructor, error) {
		s := &sharedState{
			name:        name,
			state:       pool.NewState(name, notices.put),
			key:         make([]byte, 32),
			maxCooldown: maxCooldown,
		}
		_, _ = rand.Read(s.key) // never fails
		key, err := s.load(context.Background(), storage, logger, nil)
		if err != nil {
			logger.Warn("the saved state of the pool can't be read yet; starting without it",
				zap.String("pool", name), zap.Error(err))
		}
		if key != nil {
			s.key = key
		}
		s.saved = s.state.Revision()
		return s, nil
	})
	if err != nil {
		return nil, false, fmt.Errorf("loading the state: %w", err)
	}
	return v.(*sharedState), inherited, nil
}

// release gives the state back.
func (s *sharedState) release() error {
	_, err := states.Delete(s.name)
	return err
}

// Destruct implements [caddy.Destructor]. Nothing is held.
func (s *sharedState) Destruct() error { return nil }

func (s *sharedState) storageKey() string { return "credential_pool/state/" + s.name + ".json" }

// inlineIdentity tells one inline secret from another without saying which it
// is: a keyed hash.
func (s *sharedState) inlineIdentity(secret string) string { return keyedHash(s.key, secret) }

func keyedHash(key []byte, secret string) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(secret))
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// load reads what was saved, and returns the key that is saved with it, if there
// is one. A content that can't be used is logged, and no error; only what could
// not be read may be read again. What was saved about the members with these
// secrets is then restored under the key that is in use by now.
func (s *sharedState) load(ctx context.Context, storage certmagic.Storage, logger *zap.Logger, inline map[string]vault.Secret) (key []byte, err error) {
	data, err := s.loading.call(ctx, saveTime, func(ctx context.Context) ([]byte, error) {
		return storage.Load(ctx, s.storageKey())
	})
	if errors.Is(err, fs.ErrNotExist) {
		s.loaded = true
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", s.storageKey(), err)
	}
	s.loaded = true
	log := logger.With(zap.String("pool", s.name), zap.String("key", s.storageKey()))
	doc, err := pool.ParseDocument(data)
	if errors.Is(err, pool.ErrNewerDocument) {
		s.frozen = true
		log.Error("the saved state of the pool is a newer version's; it is left as it is, and nothing is saved", zap.Error(err))
		return nil, nil
	}
	if err != nil {
		log.Error("the saved state of the pool is damaged; starting without it", zap.Error(err))
		return nil, nil
	}
	var file savedState
	if json.Unmarshal(data, &file) == nil && len(file.IdentityKey) == len(s.key) {
		key = file.IdentityKey
	}
	for i := range doc.Records {
		r := &doc.Records[i]
		if secret, ok := inline[r.Member]; ok && r.Identity == keyedHash(key, secret.Reveal()) {
			r.Identity = s.inlineIdentity(secret.Reveal())
		}
	}
	s.state.Restore(doc, time.Now(), s.maxCooldown)
	return key, nil
}

// save writes the state if it has changed since the last save, or anyway. If
// that fails, the next call tries again. An error has been logged.
func (s *sharedState) save(ctx context.Context, storage certmagic.Storage, logger *zap.Logger, inline map[string]vault.Secret, anyway bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen || (s.loaded && s.state.Revision() == s.saved && !anyway) {
		return nil
	}
	revision, err := s.write(ctx, storage, logger, inline)
	switch {
	case err != nil && !s.failing:
		logger.Error("the state of the pool can't be saved; it goes on in memory and is saved when the storage works again",
			zap.String("pool", s.name), zap.Error(err))
	case err == nil && s.failing:
		logger.Info("the state of the pool is saved again", zap.String("pool", s.name))
	}
	s.failing = err != nil
	if err == nil {
		s.saved = revision
	}
	return err
}

// write stores the state and returns the revision that is stored. A state that
// could not be read at first is read before anything is written over it.
func (s *sharedState) write(ctx context.Context, storage certmagic.Storage, logger *zap.Logger, inline map[string]vault.Secret) (uint64, error) {
	if !s.loaded {
		// The key stays: identities in use were made with it.
		if _, err := s.load(ctx, storage, logger, inline); err != nil || s.frozen {
			return s.saved, err
		}
	}
	return s.storing.call(ctx, saveTime, func(ctx context.Context) (uint64, error) {
		doc, revision := s.state.Document(time.Now())
		data, err := json.MarshalIndent(savedState{doc, s.key}, "", "\t")
		if err != nil {
			return 0, fmt.Errorf("encoding the state: %w", err)
		}
		return revision, storage.Store(ctx, s.storageKey(), data)
	})
}

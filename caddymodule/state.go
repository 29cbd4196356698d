package caddymodule

import (
	"context"
	"crypto/rand"
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

	// key tells inline secrets apart; see inlineIdentity.
	key []byte

	// mu guards the following, and lets one save at a time.
	mu          sync.Mutex
	maxCooldown time.Duration
	loaded      bool   // what the storage had is in the state
	frozen      bool   // a newer version's file is left alone
	saved       uint64 // revision
	failing     bool   // the last save failed, and the log says so
}

// savedState is the file: the pool's document, with the key.
type savedState struct {
	pool.Document
	IdentityKey []byte `json:"identity_key"`
}

// acquireState returns the state of the pool of that name. It is read from the
// storage if no config in this process has it. Every call wants a release.
func acquireState(name string, storage certmagic.Storage, maxCooldown time.Duration, logger *zap.Logger) (*sharedState, error) {
	v, _, err := states.LoadOrNew(name, func() (caddy.Destructor, error) {
		s := &sharedState{
			name:        name,
			state:       pool.NewState(name, notices.put),
			key:         make([]byte, 32),
			maxCooldown: maxCooldown,
		}
		_, _ = rand.Read(s.key) // never fails
		s.load(context.Background(), storage, logger)
		s.saved = s.state.Revision()
		return s, nil
	})
	if err != nil {
		return nil, fmt.Errorf("loading the state: %w", err)
	}
	return v.(*sharedState), nil
}

// release gives the state back.
func (s *sharedState) release() error {
	_, err := states.Delete(s.name)
	return err
}

// Destruct implements [caddy.Destructor]. Nothing is held.
func (s *sharedState) Destruct() error { return nil }

func (s *sharedState) storageKey() string { return "credential_pool/state/" + s.name + ".json" }

// load reads what was saved. What can't be read is logged and not fatal.
func (s *sharedState) load(ctx context.Context, storage certmagic.Storage, logger *zap.Logger) {
	var data []byte
	err := within(ctx, saveTime, func(ctx context.Context) (err error) {
		data, err = storage.Load(ctx, s.storageKey())
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		s.loaded = true
		return
	}
	log := logger.With(zap.String("pool", s.name), zap.String("key", s.storageKey()))
	if err != nil {
		log.Warn("the saved state of the pool can't be read yet; starting without it", zap.Error(err))
		return
	}
	s.loaded = true
	doc, err := pool.ParseDocument(data)
	if errors.Is(err, pool.ErrNewerDocument) {
		s.frozen = true
		log.Error("the saved state of the pool is a newer version's; it is left as it is, and nothing is saved", zap.Error(err))
		return
	}
	if err != nil {
		log.Error("the saved state of the pool is damaged; starting without it", zap.Error(err))
		return
	}
	var file savedState
	if json.Unmarshal(data, &file) == nil && len(file.IdentityKey) == len(s.key) {
		s.key = file.IdentityKey
	}
	s.state.Restore(doc, time.Now(), s.maxCooldown)
}

// save writes the state if it has changed since the last save. If that fails,
// the next call tries again.
func (s *sharedState) save(ctx context.Context, storage certmagic.Storage, logger *zap.Logger) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen || s.state.Revision() == s.saved {
		return
	}
	if !s.loaded {
		key := s.key
		s.load(ctx, storage, logger)
		s.key = key // identities in use were made with it
		if !s.loaded || s.frozen {
			return
		}
	}
	doc, revision := s.state.Document(time.Now())
	data, err := json.MarshalIndent(savedState{doc, s.key}, "", "\t")
	if err == nil {
		err = within(ctx, saveTime, func(ctx context.Context) error { return storage.Store(ctx, s.storageKey(), data) })
	}
	if err != nil {
		if !s.failing {
			logger.Error("the state of the pool can't be saved; it goes on in memory and is saved when the storage works again",
				zap.String("pool", s.name), zap.Error(err))
		}
		s.failing = true
		return
	}
	if s.failing {
		logger.Info("the state of the pool is saved again", zap.String("pool", s.name))
	}
	s.failing, s.saved = false, revision
}

// within bounds a call of a storage, some of which do not listen to their
// context.
func within(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the storage did not answer: %w", ctx.Err())
	}
}

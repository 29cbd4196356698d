package vault

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

const (
	phantomKey  = "credential_pool/phantom.age" // where the key lies in the storage
	phantomLock = "credential_pool.phantom"     // file storage drops slashes from a lock's name
	phantomSize = 32
)

// PhantomKey is what the stand-in tokens of the clients are made from. There is
// one for all pools, and it is no credential: whoever knows it can use the pools,
// but learns no secret of an account.
type PhantomKey struct {
	// Key is 32 random bytes.
	Key Secret

	// Updated is when it was made, in UTC, in whole seconds.
	Updated time.Time
}

// phantomRecord is the JSON document inside the encryption. The name keeps
// another record from being taken for it.
type phantomRecord struct {
	Version int       `json:"version"`
	Name    string    `json:"name"`
	Updated time.Time `json:"updated"`
	Key     []byte    `json:"key"`
}

// PhantomKey returns the key as it lies in the storage. The error wraps
// ErrNotFound, ErrNoIdentity, ErrWrongIdentity, ErrCorrupt or ErrForeign, or is
// the storage's.
func (v *Vault) PhantomKey(ctx context.Context) (PhantomKey, error) {
	k, err := v.phantomKey(ctx)
	if err != nil {
		return PhantomKey{}, fmt.Errorf("phantom key: %w", err)
	}
	return k, nil
}

// MakePhantomKey returns the key, and makes it if there is none. One that is
// there but can't be read is left as it is, and the error is that of
// [Vault.PhantomKey]. Of several processes that make it at once, all return the
// same, as far as the storage's lock holds.
func (v *Vault) MakePhantomKey(ctx context.Context) (PhantomKey, error) {
	k, err := v.PhantomKey(ctx)
	if !errors.Is(err, ErrNotFound) {
		return k, err
	}
	return v.lockedPhantomKey(ctx, func() error {
		// Another process may have made it while this one waited for the lock.
		if _, err := v.phantomKey(ctx); !errors.Is(err, ErrNotFound) {
			return err
		}
		return v.storePhantomKey(ctx)
	})
}

// RotatePhantomKey puts a new key in the place of the old one, whether that can
// be read or not. All tokens that were made from it are worth nothing then.
func (v *Vault) RotatePhantomKey(ctx context.Context) (PhantomKey, error) {
	return v.lockedPhantomKey(ctx, func() error { return v.storePhantomKey(ctx) })
}

// lockedPhantomKey makes a change under the storage's lock, and returns the key
// that is then in the storage: should the lock not have held, that is what all
// others see, too.
func (v *Vault) lockedPhantomKey(ctx context.Context, change func() error) (PhantomKey, error) {
	if err := v.storage.Lock(ctx, phantomLock); err != nil {
		return PhantomKey{}, fmt.Errorf("phantom key: locking: %w", err)
	}
	defer func() { _ = v.storage.Unlock(context.WithoutCancel(ctx), phantomLock) }()
	// Some storages don't heed the context, and whoever waited has been told that
	// it failed.
	if err := ctx.Err(); err != nil {
		return PhantomKey{}, fmt.Errorf("phantom key: %w", err)
	}
	if err := change(); err != nil {
		return PhantomKey{}, fmt.Errorf("phantom key: %w", err)
	}
	return v.PhantomKey(ctx)
}

// phantomKey is PhantomKey with errors that do not say what they are about.
func (v *Vault) phantomKey(ctx context.Context) (PhantomKey, error) {
	sealed, err := v.storage.Load(ctx, phantomKey)
	if err != nil {
		return PhantomKey{}, v.notFound(ctx, err)
	}
	ids, err := v.identities()
	if err != nil {
		return PhantomKey{}, err
	}
	plain, err := decrypt(sealed, ids)
	if err != nil {
		return PhantomKey{}, v.explain(err)
	}
	var rec phantomRecord
	if err := json.Unmarshal(plain, &rec); err != nil {
		return PhantomKey{}, fmt.Errorf("%w: its content is not a JSON record", ErrCorrupt)
	}
	updated := rec.Updated.UTC()
	switch y := updated.Year(); {
	case rec.Version != recordVersion:
		return PhantomKey{}, fmt.Errorf("%w: version %d is not known (known: %d)", ErrCorrupt, rec.Version, recordVersion)
	case rec.Name != phantomKey:
		return PhantomKey{}, ErrForeign
	case len(rec.Key) != phantomSize:
		return PhantomKey{}, fmt.Errorf("%w: the key has %d bytes and not %d", ErrCorrupt, len(rec.Key), phantomSize)
	case y < 1970 || y > 9999:
		return PhantomKey{}, fmt.Errorf("%w: updated is missing or out of range", ErrCorrupt)
	}
	return PhantomKey{NewSecret(string(rec.Key)), updated}, nil
}

// storePhantomKey stores a new key over what may be there.
func (v *Vault) storePhantomKey(ctx context.Context) error {
	to, err := v.recipient(ctx)
	if err != nil {
		return err
	}
	rec := phantomRecord{
		Version: recordVersion, Name: phantomKey,
		Updated: time.Now().UTC().Truncate(time.Second), Key: make([]byte, phantomSize),
	}
	_, _ = rand.Read(rec.Key) // never fails
	sealed, err := encrypt(rec, to)
	if err != nil {
		return err
	}
	if err := v.storage.Store(ctx, phantomKey, sealed); err != nil {
		return fmt.Errorf("storing: %w", err)
	}
	return nil
}

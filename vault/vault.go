package vault

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"filippo.io/age"
	"go.uber.org/zap"

	"github.com/caddyserver/certmagic"
)

// What can be wrong with a credential. Errors of the storage itself are passed
// on wrapped, and are none of these.
var (
	// ErrNotFound: there is no record of that name.
	ErrNotFound = errors.New("no such credential")

	// ErrNoIdentity: nothing is there to encrypt or decrypt with.
	ErrNoIdentity = errors.New("no identity")

	// ErrWrongIdentity: none of the identities can decrypt the record.
	ErrWrongIdentity = errors.New("no identity decrypts this record")

	// ErrCorrupt: the record is torn, damaged, or not of a form that this
	// version knows.
	ErrCorrupt = errors.New("record is corrupt")

	// ErrForeign: the record was made for another name.
	ErrForeign = errors.New("record belongs to another name")

	// ErrInvalid: the name, or the credential to put, is not acceptable.
	ErrInvalid = errors.New("invalid credential")
)

// errGone is an error of the storage: files of a vault that had records are all
// gone at once, which is not the same as that somebody has removed them.
var errGone = errors.New("the folder of the credentials is gone; is the storage mounted?")

const (
	prefix = "credential_pool/credentials"
	suffix = ".age"

	setIdentity = "set `vault { identity ... }` in credential_pool"
)

// Vault keeps credentials in a storage. It holds no secret itself: each call
// goes to the storage, so what other processes write is seen at once. It is safe
// for concurrent use, and of two puts to one name at once the later one stays.
//
// A call takes as long as the storage does. Some storages don't heed the
// context, so a caller that can't wait must call from a goroutine.
type Vault struct {
	storage    certmagic.Storage
	configured []age.Identity
	file       string // of the made identity; "" if the storage has no files
	logger     *zap.Logger

	// seen is true once there was a record.
	seen atomic.Bool
}

// New returns a vault over the storage. Each of identities holds one or more age
// secret keys (AGE-SECRET-KEY-1... or AGE-SECRET-KEY-PQ-1...), one per line;
// blank lines and lines that start with # are ignored. The first key encrypts,
// all decrypt. An error names the identity by its position, from 1.
//
// With no identities at all, one is made at the first Put if the storage is a
// [certmagic.FileStorage]; with any other, see [Vault.CanPut]. Nothing is read
// or written here.
func New(storage certmagic.Storage, identities []string, logger *zap.Logger) (*Vault, error) {
	if logger == nil {
		logger = zap.NewNop()
	}
	v := &Vault{storage: storage, logger: logger}
	for i, text := range identities {
		ids, err := parseIdentities(text)
		if err != nil {
			return nil, fmt.Errorf("identity %d %w", i+1, err)
		}
		v.configured = append(v.configured, ids...)
	}
	if fileStorage, ok := storage.(*certmagic.FileStorage); ok {
		v.file = fileStorage.Filename(identityKey)
	}
	return v, nil
}

// CanPut returns an error that wraps ErrNoIdentity and says what to configure,
// if this vault has no identity and can't make one either: one is made in
// file-system storage only, where a file can be created exclusively and for its
// owner alone.
func (v *Vault) CanPut() error {
	if len(v.configured) == 0 && v.file == "" {
		return fmt.Errorf("%w: %s (one is made by itself in file-system storage only)", ErrNoIdentity, setIdentity)
	}
	return nil
}

// Get returns the credential of that name ("<pool>/<member>"). The error wraps
// ErrInvalid, ErrNotFound, ErrNoIdentity, ErrWrongIdentity, ErrCorrupt or
// ErrForeign, or is the storage's.
func (v *Vault) Get(ctx context.Context, name string) (Credential, error) {
	if err := checkName(name); err != nil {
		return Credential{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	c, err := v.get(ctx, name)
	if err != nil {
		return Credential{}, fmt.Errorf("credential %q: %w", name, err)
	}
	return c, nil
}

// get is Get for a name that was checked, with errors that do not repeat it.
func (v *Vault) get(ctx context.Context, name string) (Credential, error) {
	sealed, err := v.storage.Load(ctx, key(name))
	if err != nil {
		return Credential{}, v.notFound(ctx, err)
	}
	v.seen.Store(true)
	ids, err := v.identities()
	if err != nil {
		return Credential{}, err
	}
	c, err := open(sealed, name, ids)
	return c, v.explain(err)
}

// explain adds to ErrWrongIdentity what may help.
func (v *Vault) explain(err error) error {
	if errors.Is(err, ErrWrongIdentity) && len(v.configured) > 0 && v.file != "" {
		if _, statErr := os.Stat(v.file); statErr == nil {
			return fmt.Errorf("%w (it may be of the time when the identity in %s was used: "+
				"add `identity {file.%s}` below your own)", err, v.file, v.file)
		}
	}
	return err
}

// Put stores c, in place of what may be there under its name. ID, Generation and
// Updated are made anew, and what is noted about refreshes is dropped. The error
// wraps ErrInvalid or ErrNoIdentity, or is the storage's; then nothing has
// changed, as far as the storage can promise.
func (v *Vault) Put(ctx context.Context, c Credential) (Info, error) {
	if err := checkName(c.Name); err != nil {
		return Info{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	c.ID, c.Generation = rand.Text(), 1
	c.Updated = time.Now().UTC().Truncate(time.Second)
	if c.OAuth != nil {
		c = c.with(func(o *OAuth) {
			o.ExpiresAt = o.ExpiresAt.UTC()
			o.RefreshedAt, o.Intent, o.Lost = time.Time{}, Intent{}, ""
		})
	}
	sealed, err := v.seal(ctx, c)
	if err != nil {
		return Info{}, err
	}
	if err := v.store(ctx, c.Name, sealed); err != nil {
		return Info{}, err
	}
	v.seen.Store(true)
	return c.info(), nil
}

// Delete removes the record of that name ("<pool>/<member>"), which need not be
// readable. The error wraps ErrInvalid or ErrNotFound, or is the storage's.
func (v *Vault) Delete(ctx context.Context, name string) error {
	// Storages delete what is not there without an error.
	if _, err := v.Stamp(ctx, name); err != nil {
		return err
	}
	if err := v.storage.Delete(ctx, key(name)); err != nil {
		return fmt.Errorf("credential %q: deleting: %w", name, err)
	}
	return nil
}

// List returns what may be shown of all credentials, sorted by name and never
// nil. One that can't be read is listed with the reason in Error. The error is
// the storage's, or that of ctx.
func (v *Vault) List(ctx context.Context) ([]Info, error) {
	keys, err := v.keys(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing credentials: %w", err)
	}
	infos := make([]Info, 0, len(keys))
	for _, k := range keys {
		name := strings.TrimSuffix(strings.TrimPrefix(k, prefix+"/"), suffix)
		c := Credential{Name: name}
		err := checkName(name)
		if err == nil {
			c, err = v.get(ctx, name)
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("listing credentials: %w", ctx.Err())
		}
		if errors.Is(err, ErrNotFound) {
			continue // deleted since
		}
		if err != nil {
			c = Credential{Name: name}
		}
		info := c.info()
		if err != nil {
			info.Error = err.Error()
		}
		infos = append(infos, info)
	}
	slices.SortFunc(infos, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return infos, nil
}

// Stamp tells two states of a record apart, with ==, as far as the storage's
// clock does: it is the record's time of modification and size.
type Stamp struct {
	modified int64 // Unix nanoseconds
	size     int64
}

// Settled reports whether a change after now gives another stamp. Clocks of
// storages have ticks, within which several processes can write.
func (s Stamp) Settled(now time.Time) bool {
	return now.Sub(time.Unix(0, s.modified)).Abs() > settleTime
}

// settleTime is longer than a tick.
const settleTime = time.Second

// Stamp looks at the record of that name ("<pool>/<member>") without reading it,
// to see cheaply whether anyone changed it. The error wraps ErrInvalid or
// ErrNotFound, or is the storage's.
func (v *Vault) Stamp(ctx context.Context, name string) (Stamp, error) {
	if err := checkName(name); err != nil {
		return Stamp{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	info, err := v.storage.Stat(ctx, key(name))
	if err != nil {
		return Stamp{}, fmt.Errorf("credential %q: %w", name, v.notFound(ctx, err))
	}
	v.seen.Store(true)
	return Stamp{modified: info.Modified.UnixNano(), size: info.Size}, nil
}

// keys returns the keys of all records, in no order.
func (v *Vault) keys(ctx context.Context) ([]string, error) {
	// fs.ErrNotExist means that there are no records yet, but file storage says
	// it too, and lists only a part, when a file vanishes while it looks, as its
	// own temporary files do. A part must not pass for the whole.
	const attempts = 10
	var keys []string
	var err error
	for range attempts {
		keys, err = v.storage.List(ctx, prefix, true)
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
		if v.gone(ctx) {
			return nil, errGone
		}
		if !v.storage.Exists(ctx, prefix) {
			keys, err = nil, nil
			break
		}
	}
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(keys, func(k string) bool { return !strings.HasSuffix(k, suffix) }), nil
}

// identities returns what to decrypt with; the first is the one to encrypt with.
// A made identity is read again each time: if it were remembered, a put after
// its file was removed would write what nobody can read after a restart.
func (v *Vault) identities() ([]age.Identity, error) {
	if len(v.configured) > 0 {
		return v.configured, nil
	}
	if err := v.CanPut(); err != nil {
		return nil, err
	}
	return readIdentityFile(v.file)
}

// recipient returns whom to encrypt to, and makes an identity if this is the
// first put of all.
func (v *Vault) recipient(ctx context.Context) (age.Recipient, error) {
	ids, err := v.identities()
	if errors.Is(err, fs.ErrNotExist) {
		ids, err = v.makeIdentity(ctx)
	}
	if err != nil {
		return nil, err
	}
	return recipientOf(ids[0])
}

// makeIdentity makes the identity that was missing just now, or returns the one
// that another process has made since.
func (v *Vault) makeIdentity(ctx context.Context) ([]age.Identity, error) {
	ids, err := v.missingIdentity(ctx)
	if ids != nil || err != nil {
		return ids, err
	}
	made, err := makeIdentityFile(v.file)
	if err != nil {
		return nil, err
	}
	if made {
		v.logger.Info("made the identity that decrypts the credentials; keep a copy of it, apart from theirs",
			zap.String("file", v.file))
	}
	return v.identities()
}

// missingIdentity looks whether the identity that was missing just now may be
// made. It returns the one that another process has made since, if it has, and
// an error if there are records that a new one would not decrypt.
func (v *Vault) missingIdentity(ctx context.Context) ([]age.Identity, error) {
	keys, err := v.keys(ctx)
	if err != nil {
		return nil, fmt.Errorf("looking for records before making an identity: %w", err)
	}
	if len(keys) == 0 && !v.storage.Exists(ctx, phantomKey) {
		return nil, nil
	}
	// Another process that makes the identity does so before its first record,
	// so its record can't be seen without its identity.
	ids, err := v.identities()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: there are records already, and a new identity would not decrypt them: "+
			"restore %s, or %s", ErrNoIdentity, v.file, setIdentity)
	}
	return ids, err
}

func key(name string) string { return prefix + "/" + name + suffix }

// notFound makes ErrNotFound of what storages say.
func (v *Vault) notFound(ctx context.Context, err error) error {
	switch {
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("reading: %w", err)
	case v.gone(ctx):
		return fmt.Errorf("reading: %w", errGone)
	default:
		return ErrNotFound
	}
}

// gone reports whether the records that there were are gone with their folder.
// Only a file system has one, and leaves it when the last record is removed.
func (v *Vault) gone(ctx context.Context) bool {
	return v.file != "" && v.seen.Load() && !v.storage.Exists(ctx, prefix)
}

package vault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/certmagic"
)

func mustMake(t testing.TB, v *Vault) string {
	t.Helper()
	k, err := v.MakePhantomKey(t.Context())
	if err != nil || len(k.Key.Reveal()) != 32 || k.Updated.IsZero() {
		t.Fatalf("%d bytes of %v, %v", len(k.Key.Reveal()), k.Updated, err)
	}
	return k.Key.Reveal()
}

func TestPhantom_keyIsMadeOnceAndStays(t *testing.T) {
	dir := t.TempDir()
	v := newVault(t, &certmagic.FileStorage{Path: dir})
	_, err := v.PhantomKey(t.Context())
	wantError(t, "before it is made", err, ErrNotFound)
	if files := snapshot(t, dir); len(files) > 0 {
		t.Errorf("a look has written %q", files)
	}
	key := mustMake(t, v)
	for _, other := range []*Vault{v, newVault(t, &certmagic.FileStorage{Path: dir})} {
		if mustMake(t, other) != key {
			t.Error("the second one is another key")
		}
		if k, err := other.PhantomKey(t.Context()); err != nil || k.Key.Reveal() != key {
			t.Errorf("reading it: %v", err)
		}
	}
	for _, file := range snapshot(t, dir) {
		if strings.Contains(file, fmt.Sprintf("%x", key)) {
			t.Error("the key lies in the storage in the clear")
		}
	}
	if infos, err := v.List(t.Context()); err != nil || len(infos) != 0 {
		t.Errorf("it is listed among the credentials: %v, %v", infos, err)
	}
	mustPut(t, v, "openai/work", canary) // with the same identity
}

func TestPhantom_processesThatMakeItAtOnceAgree(t *testing.T) {
	dir := t.TempDir()
	keys := make([]string, 4)
	var group sync.WaitGroup
	for i := range keys {
		v := newVault(t, &certmagic.FileStorage{Path: dir})
		group.Go(func() { keys[i] = mustMake(t, v) })
	}
	group.Wait()
	if slices.Sort(keys); keys[0] != keys[len(keys)-1] {
		t.Error("there are several keys")
	}
}

func TestPhantom_rotatedKeyIsAnother(t *testing.T) {
	dir := t.TempDir()
	v := newVault(t, &certmagic.FileStorage{Path: dir})
	before := mustMake(t, v)
	k, err := v.RotatePhantomKey(t.Context())
	if err != nil || k.Key.Reveal() == before {
		t.Fatalf("the same key: %t, %v", k.Key.Reveal() == before, err)
	}
	if mustMake(t, newVault(t, &certmagic.FileStorage{Path: dir})) != k.Key.Reveal() {
		t.Error("others do not see it")
	}
}

func TestPhantom_unreadableKeyIsNotReplaced(t *testing.T) {
	id, other := newIdentity(t), newIdentity(t)
	whole := func(identity string) []byte {
		storage := newMemory()
		mustMake(t, newVault(t, storage, identity))
		return storage.values[phantomKey]
	}
	own := whole(id.String())
	for name, tc := range map[string]struct {
		content []byte
		want    error
	}{
		"torn":      {own[:len(own)-1], ErrCorrupt},
		"empty":     {nil, ErrCorrupt},
		"garbage":   {[]byte(canary), ErrCorrupt},
		"another's": {whole(other.String()), ErrWrongIdentity},
	} {
		t.Run(name, func(t *testing.T) {
			storage := newMemory()
			v := newVault(t, storage, id.String())
			storage.values[phantomKey] = tc.content
			_, err := v.PhantomKey(t.Context())
			wantError(t, "looking", err, tc.want)
			_, err = v.MakePhantomKey(t.Context())
			wantError(t, "making", err, tc.want)
			if string(storage.values[phantomKey]) != string(tc.content) {
				t.Error("it was overwritten")
			}
			if _, err = v.RotatePhantomKey(t.Context()); err != nil {
				t.Errorf("the operator can't replace it: %v", err)
			}
			mustMake(t, v)
		})
	}
}

func TestPhantom_recordIsChecked(t *testing.T) {
	id := newIdentity(t)
	const key, name, at = `,"key":"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="`, `,"name":"credential_pool/phantom.age"`, `,"updated":"2026-01-02T03:04:05Z"`
	for text, want := range map[string]error{
		`{"version":1` + name + at + key + `}`:               nil,
		`{"version":2` + name + at + key + `}`:               ErrCorrupt,
		`{"version":1` + at + key + `}`:                      ErrForeign,
		`{"version":1,"name":"openai/work"` + at + key + `}`: ErrForeign,
		`{"version":1` + name + at + `,"key":"MDEy"}`:        ErrCorrupt,
		`{"version":1` + name + at + `}`:                     ErrCorrupt,
		`{"version":1` + name + key + `}`:                    ErrCorrupt,
		canary:                                               ErrCorrupt,
	} {
		storage := newMemory()
		storage.values[phantomKey] = sealPlain(t, []byte(text), id.Recipient())
		_, err := newVault(t, storage, id.String()).PhantomKey(t.Context())
		wantError(t, text, err, want)
	}
}

func TestPhantom_keyWithoutItsIdentityIsNotForgotten(t *testing.T) {
	dir := t.TempDir()
	v := newVault(t, &certmagic.FileStorage{Path: dir})
	mustMake(t, v)
	if err := os.Remove(identityPath(dir)); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, dir)
	_, err := v.MakePhantomKey(t.Context())
	wantError(t, "making", err, ErrNoIdentity)
	_, err = v.RotatePhantomKey(t.Context())
	wantError(t, "rotating", err, ErrNoIdentity)
	_, err = v.Put(t.Context(), full())
	wantError(t, "putting a credential", err, ErrNoIdentity)
	if after := snapshot(t, dir); !slices.Equal(after, before) {
		t.Error("something was written")
	}
}

func TestPhantom_storageThatFailsChangesNothing(t *testing.T) {
	broken := errors.New("broken")
	for _, op := range []string{"load", "lock", "store"} {
		t.Run(op, func(t *testing.T) {
			storage := newMemory()
			storage.hook = func(_ context.Context, now, _ string) error {
				if now == op {
					return broken
				}
				return nil
			}
			v := newVault(t, storage, newIdentity(t).String())
			_, err := v.MakePhantomKey(t.Context())
			wantError(t, "making", err, broken)
			if len(storage.values) > 0 {
				t.Error("something was stored")
			}
			storage.hook = nil
			mustMake(t, v) // so the lock is free
		})
	}
}

func TestPhantom_lockThatComesTooLateIsGivenBack(t *testing.T) {
	storage := newMemory()
	ctx, cancel := context.WithCancel(t.Context())
	storage.hook = func(_ context.Context, op, _ string) error {
		if op == "lock" {
			cancel() // and it takes the lock all the same
		}
		return nil
	}
	v := newVault(t, &heedless{storage}, newIdentity(t).String())
	_, err := v.RotatePhantomKey(ctx)
	wantError(t, "rotating", err, context.Canceled)
	if len(storage.values) > 0 {
		t.Error("what the operator was told has failed happened all the same")
	}
	if !storage.locked.TryLock() {
		t.Error("the lock is still held")
	}
}

// heedless does not listen to the context.
type heedless struct{ *memory }

func (h *heedless) Lock(_ context.Context, name string) error {
	return h.memory.Lock(context.Background(), name)
}

func (h *heedless) Store(_ context.Context, key string, value []byte) error {
	return h.memory.Store(context.Background(), key, value)
}

package vault

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/certmagic"
)

func TestTry_leavesNothing(t *testing.T) {
	dir := t.TempDir()
	for name, v := range map[string]*Vault{
		"files, identity to be made": newVault(t, &certmagic.FileStorage{Path: dir}),
		"no files":                   newVault(t, newMemory(), newIdentity(t).String()),
	} {
		if err := v.Try(t.Context(), "openai/work"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if infos, err := v.List(t.Context()); err != nil || len(infos) != 0 {
			t.Errorf("%s: the list is %v, %v", name, infos, err)
		}
		if m, ok := v.storage.(*memory); ok && len(m.values) != 0 {
			t.Errorf("%s: %d values are left", name, len(m.values))
		}
	}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			t.Errorf("%s is left", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestTry_leavesTheRecordAlone(t *testing.T) {
	v := newVault(t, newMemory(), newIdentity(t).String())
	want := mustPut(t, v, "openai/work", canary)
	if err := v.Try(t.Context(), "openai/work"); err != nil {
		t.Error(err)
	}
	if c, err := v.Get(t.Context(), "openai/work"); err != nil || c.ID != want.ID || c.Generation != 1 {
		t.Errorf("the record is %+v, %v", c.info(), err)
	}
}

func TestTry_refusesWhatPutWould(t *testing.T) {
	broken := errors.New("disk full")
	fails := func(operation string) *memory {
		m := newMemory()
		m.hook = func(_ context.Context, op, _ string) error {
			if op == operation {
				return broken
			}
			return nil
		}
		return m
	}
	key := newIdentity(t).String()
	lost := &certmagic.FileStorage{Path: t.TempDir()}
	v := newVault(t, lost)
	mustPut(t, v, "openai/home", canary)
	if err := os.Remove(v.file); err != nil {
		t.Fatal(err)
	}
	unmounted := newVault(t, &certmagic.FileStorage{Path: t.TempDir()}, key)
	mustPut(t, unmounted, "openai/home", canary)
	if err := os.RemoveAll(filepath.Join(unmounted.storage.(*certmagic.FileStorage).Path, "credential_pool")); err != nil {
		t.Fatal(err)
	}
	for what, tc := range map[string]struct {
		vault *Vault
		name  string
		want  error
	}{
		"a name that is none":              {newVault(t, newMemory(), key), "../work", ErrInvalid},
		"no identity, and none to be made": {newVault(t, newMemory()), "openai/work", ErrNoIdentity},
		"records without their identity":   {v, "openai/work", ErrNoIdentity},
		"a folder that is gone":            {unmounted, "openai/work", errGone},
		"a storage that can't be read":     {newVault(t, fails("load"), key), "openai/work", broken},
		"a storage that can't be written":  {newVault(t, fails("store"), key), "openai/work", broken},
		"a storage that removes nothing":   {newVault(t, fails("delete"), key), "openai/work", broken},
	} {
		wantError(t, what, tc.vault.Try(t.Context(), tc.name), tc.want)
		if tc.vault != unmounted {
			continue
		}
		if _, err := os.Stat(filepath.Join(tc.vault.storage.(*certmagic.FileStorage).Path, filepath.FromSlash(prefix))); err == nil {
			t.Error("the folder that is gone was made anew")
		}
	}
}

func TestTry_removesWhatAFailedStoreLeft(t *testing.T) {
	m := newMemory()
	v := newVault(t, m, newIdentity(t).String())
	broken := errors.New("disk full")
	m.hook = func(_ context.Context, op, key string) error {
		if op == "store" {
			m.values[key] = []byte("half")
			return broken
		}
		return nil
	}
	err := v.Try(t.Context(), "openai/work")
	wantError(t, "the try", err, broken)
	if len(m.values) != 0 {
		t.Error("a part is left")
	}
	if err == nil || !strings.Contains(err.Error(), `credential "openai/work": trying to store`) {
		t.Errorf("the error is %v", err)
	}
}

package vault

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"filippo.io/age"
	"go.uber.org/zap"

	"github.com/caddyserver/certmagic"
)

func identityPath(dir string) string { return filepath.Join(dir, "credential_pool", "identity.txt") }

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

func TestIdentity_isMadeAtTheFirstPut(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	logger, logs := observed()
	v, err := New(&certmagic.FileStorage{Path: dir}, nil, logger)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = v.Get(t.Context(), "openai/work")
	_, _ = v.List(t.Context())
	if _, err := os.Stat(dir); err == nil {
		t.Error("something was written before the first put")
	}

	mustPut(t, v, "openai/work", canary)
	text, err := os.ReadFile(identityPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	if ids, err := age.ParseIdentities(strings.NewReader(string(text))); err != nil || len(ids) != 1 {
		t.Errorf("%d identities in the file, %v", len(ids), err)
	}
	if runtime.GOOS != "windows" {
		if m := mode(t, identityPath(dir)); m != 0o600 {
			t.Errorf("the file's mode is %o, want 600", m)
		}
		if m := mode(t, filepath.Dir(identityPath(dir))); m != 0o700 {
			t.Errorf("the folder's mode is %o, want 700", m)
		}
	}

	mustPut(t, v, "openai/home", canary)
	if again, _ := os.ReadFile(identityPath(dir)); string(again) != string(text) {
		t.Error("the second put changed the identity")
	}
	told := logs.FilterField(zap.String("file", identityPath(dir))).All()
	if len(told) != 1 || logs.Len() != 1 {
		t.Errorf("log says where %d times in %d entries, want once", len(told), logs.Len())
	}
	for _, entry := range logs.All() {
		if strings.Contains(fmt.Sprint(entry), "AGE-SECRET-KEY") {
			t.Error("the log shows the identity")
		}
	}
	leftover, _ := filepath.Glob(filepath.Join(dir, "credential_pool", ".identity-*"))
	if len(leftover) > 0 {
		t.Errorf("left behind: %q", leftover)
	}
}

func TestIdentity_ofTwoAtOnceThereIsOne(t *testing.T) {
	for range 20 {
		dir := t.TempDir()
		const vaults = 8
		logger, logs := observed()
		start := make(chan struct{})
		var group sync.WaitGroup
		for i := range vaults {
			v, err := New(&certmagic.FileStorage{Path: dir}, nil, logger)
			if err != nil {
				t.Fatal(err)
			}
			group.Go(func() {
				<-start
				if _, err := v.Put(t.Context(), named(fmt.Sprintf("openai/m%d", i))); err != nil {
					t.Error(err)
				}
			})
		}
		close(start)
		group.Wait()

		infos, err := newVault(t, &certmagic.FileStorage{Path: dir}).List(t.Context())
		if err != nil || len(infos) != vaults {
			t.Fatalf("%d of %d records, %v", len(infos), vaults, err)
		}
		for _, info := range infos {
			if info.Error != "" {
				t.Errorf("%s: %s", info.Name, info.Error)
			}
		}
		if logs.Len() != 1 {
			t.Errorf("%d say that they made it", logs.Len())
		}
	}
}

func TestIdentity_neverReplacesWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "identity.txt")
	if made, err := makeIdentityFile(path); !made || err != nil {
		t.Fatalf("first: made is %t, %v", made, err)
	}
	before := snapshot(t, dir)
	if made, err := makeIdentityFile(path); made || err != nil {
		t.Errorf("second: made is %t, %v", made, err)
	}
	if after := snapshot(t, dir); !slices.Equal(after, before) {
		t.Error("the file has changed")
	}
}

func TestIdentity_madeByAnotherProcessIsPickedUp(t *testing.T) {
	dir := t.TempDir()
	reader, writer := newVault(t, &certmagic.FileStorage{Path: dir}), newVault(t, &certmagic.FileStorage{Path: dir})
	_, err := reader.Get(t.Context(), "openai/work")
	wantError(t, "before", err, ErrNotFound)
	mustPut(t, writer, "openai/work", "one")
	if c, err := reader.Get(t.Context(), "openai/work"); err != nil || c.Secret.Reveal() != "one" {
		t.Errorf("after: %v", err)
	}
}

// A record that shows up between the two looks of a put, at the identity and
// at the records, comes with its identity.
func TestIdentity_madeBetweenTwoLooksIsUsed(t *testing.T) {
	dir := t.TempDir()
	other := newVault(t, &certmagic.FileStorage{Path: dir})
	mustPut(t, other, "openai/work", "one")
	v := newVault(t, &certmagic.FileStorage{Path: dir})
	ids, err := v.makeIdentity(t.Context()) // as after a look that found none
	if err != nil {
		t.Fatal(err)
	}
	want, _ := v.identities()
	if fmt.Sprint(ids) != fmt.Sprint(want) {
		t.Error("another identity than the one in the file")
	}
}

// What can't be read is not the record's fault: who has the credential in memory
// goes on with it.
func TestIdentity_thatCanNotBeReadIsTheStoragesFault(t *testing.T) {
	dir := t.TempDir()
	v := newVault(t, &certmagic.FileStorage{Path: dir})
	mustPut(t, v, "openai/work", canary)
	if err := os.Remove(identityPath(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(identityPath(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"get": func() error { _, err := v.Get(t.Context(), "openai/work"); return err },
		"put": func() error { _, err := v.Put(t.Context(), named("openai/home")); return err },
	} {
		if err := call(); err == nil || errors.Is(err, ErrNoIdentity) || !strings.Contains(err.Error(), identityPath(dir)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVault_thatIsGoneIsTheStoragesFault(t *testing.T) {
	dir := t.TempDir()
	v := newVault(t, &certmagic.FileStorage{Path: dir})
	mustPut(t, v, "openai/work", canary)
	if err := v.Delete(t.Context(), "openai/work"); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Get(t.Context(), "openai/work"); !errors.Is(err, ErrNotFound) {
		t.Errorf("removed: %v", err)
	}
	mustPut(t, v, "openai/work", canary)
	away := filepath.Join(t.TempDir(), "away")
	if err := os.Rename(filepath.Join(dir, "credential_pool"), away); err != nil {
		t.Fatal(err)
	}
	_, getErr := v.Get(t.Context(), "openai/work")
	_, putErr := v.Put(t.Context(), named("openai/home"))
	_, listErr := v.List(t.Context())
	for name, err := range map[string]error{"get": getErr, "put": putErr, "list": listErr} {
		if !errors.Is(err, errGone) || errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.Rename(away, filepath.Join(dir, "credential_pool")); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Get(t.Context(), "openai/work"); err != nil {
		t.Errorf("once it is back: %v", err)
	}
}

func TestIdentity_isNotMadeWhereRecordsExist(t *testing.T) {
	for name, lose := range map[string]func(dir string) error{
		"removed": func(dir string) error { return os.Remove(identityPath(dir)) },
		"emptied": func(dir string) error { return os.Truncate(identityPath(dir), 0) },
		"torn":    func(dir string) error { return os.Truncate(identityPath(dir), 150) },
		"garbage": func(dir string) error { return os.WriteFile(identityPath(dir), []byte(canary), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			running := newVault(t, &certmagic.FileStorage{Path: dir})
			mustPut(t, running, "openai/work", canary)
			if err := lose(dir); err != nil {
				t.Fatal(err)
			}
			state := snapshot(t, dir)
			// A vault that has used the identity must notice too, or it would
			// write what nobody can read after a restart.
			for _, v := range []*Vault{running, newVault(t, &certmagic.FileStorage{Path: dir})} {
				_, err := v.Put(t.Context(), named("openai/home"))
				wantError(t, "put", err, ErrNoIdentity)
				if !strings.Contains(fmt.Sprint(err), identityPath(dir)) {
					t.Errorf("error does not name the file: %v", err)
				}
				_, err = v.Get(t.Context(), "openai/work")
				wantError(t, "get", err, ErrNoIdentity)
				infos, err := v.List(t.Context())
				if err != nil || len(infos) != 1 || infos[0].Error == "" {
					t.Errorf("list: %+v, %v", infos, err)
				}
			}
			if now := snapshot(t, dir); !slices.Equal(now, state) {
				t.Errorf("files were\n%q, are\n%q", state, now)
			}
			if err := running.Delete(t.Context(), "openai/work"); err != nil {
				t.Errorf("what can't be read can't be deleted: %v", err)
			}
		})
	}
}

func TestIdentity_configuredOneReplacesTheMadeOne(t *testing.T) {
	dir := t.TempDir()
	storage := &certmagic.FileStorage{Path: dir}
	mustPut(t, newVault(t, storage), "openai/old", "old")
	own := newIdentity(t).String()

	v := newVault(t, storage, own)
	_, err := v.Get(t.Context(), "openai/old")
	wantError(t, "record of the made identity", err, ErrWrongIdentity)
	if !strings.Contains(fmt.Sprint(err), "{file."+identityPath(dir)+"}") {
		t.Errorf("error does not say how to go on with it: %v", err)
	}
	mustPut(t, v, "openai/new", "new")
	_, err = newVault(t, storage).Get(t.Context(), "openai/new")
	wantError(t, "record of the configured identity", err, ErrWrongIdentity)

	made, err := os.ReadFile(identityPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	both := newVault(t, storage, own, string(made))
	for _, name := range []string{"openai/old", "openai/new"} {
		_, err := both.Get(t.Context(), name)
		wantError(t, name+" with both", err, nil)
	}
}

func TestIdentity_isNotMadeIfOneIsConfigured(t *testing.T) {
	dir := t.TempDir()
	v := newVault(t, &certmagic.FileStorage{Path: dir}, newIdentity(t).String())
	mustPut(t, v, "openai/work", canary)
	if _, err := os.Lstat(identityPath(dir)); err == nil {
		t.Error("an identity was made")
	}
	_, err := newVault(t, &certmagic.FileStorage{Path: dir}, newIdentity(t).String()).Get(t.Context(), "openai/work")
	wantError(t, "a wrong identity without a made one", err, ErrWrongIdentity)
}

func TestIdentity_thatCanNotBeMadeIsAnError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// A file where a folder is needed fails for every user, root too.
	if made, err := makeIdentityFile(filepath.Join(file, "x", "identity.txt")); made || err == nil {
		t.Errorf("made: %t, %v", made, err)
	}
	if _, err := newVault(t, &certmagic.FileStorage{Path: file}).Put(t.Context(), full()); err == nil {
		t.Error("put below a file succeeded")
	}
}

// snapshot returns the names and contents of all files below dir.
func snapshot(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		files = append(files, fmt.Sprintf("%s %x", path, data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

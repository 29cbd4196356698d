package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"filippo.io/age"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/certmagic"
)

// memory is a storage without files. Its hooks, where set, run first; an error
// of theirs is the answer.
type memory struct {
	certmagic.Storage // for the rest of the interface

	mu     sync.Mutex
	values map[string][]byte
	locked sync.Mutex
	hook   func(ctx context.Context, op, key string) error
}

func newMemory() *memory { return &memory{values: map[string][]byte{}} }

func (m *memory) before(ctx context.Context, op, key string) error {
	if m.hook != nil {
		if err := m.hook(ctx, op, key); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (m *memory) Store(ctx context.Context, key string, value []byte) error {
	if err := m.before(ctx, "store", key); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.values[key] = value
	return nil
}

func (m *memory) Load(ctx context.Context, key string) ([]byte, error) {
	if err := m.before(ctx, "load", key); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	value, ok := m.values[key]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return value, nil
}

func (m *memory) Delete(ctx context.Context, key string) error {
	if err := m.before(ctx, "delete", key); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.values, key)
	return nil
}

func (m *memory) Lock(ctx context.Context, name string) error {
	if err := m.before(ctx, "lock", name); err != nil {
		return err
	}
	m.locked.Lock()
	return nil
}

func (m *memory) Unlock(ctx context.Context, name string) error {
	m.locked.Unlock()
	return m.before(ctx, "unlock", name)
}

func (m *memory) Exists(_ context.Context, key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k := range m.values {
		if k == key || strings.HasPrefix(k, key+"/") {
			return true
		}
	}
	return false
}

func (m *memory) List(ctx context.Context, prefix string, _ bool) ([]string, error) {
	err := m.before(ctx, "list", prefix)
	m.mu.Lock()
	defer m.mu.Unlock()
	keys := slices.Collect(maps.Keys(m.values))
	if err == nil && len(keys) == 0 {
		err = fs.ErrNotExist
	}
	return keys, err
}

func (m *memory) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	value, err := m.Load(ctx, key)
	return certmagic.KeyInfo{Key: key, Size: int64(len(value)), IsTerminal: true}, err
}

func newVault(t testing.TB, storage certmagic.Storage, identities ...string) *Vault {
	t.Helper()
	v, err := New(storage, identities, nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func mustPut(t testing.TB, v *Vault, name, secret string) Info {
	t.Helper()
	info, err := v.Put(t.Context(), Credential{Name: name, Kind: KindStatic, Secret: NewSecret(secret)})
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func wantError(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error is %v, want %v", what, err, want)
	}
	if err != nil && leaks(err.Error()) {
		t.Errorf("%s: error shows a secret: %v", what, err)
	}
}

func TestVault_getsWhatWasPut(t *testing.T) {
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	keygen := "# created: 2026-01-02T03:04:05Z\n# public key: age1...\n\n" + newIdentity(t).String() + "\n"
	vaults := map[string]func(*testing.T) *Vault{
		"files, identity made": func(t *testing.T) *Vault {
			return newVault(t, &certmagic.FileStorage{Path: t.TempDir()})
		},
		"files, identity given": func(t *testing.T) *Vault {
			return newVault(t, &certmagic.FileStorage{Path: t.TempDir()}, newIdentity(t).String())
		},
		"no files":       func(t *testing.T) *Vault { return newVault(t, newMemory(), newIdentity(t).String()) },
		"hybrid":         func(t *testing.T) *Vault { return newVault(t, newMemory(), hybrid.String()) },
		"file of keygen": func(t *testing.T) *Vault { return newVault(t, newMemory(), keygen) },
	}
	for name, make := range vaults {
		t.Run(name, func(t *testing.T) {
			v := make(t)
			ctx := t.Context()
			_, err := v.Get(ctx, "openai/work")
			wantError(t, "get before put", err, ErrNotFound)
			if infos, err := v.List(ctx); err != nil || infos == nil || len(infos) != 0 {
				t.Errorf("list before put: %v, %v", infos, err)
			}

			want := full()
			info, err := v.Put(ctx, want)
			if err != nil {
				t.Fatal(err)
			}
			if info.ID == "" || info.ID == want.ID || time.Since(info.Updated) > time.Minute {
				t.Errorf("ID or time is not new: %+v", info)
			}
			want.ID, want.Updated = info.ID, info.Updated
			got, err := v.Get(ctx, "openai/work")
			if err != nil || !sameCredential(got, want) {
				t.Errorf("got %+v, %v", got, err)
			}

			if err := v.Delete(ctx, "openai/work"); err != nil {
				t.Error(err)
			}
			_, err = v.Get(ctx, "openai/work")
			wantError(t, "get after delete", err, ErrNotFound)
			wantError(t, "second delete", v.Delete(ctx, "openai/work"), ErrNotFound)
		})
	}
}

func TestVault_everyPutIsANewCredential(t *testing.T) {
	v := newVault(t, newMemory(), newIdentity(t).String())
	seen := map[string]bool{}
	for range 100 {
		seen[mustPut(t, v, "openai/work", canary).ID] = true
	}
	if len(seen) != 100 {
		t.Errorf("100 puts made %d IDs", len(seen))
	}
	if c, err := v.Get(t.Context(), "openai/work"); err != nil || c.Generation != 1 {
		t.Errorf("generation is %d, want 1; %v", c.Generation, err)
	}
}

func TestVault_infoIsWhatTheAdminShows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVault(t, newMemory(), newIdentity(t).String())
		info, err := v.Put(t.Context(), Credential{
			Name: "openai/work", Kind: KindStatic, Secret: NewSecret(canary),
			Fields: map[string]Secret{"project": NewSecret(canary), "account_id": NewSecret(canary)},
		})
		if err != nil {
			t.Fatal(err)
		}
		got, _ := json.Marshal(info)
		want := `{"name":"openai/work","kind":"static","id":"` + info.ID +
			`","updated":"2000-01-01T00:00:00Z","fields":["account_id","project"]}`
		if string(got) != want {
			t.Errorf("JSON is\n%s, want\n%s", got, want)
		}

		v.storage.(*memory).values[key("openai/torn")] = []byte("x")
		infos, err := v.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got, _ = json.Marshal(infos)
		want = `[{"name":"openai/torn","kind":"","id":"","fields":[],"error":"` + infos[0].Error + `"},` + want + `]`
		if string(got) != want || infos[0].Error == "" {
			t.Errorf("JSON is\n%s, want\n%s", got, want)
		}
	})
}

func TestVault_refusesBadNames(t *testing.T) {
	storage := newMemory()
	storage.hook = func(_ context.Context, op, key string) error {
		return fmt.Errorf("%s of %q reached the storage", op, key)
	}
	v := newVault(t, storage, newIdentity(t).String())
	ctx := t.Context()
	for _, name := range []string{
		"", "/", "openai", "openai/", "/work", "openai/work/x", "openai//work", "../../x", "openai/..", "./work",
		"Acme/work", "openai/Work", "openai/wo rk", "openai/wörk", "openai/work.age", "openai/-work", "_openai/work",
		"openai\\work", "openai/wo\x00rk", "\x00", "openai/work\n", strings.Repeat("a", 64) + "/work",
		strings.Repeat("a", 4096), "openai/" + strings.Repeat("\xff", 4096),
	} {
		_, getErr := v.Get(ctx, name)
		_, putErr := v.Put(ctx, named(name))
		_, stampErr := v.Stamp(ctx, name)
		for _, err := range []error{getErr, putErr, stampErr, v.Delete(ctx, name)} {
			wantError(t, fmt.Sprintf("%.70q", name), err, ErrInvalid)
			if len(err.Error()) > 500 {
				t.Errorf("%.70q: error of %d bytes repeats the name", name, len(err.Error()))
			}
		}
	}
	for _, name := range []string{"a/b", "0/9", "a_-/b-_", strings.Repeat("a", 63) + "/" + strings.Repeat("z", 63)} {
		if err := checkName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestVault_refusesBadCredentials(t *testing.T) {
	fields := func(n int) map[string]Secret {
		m := map[string]Secret{}
		for i := range n {
			m[fmt.Sprintf("f%d", i)] = NewSecret("x")
		}
		return m
	}
	field := func(name, value string) map[string]Secret { return map[string]Secret{name: NewSecret(value)} }
	cases := map[string]struct {
		secret string
		fields map[string]Secret
		names  string // what the error names; "" if the credential is good
	}{
		"good":                  {canary, field("account_id", canary), ""},
		"longest":               {strings.Repeat("x", maxValueLen), nil, ""},
		"most fields":           {canary, fields(maxFields), ""},
		"spaces and not ASCII":  {"a b ü", nil, ""},
		"longest field name":    {canary, field("a"+strings.Repeat("0", 62), "x"), ""},
		"no secret":             {"", nil, "secret"},
		"line break":            {canary + "\n", nil, "secret"},
		"header injection":      {canary + "\r\nX-Evil: 1", nil, "secret"},
		"NUL":                   {canary + "\x00", nil, "secret"},
		"tab":                   {canary + "\t", nil, "secret"},
		"DEL":                   {canary + "\x7f", nil, "secret"},
		"blank at the end":      {canary + " ", nil, "secret"},
		"blank at the start":    {canary, field("account_id", " x"), "account_id"},
		"not UTF-8":             {canary + "\xff", nil, "secret"},
		"too long":              {canary + strings.Repeat("x", maxValueLen), nil, "secret"},
		"empty field":           {canary, field("account_id", ""), `"account_id"`},
		"line break in a field": {canary, field("account_id", canary+"\n"), `"account_id"`},
		"too long a field":      {canary, field("account_id", canary+strings.Repeat("x", maxValueLen)), `"account_id"`},
		"too many fields":       {canary, fields(maxFields + 1), "33 fields"},
		"field name empty":      {canary, field("", "x"), "field's name"},
		"field name uppercase":  {canary, field("Account", "x"), "field's name"},
		"field name is a key":   {canary, field(canary, "x"), "field's name"},
		"field name too long":   {canary, field(strings.Repeat("a", 64), "x"), "field's name"},
		"field name of a digit": {canary, field("0a", "x"), "field's name"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			storage := newMemory()
			v := newVault(t, storage, newIdentity(t).String())
			_, err := v.Put(t.Context(), Credential{Name: "openai/work", Kind: KindStatic, Secret: NewSecret(c.secret), Fields: c.fields})
			if c.names == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantError(t, "put", err, ErrInvalid)
			if !strings.Contains(fmt.Sprint(err), c.names) || len(fmt.Sprint(err)) > 300 {
				t.Errorf("error does not name %s: %v", c.names, err)
			}
			if len(storage.values) > 0 {
				t.Error("stored all the same")
			}
		})
	}
	v := newVault(t, newMemory(), newIdentity(t).String())
	for _, kind := range []string{"", "Static", canary} {
		_, err := v.Put(t.Context(), Credential{Name: "openai/work", Kind: kind, Secret: NewSecret(canary)})
		wantError(t, "kind", err, ErrInvalid)
	}
}

func TestVault_storageHoldsNoSecretInClear(t *testing.T) {
	storage := newMemory()
	v := newVault(t, storage, newIdentity(t).String())
	if _, err := v.Put(t.Context(), full()); err != nil {
		t.Fatal(err)
	}
	sealed, ok := storage.values["credential_pool/credentials/openai/work.age"]
	if !ok || !strings.HasPrefix(string(sealed), "age-encryption.org/v1\n") || leaks(string(sealed)) {
		t.Errorf("storage holds %q", storage.values)
	}
}

func TestVault_identitiesCanBeRotated(t *testing.T) {
	older, newer, other := newIdentity(t).String(), newIdentity(t).String(), newIdentity(t).String()
	storage := newMemory()
	ctx := t.Context()
	mustPut(t, newVault(t, storage, older), "openai/old", "old")

	both := newVault(t, storage, newer, older)
	if c, err := both.Get(ctx, "openai/old"); err != nil || c.Secret.Reveal() != "old" {
		t.Errorf("with both identities: %v", err)
	}
	mustPut(t, both, "openai/new", "new")

	for name, want := range map[string]error{"openai/old": ErrWrongIdentity, "openai/new": nil} {
		_, err := newVault(t, storage, newer).Get(ctx, name)
		wantError(t, name+" with the newer identity", err, want)
	}
	_, err := newVault(t, storage, older).Get(ctx, "openai/new")
	wantError(t, "what the first identity encrypted, with the second", err, ErrWrongIdentity)
	_, err = newVault(t, storage, newer+"\n"+older).Get(ctx, "openai/old")
	wantError(t, "two keys in one value", err, nil)

	wrong := newVault(t, storage, other)
	_, err = wrong.Get(ctx, "openai/new")
	wantError(t, "a wrong identity", err, ErrWrongIdentity)
	infos, err := wrong.List(ctx)
	if err != nil || len(infos) != 2 || infos[0].Error == "" || infos[1].Error == "" {
		t.Errorf("list with a wrong identity: %+v, %v", infos, err)
	}
}

func TestVault_refusesBadIdentities(t *testing.T) {
	good := newIdentity(t)
	damaged := good.String()[:20] + "HUNTER2" + good.String()[27:]
	for name, text := range map[string]string{
		"empty": "", "blank": " \n", "comments alone": "# hunter2\n", "public key": good.Recipient().String(),
		"no key": canary, "damaged": damaged, "one good, one not": good.String() + "\n" + damaged,
	} {
		_, err := New(newMemory(), []string{good.String(), text}, nil)
		if err == nil || !strings.Contains(err.Error(), "identity 2") {
			t.Errorf("%s: error is %v, want one that names identity 2", name, err)
			continue
		}
		if leaks(err.Error()) || strings.Contains(err.Error(), good.String()[20:40]) {
			t.Errorf("%s: error shows the value: %v", name, err)
		}
	}
}

func TestVault_withoutIdentityAndFilesSaysWhatToSet(t *testing.T) {
	v := newVault(t, newMemory())
	_, putErr := v.Put(t.Context(), full())
	for _, err := range []error{v.CanPut(), putErr} {
		wantError(t, "no identity", err, ErrNoIdentity)
		if !strings.Contains(fmt.Sprint(err), "vault { identity") {
			t.Errorf("error does not say what to set: %v", err)
		}
	}
	for _, v := range []*Vault{
		newVault(t, newMemory(), newIdentity(t).String()),
		newVault(t, &certmagic.FileStorage{Path: t.TempDir()}),
	} {
		if err := v.CanPut(); err != nil {
			t.Error(err)
		}
	}
}

func TestVault_refusesForeignRecord(t *testing.T) {
	storage := newMemory()
	v := newVault(t, storage, newIdentity(t).String())
	mustPut(t, v, "openai/work", canary)
	for _, name := range []string{"openai/home", "anthropic/work"} {
		storage.values[key(name)] = storage.values[key("openai/work")]
		_, err := v.Get(t.Context(), name)
		wantError(t, name, err, ErrForeign)
	}
	if _, err := v.Get(t.Context(), "openai/work"); err != nil {
		t.Errorf("the original: %v", err)
	}
}

func TestVault_passesOnWhatStorageSays(t *testing.T) {
	broken := errors.New("storage is down")
	storage := newMemory()
	v := newVault(t, storage, newIdentity(t).String())
	mustPut(t, v, "openai/work", canary)
	before := slices.Clone(storage.values[key("openai/work")])
	calls := map[string]func(context.Context) error{
		"get":    func(ctx context.Context) error { _, err := v.Get(ctx, "openai/work"); return err },
		"put":    func(ctx context.Context) error { _, err := v.Put(ctx, full()); return err },
		"list":   func(ctx context.Context) error { _, err := v.List(ctx); return err },
		"stamp":  func(ctx context.Context) error { _, err := v.Stamp(ctx, "openai/work"); return err },
		"delete": func(ctx context.Context) error { return v.Delete(ctx, "openai/work") },
	}
	storage.hook = func(context.Context, string, string) error { return broken }
	for name, call := range calls {
		err := call(t.Context())
		wantError(t, name, err, broken)
		if errors.Is(err, ErrNotFound) || errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: a storage that is down is taken for %v", name, err)
		}
	}
	storage.hook = func(_ context.Context, op, _ string) error {
		if op == "delete" {
			return broken
		}
		return nil
	}
	wantError(t, "failing delete", v.Delete(t.Context(), "openai/work"), broken)

	storage.hook = nil
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range calls {
		wantError(t, name+" when canceled", call(ctx), context.Canceled)
	}
	if string(storage.values[key("openai/work")]) != string(before) {
		t.Error("the record has changed")
	}
}

func TestVault_listStopsWhenCanceled(t *testing.T) {
	storage := newMemory()
	v := newVault(t, storage, newIdentity(t).String())
	mustPut(t, v, "openai/a", canary)
	mustPut(t, v, "openai/b", canary)
	ctx, cancel := context.WithCancel(t.Context())
	storage.hook = func(_ context.Context, op, _ string) error {
		if op == "load" {
			cancel()
		}
		return nil
	}
	_, err := v.List(ctx)
	wantError(t, "list", err, context.Canceled)
}

func TestVault_listsTheGoodBesideTheBad(t *testing.T) {
	dir := t.TempDir()
	v := newVault(t, &certmagic.FileStorage{Path: dir})
	for _, name := range []string{"openai/work", "anthropic/key", "openai/torn", "openai/home"} {
		mustPut(t, v, name, canary)
	}
	path := func(name string) string {
		return filepath.Join(dir, "credential_pool", "credentials", filepath.FromSlash(name))
	}
	good, err := os.ReadFile(path("openai/work.age"))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"openai/torn.age":   good[:len(good)-9],
		"openai/empty.age":  {},
		"openai/copy.age":   good,
		"openai/Upper.age":  good,
		"stray.age":         good,
		"openai/1234567890": good, // as file storage names its temporary files
	} {
		if err := os.WriteFile(path(name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(path("openai/folder.age"), 0o700); err != nil {
		t.Fatal(err)
	}

	infos, err := v.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, info := range infos {
		state := "good"
		if info.Error != "" {
			state = "bad"
		}
		got = append(got, info.Name+" "+state)
		if leaks(info.Error) || info.Fields == nil {
			t.Errorf("%+v", info)
		}
	}
	want := []string{
		"anthropic/key good", "openai/Upper bad", "openai/copy bad", "openai/empty bad", "openai/folder bad",
		"openai/home good", "openai/torn bad", "openai/work good", "stray bad",
	}
	if !slices.Equal(got, want) {
		t.Errorf("list is %q\nwant %q", got, want)
	}
}

func TestVault_listLeavesOutWhatWasDeletedMeanwhile(t *testing.T) {
	storage := newMemory()
	v := newVault(t, storage, newIdentity(t).String())
	mustPut(t, v, "openai/work", canary)
	storage.hook = func(_ context.Context, op, _ string) error {
		if op == "load" {
			return fs.ErrNotExist
		}
		return nil
	}
	if infos, err := v.List(t.Context()); err != nil || len(infos) != 0 {
		t.Errorf("list is %+v, %v", infos, err)
	}
}

func TestVault_aPartOfTheListIsNotTheWhole(t *testing.T) {
	storage := newMemory()
	v := newVault(t, storage, newIdentity(t).String())
	mustPut(t, v, "openai/work", canary)
	interrupted := 0
	storage.hook = func(_ context.Context, op, _ string) error {
		if op == "list" && interrupted > 0 {
			interrupted--
			return fs.ErrNotExist
		}
		return nil
	}
	interrupted = 3
	if infos, err := v.List(t.Context()); err != nil || len(infos) != 1 {
		t.Errorf("after a few interruptions: %+v, %v", infos, err)
	}
	interrupted = 1 << 30
	_, err := v.List(t.Context())
	wantError(t, "always interrupted", err, fs.ErrNotExist)
}

func TestStamp_isSettledOnceTheTickIsOver(t *testing.T) {
	at := time.Unix(1000, 0)
	s := Stamp{modified: at.UnixNano(), size: 1}
	for age, want := range map[time.Duration]bool{0: false, 10 * time.Millisecond: false, -10 * time.Millisecond: false, 2 * time.Second: true, -time.Hour: true} {
		if got := s.Settled(at.Add(age)); got != want {
			t.Errorf("after %s: %v", age, got)
		}
	}
}

func TestVault_stampTellsOfChanges(t *testing.T) {
	dir := t.TempDir()
	v, other := newVault(t, &certmagic.FileStorage{Path: dir}), newVault(t, &certmagic.FileStorage{Path: dir})
	stamp := func() Stamp {
		t.Helper()
		s, err := v.Stamp(t.Context(), "openai/work")
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	_, err := v.Stamp(t.Context(), "openai/work")
	wantError(t, "before the first put", err, ErrNotFound)

	path := filepath.Join(dir, "credential_pool", "credentials", "openai", "work.age")
	at := func(when time.Time) {
		t.Helper()
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	then := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

	mustPut(t, v, "openai/work", "one")
	at(then)
	first := stamp()
	if stamp() != first {
		t.Error("stamp changed by itself")
	}
	mustPut(t, other, "openai/work", "three")
	at(then)
	second := stamp()
	if second == first {
		t.Error("stamp is the same for another size")
	}
	at(then.Add(time.Second))
	if stamp() == second {
		t.Error("stamp is the same for another time")
	}
}

func TestVault_concurrentUse(t *testing.T) {
	v := newVault(t, &certmagic.FileStorage{Path: t.TempDir()})
	mustPut(t, v, "openai/m0", canary)
	var group sync.WaitGroup
	for i := range 8 {
		name := fmt.Sprintf("openai/m%d", i%4)
		group.Go(func() {
			for range 10 {
				if _, err := v.Put(t.Context(), named(name)); err != nil {
					t.Error(err)
				}
				if _, err := v.Get(t.Context(), name); err != nil {
					t.Error(err)
				}
				if _, err := v.Stamp(t.Context(), name); err != nil {
					t.Error(err)
				}
				infos, err := v.List(t.Context())
				if err != nil {
					t.Error(err)
				}
				for _, info := range infos {
					if info.Error != "" {
						t.Errorf("%s: %s", info.Name, info.Error)
					}
				}
			}
		})
	}
	group.Wait()
}

// observed returns a logger and what it has logged.
func observed() (*zap.Logger, *observer.ObservedLogs) {
	core, logs := observer.New(zap.DebugLevel)
	return zap.New(core), logs
}

package vault

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"pgregory.net/rapid"
)

func newIdentity(t testing.TB) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// sealPlain encrypts any content, as somebody who knows the public key could.
func sealPlain(t testing.TB, plain []byte, to age.Recipient) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := age.Encrypt(&out, to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func full() Credential {
	return Credential{
		Name: "openai/work", Kind: KindStatic, ID: "ID1", Generation: 1,
		Updated: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Secret:  NewSecret(canary),
		Fields:  map[string]Secret{"account_id": NewSecret("acct-" + canary)},
	}
}

// named is the credential under another name.
func named(name string) Credential {
	c := full()
	c.Name = name
	return c
}

// sameCredential compares all of two credentials, values included.
func sameCredential(a, b Credential) bool {
	if a.Name != b.Name || a.Kind != b.Kind || a.ID != b.ID || a.Generation != b.Generation ||
		!a.Updated.Equal(b.Updated) || a.Secret.Reveal() != b.Secret.Reveal() || len(a.Fields) != len(b.Fields) {
		return false
	}
	for name, value := range a.Fields {
		if other, ok := b.Fields[name]; !ok || other.Reveal() != value.Reveal() {
			return false
		}
	}
	return true
}

func TestRecord_comesBackAsItWas(t *testing.T) {
	id := newIdentity(t)
	value := rapid.Custom(func(t *rapid.T) Secret {
		s := rapid.StringOfN(rapid.Rune().Filter(func(r rune) bool { return r >= ' ' && r != 0x7f }), 1, 50, maxValueLen-2).Draw(t, "value")
		return NewSecret("(" + s + ")") // a space may stand anywhere but at the ends
	})
	rapid.Check(t, func(t *rapid.T) {
		want := Credential{
			Name: rapid.StringMatching(`[a-z0-9][a-z0-9_-]{0,62}/[a-z0-9][a-z0-9_-]{0,62}`).Draw(t, "name"),
			Kind: KindStatic, ID: rapid.StringMatching(`[A-Z2-7]{26}`).Draw(t, "id"),
			Generation: rapid.Uint64Min(1).Draw(t, "generation"),
			Updated:    time.Unix(rapid.Int64Range(0, 250000000000).Draw(t, "updated"), 0).UTC(),
			Secret:     value.Draw(t, "secret"),
			Fields:     rapid.MapOfN(rapid.StringMatching(`[a-z][a-z0-9_]{0,62}`), value, 0, maxFields).Draw(t, "fields"),
		}
		if err := errors.Join(checkName(want.Name), want.check()); err != nil {
			t.Fatalf("refused: %v", err)
		}
		sealed, err := seal(want, id.Recipient())
		if err != nil {
			t.Fatal(err)
		}
		got, err := open(sealed, want.Name, []age.Identity{id})
		if err != nil || !sameCredential(got, want) {
			t.Fatalf("came back different: %v", err)
		}
	})
}

func TestRecord_largestCredentialFits(t *testing.T) {
	id := newIdentity(t)
	for _, worst := range []string{`"`, `\`, "<", "\u2028", "\u2028\u2029"} {
		value := NewSecret(strings.Repeat(worst, maxValueLen/len(worst)))
		c := full()
		c.Secret, c.Fields = value, map[string]Secret{}
		for i := range maxFields {
			c.Fields[fmt.Sprintf("f%02d%s", i, strings.Repeat("x", maxNameLen-3))] = value
		}
		if err := c.check(); err != nil {
			t.Fatal(err)
		}
		sealed, err := seal(c, id.Recipient())
		if err != nil {
			t.Fatal(err)
		}
		got, err := open(sealed, c.Name, []age.Identity{id})
		if err != nil || !sameCredential(got, c) {
			t.Errorf("%q: record of %d bytes came back different: %v", worst, len(sealed), err)
		}
	}
}

func TestRecord_tornAnywhereIsAnError(t *testing.T) {
	id := newIdentity(t)
	sealed, err := seal(full(), id.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	for n := range sealed {
		c, err := open(sealed[:n], "openai/work", []age.Identity{id})
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("first %d of %d bytes: %v, want ErrCorrupt", n, len(sealed), err)
		}
		if !c.Secret.IsZero() || c.Name != "" {
			t.Errorf("first %d of %d bytes gave a part of the credential", n, len(sealed))
		}
	}
}

func TestRecord_ofSeveralChunksIsNotUsedInPart(t *testing.T) {
	const chunk = 64 << 10 // of age: each is authenticated by itself
	id := newIdentity(t)
	plain := `{"version":1,"name":"openai/work","kind":"static","id":"X","generation":1,` +
		`"updated":"2026-01-02T03:04:05Z","secret":"` + canary + `"}`
	sealed := sealPlain(t, []byte(plain+strings.Repeat(" ", 3*chunk-len(plain))), id.Recipient())
	if _, err := open(sealed, "openai/work", []age.Identity{id}); err != nil {
		t.Fatal(err)
	}
	for cut := 1; cut < 2*chunk; cut += 4099 {
		if _, err := open(sealed[:len(sealed)-cut], "openai/work", []age.Identity{id}); !errors.Is(err, ErrCorrupt) {
			t.Errorf("without its last %d bytes: %v, want ErrCorrupt", cut, err)
		}
	}
	whole := chunk + 16
	if _, err := open(sealed[:len(sealed)-whole], "openai/work", []age.Identity{id}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("without its last chunk: %v, want ErrCorrupt", err)
	}
}

func TestRecord_flippedBitAnywhereIsAnError(t *testing.T) {
	id := newIdentity(t)
	sealed, err := seal(full(), id.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	for i := range sealed {
		damaged := bytes.Clone(sealed)
		damaged[i] ^= 1 << (i % 8)
		_, err := open(damaged, "openai/work", []age.Identity{id})
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrWrongIdentity) {
			t.Errorf("bit flipped in byte %d: %v", i, err)
		}
	}
	if _, err := open(append(sealed, 0), "openai/work", []age.Identity{id}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a byte more: %v, want ErrCorrupt", err)
	}
}

func TestRecord_contentIsChecked(t *testing.T) {
	type doc = map[string]any
	cases := map[string]struct {
		change func(doc)
		want   error // nil: accepted
	}{
		"as it is":              {func(doc) {}, nil},
		"key of the future":     {func(d doc) { d["note"] = "x" }, nil},
		"no fields":             {func(d doc) { delete(d, "fields") }, nil},
		"no version":            {func(d doc) { delete(d, "version") }, ErrCorrupt},
		"newer version":         {func(d doc) { d["version"] = 2 }, ErrCorrupt},
		"other name":            {func(d doc) { d["name"] = "openai/home" }, ErrForeign},
		"no name":               {func(d doc) { delete(d, "name") }, ErrForeign},
		"unknown kind":          {func(d doc) { d["kind"] = canary }, ErrCorrupt},
		"no id":                 {func(d doc) { d["id"] = "" }, ErrCorrupt},
		"id with line break":    {func(d doc) { d["id"] = "a\nb" }, ErrCorrupt},
		"generation 0":          {func(d doc) { d["generation"] = 0 }, ErrCorrupt},
		"generation negative":   {func(d doc) { d["generation"] = -1 }, ErrCorrupt},
		"no time":               {func(d doc) { delete(d, "updated") }, ErrCorrupt},
		"time of year 10000":    {func(d doc) { d["updated"] = "9999-12-31T23:59:59-01:00" }, ErrCorrupt},
		"time before year 0":    {func(d doc) { d["updated"] = "0000-01-01T00:00:00+01:00" }, ErrCorrupt},
		"no secret":             {func(d doc) { delete(d, "secret") }, ErrCorrupt},
		"secret is a number":    {func(d doc) { d["secret"] = 4242424242 }, ErrCorrupt},
		"secret has line break": {func(d doc) { d["secret"] = canary + "\r\nX-Evil: 1" }, ErrCorrupt},
		"field has line break":  {func(d doc) { d["fields"] = doc{"account_id": canary + "\n"} }, ErrCorrupt},
		"field of a bad name":   {func(d doc) { d["fields"] = doc{canary: "x"} }, ErrCorrupt},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			d := doc{
				"version": 1, "name": "openai/work", "kind": "static", "id": "ID1", "generation": 1,
				"updated": "2026-01-02T03:04:05Z", "secret": canary, "fields": doc{"account_id": "a"},
			}
			c.change(d)
			plain, err := json.Marshal(d)
			if err != nil {
				t.Fatal(err)
			}
			got, err := decode(plain, "openai/work")
			if !errors.Is(err, c.want) {
				t.Fatalf("error is %v, want %v", err, c.want)
			}
			if c.want != nil && (leaks(err.Error()) || strings.Contains(err.Error(), "4242424242")) {
				t.Errorf("error shows a value: %v", err)
			}
			if _, err := json.Marshal(got.info()); err != nil {
				t.Errorf("can't be listed: %v", err)
			}
		})
	}
}

func TestRecord_thatIsNoneIsCorrupt(t *testing.T) {
	id := newIdentity(t)
	good := `{"version":1,"name":"openai/work","kind":"static","id":"X","generation":1,` +
		`"updated":"2026-01-02T03:04:05Z","secret":"` + canary + `"}`
	if _, err := decode([]byte(good+" \n"), "openai/work"); err != nil {
		t.Fatalf("the good one: %v", err)
	}
	cases := map[string][]byte{
		"empty file":        {},
		"in the clear":      []byte(canary),
		"JSON in the clear": []byte(good),
		"clear after intro": []byte("age-encryption.org/v1\n-> " + canary + "\n" + canary + "!\n"),
		"too large":         sealPlain(t, []byte(good+strings.Repeat(" ", maxRecordSize)), id.Recipient()),
		"empty content":     sealPlain(t, nil, id.Recipient()),
		"null":              sealPlain(t, []byte("null"), id.Recipient()),
		"not JSON":          sealPlain(t, []byte(canary), id.Recipient()),
		"a list":            sealPlain(t, []byte(`["`+canary+`"]`), id.Recipient()),
		"half of the JSON":  sealPlain(t, []byte(good[:len(good)/2]), id.Recipient()),
		"trailing byte":     sealPlain(t, []byte(good+"x"), id.Recipient()),
		"two documents":     sealPlain(t, []byte(good+good), id.Recipient()),
	}
	for name, data := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := open(data, "openai/work", []age.Identity{id})
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("error is %v, want ErrCorrupt", err)
			}
			if leaks(err.Error()) || strings.Contains(err.Error(), "canary") {
				t.Errorf("error shows the content: %v", err)
			}
		})
	}
}

func FuzzOpen(f *testing.F) {
	id := newIdentity(f)
	sealed, err := seal(full(), id.Recipient())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add(sealed[:len(sealed)-1])
	f.Add([]byte("age-encryption.org/v1\n--- AAAA\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := open(data, "openai/work", []age.Identity{id})
		if err == nil && !bytes.Equal(data, sealed) {
			t.Fatal("accepted what was never sealed")
		}
		if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrWrongIdentity) && !errors.Is(err, ErrForeign) {
			t.Fatalf("error of no kind: %v", err)
		}
	})
}

func FuzzDecode(f *testing.F) {
	const name = "openai/work"
	good := `{"version":1,"name":"openai/work","kind":"static","id":"X","generation":1,` +
		`"updated":"2026-01-02T03:04:05Z","secret":"s","fields":{"a":"b"}}`
	f.Add([]byte(good))
	f.Add([]byte(good + "{}"))
	f.Add([]byte(strings.Replace(good, `"s"`, `"\u0000"`, 1)))
	f.Add([]byte(strings.Replace(good, "2026", "0000", 1)))
	id := newIdentity(f)
	f.Fuzz(func(t *testing.T, plain []byte) {
		c, err := decode(plain, name)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrForeign) {
				t.Fatalf("error of no kind: %v", err)
			}
			return
		}
		// What is accepted can be put, listed, and read again as the same.
		if err := c.check(); err != nil || c.Name != name {
			t.Fatalf("accepted %q, which no put accepts: %v", c.Name, err)
		}
		if _, err := json.Marshal(c.info()); err != nil {
			t.Fatalf("accepted what can't be listed: %v", err)
		}
		sealed, err := seal(c, id.Recipient())
		if err != nil {
			t.Fatal(err)
		}
		again, err := open(sealed, name, []age.Identity{id})
		if err != nil || !sameCredential(again, c) {
			t.Fatalf("came back different: %v", err)
		}
	})
}

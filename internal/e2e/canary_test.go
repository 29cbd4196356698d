package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// canary is a secret that is made to be searched for. What stands between its
// ends is the same in a URL and in JSON, but not the ends.
type canary struct{ core string }

// newCanary returns a secret of 40 bytes.
func newCanary() canary {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return canary{hex.EncodeToString(b)}
}

func (c canary) secret() string { return "sk-+" + c.core + "/=&%" }

// traces are the forms in which the secret could be written down: as it is, as
// hex, or as base64 within something longer, where it may start at any of three
// offsets and its first and last digits depend on what is around it.
func (c canary) traces() []string {
	traces := []string{c.core, strings.ToUpper(c.core), hex.EncodeToString([]byte(c.core))}
	for offset := range 3 {
		padded := append(make([]byte, offset), c.core...)
		whole := base64.RawStdEncoding.EncodeToString(padded[:len(padded)/3*3])
		if offset > 0 {
			whole = whole[4:]
		}
		traces = append(traces, whole)
	}
	return traces
}

// evidence collects everything that a test can see from outside, to be searched
// for canaries at its end.
type evidence struct {
	mu       sync.Mutex
	canaries []canary
	places   map[string]*bytes.Buffer
}

func newEvidence(t *testing.T) *evidence {
	e := &evidence{places: make(map[string]*bytes.Buffer)}
	t.Cleanup(func() {
		for _, found := range e.search() {
			t.Error(found)
		}
	})
	return e
}

// canary makes a secret that must not be found in any evidence.
func (e *evidence) canary() string {
	c := newCanary()
	e.watch(c)
	return c.secret()
}

func (e *evidence) watch(c canary) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.canaries = append(e.canaries, c)
}

// add keeps what was seen at a place.
func (e *evidence) add(place string, seen []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	b := e.places[place]
	if b == nil {
		b = new(bytes.Buffer)
		e.places[place] = b
	}
	b.Write(seen)
	b.WriteByte('\n')
}

// traceStart is a length that no trace falls below.
const traceStart = 32

// trace is one form of one secret.
type trace struct {
	secret, form int
	text         string
}

// search returns a line for each place that holds a secret. All traces are looked
// up at once, by their starts, since there may be thousands.
func (e *evidence) search() (found []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	starts := make(map[string][]trace)
	for i, c := range e.canaries {
		for form, text := range c.traces() {
			starts[text[:traceStart]] = append(starts[text[:traceStart]], trace{i, form, text})
		}
	}
	for place, b := range e.places {
		seen, told := b.Bytes(), make(map[string]bool)
		for at := 0; at+traceStart <= len(seen); at++ {
			for _, tr := range starts[string(seen[at:at+traceStart])] {
				if bytes.HasPrefix(seen[at:], []byte(tr.text)) && !told[tr.text] {
					told[tr.text] = true
					line := seen[bytes.LastIndexByte(seen[:at], '\n')+1 : at]
					found = append(found, fmt.Sprintf("secret %d is in %s (form %d), after: %.300s", tr.secret, place, tr.form, line))
				}
			}
		}
	}
	return found
}

func TestCanary_isFoundHoweverItIsWritten(t *testing.T) {
	t.Parallel()
	c := newCanary()
	secret := c.secret()
	for form, written := range map[string]string{
		"as it is":         secret,
		"in a header":      "Authorization: Bearer " + secret,
		"in JSON":          fmt.Sprintf("%q", secret),
		"in a URL's query": "/?key=" + url.QueryEscape(secret),
		"in a URL's path":  "/" + url.PathEscape(secret),
		"hex":              hex.EncodeToString([]byte(secret)),
		"base64":           base64.StdEncoding.EncodeToString([]byte(secret)),
		"base64, offset 1": base64.StdEncoding.EncodeToString([]byte(":" + secret)),
		"base64, offset 2": base64.StdEncoding.EncodeToString([]byte("u:" + secret)),
		"base64 for URLs":  base64.RawURLEncoding.EncodeToString([]byte("Bearer " + secret)),
	} {
		e := &evidence{places: make(map[string]*bytes.Buffer), canaries: []canary{c}}
		e.add("a place", []byte("something "+written+" else"))
		if len(e.search()) == 0 {
			t.Errorf("not found %s", form)
		}
	}
	e := &evidence{places: make(map[string]*bytes.Buffer), canaries: []canary{newCanary()}}
	e.add("a place", []byte(secret))
	if found := e.search(); len(found) != 0 {
		t.Errorf("found what is another secret: %q", found)
	}
}

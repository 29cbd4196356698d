package classify

import (
	"net/http"
	"slices"
	"testing"
	"time"
)

// FuzzWaits gives any text to every parser of a wait, and to every provider's
// places of one, in the answer's headers and in its body.
func FuzzWaits(f *testing.F) {
	for _, seed := range []string{
		"2", "0", "-1", "1e9", "1000000000", "99999999999999999999", " 5 ", "1772366460", "1772366460000", "2m59.56s", "9m38.016s",
		"Sun, 01 Mar 2026 12:01:00 GMT", "2026-03-01T12:01:00Z", `"api";r=0;t=55, "b";r=1;t=5`, "limit=1, remaining=0, reset=9",
		"try again in 1 hour and 5 minutes", "until 2026-03-02 at 00:00 UTC", "wait 0:43:12", "3.05:11:22", "1ms1ms", "1.7976931348623157e308s",
	} {
		f.Add(seed, "0")
	}
	f.Fuzz(func(t *testing.T, text, other string) {
		check := func(place string, wait time.Duration, ok bool) {
			if wait < 0 || wait > maxWait || (!ok && wait != 0) {
				t.Errorf("%s: %q gives %v, %v", place, text, wait, ok)
			}
		}
		a := &Answer{Status: 429, Header: http.Header{"Date": {other}}, Now: testNow}
		e := newEvidence(a)
		for place, parse := range map[string]func() (time.Duration, bool){
			"seconds":      func() (time.Duration, bool) { return parseSeconds(text) },
			"retry-after":  func() (time.Duration, bool) { return parseRetryAfter(text, e) },
			"milliseconds": func() (time.Duration, bool) { return parseMilliseconds(text, e) },
			"reset":        func() (time.Duration, bool) { return parseReset(text, a) },
			"epoch":        func() (time.Duration, bool) { return parseEpoch(text, a) },
			"instant":      func() (time.Duration, bool) { return parseInstant(text, a) },
			"prose":        func() (time.Duration, bool) { return cutInstant(text, a) },
		} {
			wait, ok := parse()
			check(place, wait, ok)
		}
		if wait, ok := parseDuration(text); ok {
			check("duration", wait, ok)
		}
		for _, p := range providers {
			e := newEvidence(a)
			for _, key := range slices.Concat(secondsKeys, instantKeys, millisecondsKeys) {
				e.add(fact{key: key, text: text})
			}
			e.add(fact{key: "message", text: text})
			for _, w := range p.Waits {
				a.Header[w.Name] = []string{text, other}
			}
			a.Header["Ratelimit"] = []string{text}
			a.Header["X-Codex-Primary-Reset-After-Seconds"] = []string{text}
			a.Header[unifiedPrefix+"5h-Status"], a.Header[unifiedPrefix+"5h-Reset"] = []string{"rejected"}, []string{text}
			for _, w := range p.Waits {
				wait, ok := w.find(e)
				check(p.Name+" "+w.Name, wait, ok)
			}
		}
	})
}

package classify

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

var testNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"174ms":                   174 * time.Millisecond,
		"1s":                      time.Second,
		"7.66s":                   7660 * time.Millisecond,
		"2m59.56s":                179560 * time.Millisecond,
		"9m38.016s":               578016 * time.Millisecond,
		"114h18m0s":               411480 * time.Second,
		"25h20m26.179915352s":     91226179915352,
		"86400 seconds":           day,
		"1 hour, 5 minutes":       65 * time.Minute,
		"1 hour and 5 minutes":    65 * time.Minute,
		"2 days 3 hours":          51 * time.Hour,
		"1 Week":                  7 * day,
		"0:43:12":                 43*time.Minute + 12*time.Second,
		"3.05:11:22":              3*day + 5*time.Hour + 11*time.Minute + 22*time.Second,
		"0s":                      0,
		"99999999999999999999h":   maxWait,
		"9999999h9999999h9999d1s": maxWait,
	} {
		if got, ok := parseDuration(text); !ok || got != want {
			t.Errorf("%q: %v %v, want %v", text, got, ok, want)
		}
	}
	for _, text := range []string{
		"", "s", "1", "1.s", ".5s", "-1s", "1e3s", "1 fortnight", "1sx", "1µs", "5:30", "1:2:3:", "1s 2", "a few minutes", "1,5s", "0x1s",
	} {
		if got, ok := parseDuration(text); ok {
			t.Errorf("%q: %v, want none", text, got)
		}
	}
}

func TestParseReset(t *testing.T) {
	a := &Answer{Now: testNow}
	for text, want := range map[string]time.Duration{
		"60":                            time.Minute,
		" 1.5 ":                         1500 * time.Millisecond,
		"0":                             0,
		"1772366460":                    time.Minute,
		"1772366460000":                 time.Minute,
		"1772366460.5":                  60500 * time.Millisecond,
		"6m0s":                          6 * time.Minute,
		"2026-03-01T12:01:00Z":          time.Minute,
		"2026-03-01T13:01:00.25+01:00":  time.Minute + 250*time.Millisecond,
		"Sun, 01 Mar 2026 12:01:00 GMT": time.Minute,
		"9999-12-31T23:59:59Z":          maxWait,
	} {
		if got, ok := parseReset(text, a); !ok || got != want {
			t.Errorf("%q: %v %v, want %v", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "soon", "-1", "1772366399", "2026-03-01T11:59:59Z", "1e12", "99999999999999999999999999", "NaN", "+5"} {
		if got, ok := parseReset(text, a); ok {
			t.Errorf("%q: %v, want none", text, got)
		}
	}
}

func TestProse(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"Please try again in 174ms. Visit https://x/1s":            174 * time.Millisecond,
		"Try again in 2 days 3 hours.":                             51 * time.Hour,
		"Please retry after 86400 seconds. Please contact support": day,
		"Your quota will reset after 25h20m26s.":                   91226 * time.Second,
		"Please retry in 41.5s.":                                   41500 * time.Millisecond,
		"Please wait 47380 seconds before retrying.":               47380 * time.Second,
		"wait for at least 5 minutes":                              0, // two fillers
		"Please wait for 5 minutes":                                5 * time.Minute,
		"Please wait about 1 minute":                               time.Minute,
		"Try again in 1s, or try again in 3s":                      3 * time.Second,
		"Try again in 20s, 3 requests are left":                    20 * time.Second,
		"You will regain access on 2026-03-02 at 00:00 UTC.":       12 * time.Hour,
		"Try again at 2026-03-01T12:30:00Z.":                       30 * time.Minute,
		"Limited until 2026-03-01 12:00:30.5 UTC (then not)":       30 * time.Second,
		"Resets at 2026-03-01T14:00:00+01:00":                      time.Hour,
		"Resets on 2026-03-02, at last":                            12 * time.Hour,
		"Please wait a few minutes before you try again.":          0,
		"Please try again later.":                                  0,
		"Try again in 0s":                                          0,
		"Limit 3 / 60s":                                            0,
		"until 2026-13-45 at 99:99 UTC":                            0,
		"until 2025-01-01":                                         0,
		"Usage resets over a rolling 24-hour window — tokens (actual/limit): 10653/1000000": 0,
	} {
		e := &evidence{Answer: &Answer{Now: testNow}}
		e.add(fact{key: "message", text: text})
		if got, _ := findProse(e); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

func TestProse_leavesOutWhatIsQuoted(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"The model `try again in 7 days` is limited. Try again in 2s": 2 * time.Second,
		"The model 'x', “z”, [try again in 7 days] is limited":        0,
		"Neither is 'x try again in 7 days":                           0,
		"You can't, but don't despair: try again in 3s":               3 * time.Second,
		"model: x, try again in 7 days":                               0,
	} {
		e := &evidence{Answer: &Answer{Now: testNow}}
		e.add(fact{key: "message", text: text})
		if got, _ := findProse(e); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

// "1h" may be the start of 1h30m.
func TestProse_cut(t *testing.T) {
	e := newEvidence(&Answer{Status: 429, Now: testNow, Body: []byte(`{"message":"Please try again in 1h`)})
	if got, ok := findProse(e); ok {
		t.Errorf("waits %v", got)
	}
}

func TestFields(t *testing.T) {
	for body, want := range map[string]time.Duration{
		`{"retry_after":1.5}`:                                    1500 * time.Millisecond,
		`{"retry_after":"20s"}`:                                  20 * time.Second,
		`{"error":{"retry_after_ms":250}}`:                       250 * time.Millisecond,
		`{"error":{"resets_in_seconds":13872,"resets_at":1}}`:    13872 * time.Second,
		`{"error":{"resets_at":1772366460}}`:                     time.Minute,
		`{"error":{"resets_at":"2026-03-01T12:01:00.000Z"}}`:     time.Minute,
		`{"error":{"details":[{"retryDelay":"91226.1799s"}]}}`:   91226179900 * time.Microsecond,
		`{"error":{"resets_in_seconds":{"seconds":5}}}`:          0,
		`{"error":{"resets_in_seconds":null}}`:                   0,
		`{"error":{"resets_in_seconds":-5}}`:                     0,
		`{"error":{"resets_in_seconds":1387`:                     0, // cut
		`{"error":{"details":[{"retryDelay":"91226.1`:            0, // cut
		`{"input":{"resets_in_seconds":13872}}`:                  0, // the user's
		`{"error":{"\u0072etry_after":5,"message":"retry_\""}}`:  0,
		`[{"error":{"retryAfter":"7"}}]`:                         7 * time.Second,
		`{"error":{"headers":{"retry_after":"7"}}}`:              0,
		`{"error":{"error":{"error":{"error":{"resets_at":1}}}}`: 0,
	} {
		e := newEvidence(&Answer{Status: 429, Now: testNow, Body: []byte(body)})
		if got, _ := findFields(e); got != want {
			t.Errorf("%s: %v, want %v", body, got, want)
		}
	}
}

func TestRateLimitField(t *testing.T) {
	for value, want := range map[string]time.Duration{
		`"api";r=0;t=55`:                    55 * time.Second,
		`"api";t=55`:                        55 * time.Second,
		`"api";r=1;t=55`:                    0,
		`"a,b;r=1";r=0;t=5, "c\"";r=0;t=6`:  6 * time.Second,
		`limit=100, remaining=0, reset=50`:  50 * time.Second,
		`limit=100, remaining=10, reset=50`: 0,
		`"api";r=0`:                         0,
		`"api";r=0;t=-1`:                    0,
		`"unended;r=0;t=5`:                  0,
		``:                                  0,
	} {
		e := newEvidence(&Answer{Status: 429, Header: http.Header{"Ratelimit": {value}}})
		if got, _ := rateLimitFieldWait.find(e); got != want {
			t.Errorf("%s: %v, want %v", value, got, want)
		}
		if got := rateLimitIsSpent(value); got && want == 0 {
			t.Errorf("%s: spent", value)
		}
	}
}

func TestScan_forgives(t *testing.T) {
	for body, want := range map[string]string{
		`{"error":{"code":"a\u0062\n\/\"c\ud83d"}}`:       "ab /\"c\ufffd",
		`{"error":{"code":"x","code2":`:                   "x",
		`{"a":{"code":"user"},"error":{"code":"x"}}`:      "x",
		`{"a":[[[[[[[[[[{"code":"u"}]]]]]]]]]],"code":1}`: "1",
		`{"code":"x","a":{"error":{"code":"user"}}}`:      "x",
		`{"code":"cut`:                 "",
		`{}}}]]{"code":"x"}`:           "x",
		`{"code" : true , "b" : null}`: "true",
		`[["code","x"]]`:               "",
		`{"detail":{"code":"d"}}`:      "d",
		`{"":{"code":"x"}}`:            "",
		"\ufeff \n{\"code\":\"x\"}":    "x",
	} {
		e := newEvidence(&Answer{Status: 400, Body: []byte(body)})
		got := ""
		for _, f := range e.facts {
			if f.isCode {
				got = f.text
			}
		}
		if got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
}

func TestNextEvent(t *testing.T) {
	stream := ": comment\n\nevent: a\r\ndata: 1\r\ndata:2\r\n\r\ndata: {\rid: 7\r\rretry: 5\n\nevent: b"
	for _, want := range [][2]string{{"a", "1\n2"}, {"", "{"}, {"b", ""}, {"", ""}} {
		kind, data, rest := nextEvent([]byte(stream))
		if kind != want[0] || string(data) != want[1] {
			t.Errorf("%q: %q %q, want %q", stream, kind, data, want)
		}
		stream = string(rest)
	}
}

// What only code says must be said in words too.
func TestRules_sayWhatTheyAsk(t *testing.T) {
	for _, p := range append(slices.Clone(providers), &Provider{Name: "token", Rules: tokenRules}) {
		for _, r := range slices.Concat(p.Rules, p.Success) {
			if r.Conditions() == "" || (r.Also == "") != (r.headerIf == nil && r.bodyIf == nil) {
				t.Errorf("%s: rule %s: %q", p.Name, r.Name, r.Conditions())
			}
			for _, h := range r.Header {
				if (h.Also == "") != (h.value == nil) {
					t.Errorf("%s: rule %s: header %s", p.Name, r.Name, h.Name)
				}
			}
			if (r.Scope == pool.ScopeModel) != (r.key != nil) {
				t.Errorf("%s: rule %s: scope %q and its key", p.Name, r.Name, r.Scope)
			}
		}
	}
}

func TestKeyOf(t *testing.T) {
	for name, want := range map[string]string{
		"search": "resource:search", " Code_Search ": "resource:code_search", "": "", " ": "", "a b": "", "x\n": "resource:x", "é": "",
		string(make([]byte, 65)): "",
	} {
		if got := keyOf("resource", name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

package classify_test

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/pool/classify"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func lookup(tb testing.TB, name string) *classify.Provider {
	tb.Helper()
	p, ok := classify.Lookup(name)
	if !ok {
		tb.Fatalf("no provider %q", name)
	}
	return p
}

func TestGeneric_meaning(t *testing.T) {
	for _, test := range []struct {
		name   string
		status int
		body   string
		want   pool.Verdict
	}{
		{"continue", 100, "", pool.Verdict{Meaning: pool.OK, Scope: pool.ScopeMember}},
		{"switching protocols", 101, "", pool.Verdict{Meaning: pool.OK, Scope: pool.ScopeMember}},
		{"ok", 200, `{"id":"1"}`, pool.Verdict{Meaning: pool.OK, Scope: pool.ScopeMember}},
		{"ok that speaks of a quota", 200, `{"error":"insufficient_quota"}`, pool.Verdict{Meaning: pool.OK, Scope: pool.ScopeMember}},
		{"created", 201, "", pool.Verdict{Meaning: pool.OK, Scope: pool.ScopeMember}},
		{"no content", 204, "", pool.Verdict{Meaning: pool.OK, Scope: pool.ScopeMember}},
		{"redirect", 307, "", pool.Verdict{Meaning: pool.OK, Scope: pool.ScopeMember}},
		{"not modified", 304, "", pool.Verdict{Meaning: pool.OK, Scope: pool.ScopeMember}},

		{"too many requests", 429, "", pool.Verdict{Meaning: pool.RateLimited, Scope: pool.ScopeMember}},
		{"too many requests, whatever the body", 429, `{"code":"insufficient_quota"}`, pool.Verdict{Meaning: pool.RateLimited, Scope: pool.ScopeMember}},
		{"unauthorized", 401, `{"error":"bad key"}`, pool.Verdict{Meaning: pool.AuthFailed, Scope: pool.ScopeMember}},

		{"forbidden: rate limit", 403, `{"error":{"code":"rate_limit_exceeded"}}`, pool.Verdict{Meaning: pool.RateLimited, Scope: pool.ScopeMember}},
		{"forbidden: rate limit in other case", 403, `RATE_LIMIT_Exceeded`, pool.Verdict{Meaning: pool.RateLimited, Scope: pool.ScopeMember}},
		{"forbidden: insufficient quota", 403, `{"type":"insufficient_quota"}`, pool.Verdict{Meaning: pool.QuotaExhausted, Scope: pool.ScopeMember}},
		{"forbidden: quota exceeded", 403, `{"reason":"QUOTA_EXCEEDED"}`, pool.Verdict{Meaning: pool.QuotaExhausted, Scope: pool.ScopeMember}},
		{"forbidden: quota exhausted", 403, `<p>Quota exhausted for today</p>`, pool.Verdict{Meaning: pool.QuotaExhausted, Scope: pool.ScopeMember}},
		{"forbidden: both, the milder counts", 403, `quota_exceeded: rate_limit_exceeded`, pool.Verdict{Meaning: pool.RateLimited, Scope: pool.ScopeMember}},
		{"forbidden: cut off before the code", 403, `{"error":{"code":"rate_limit_exc`, pool.Verdict{Meaning: pool.RequestError, Scope: pool.ScopeRequest}},
		{"forbidden scope", 403, `{"error":"forbidden scope"}`, pool.Verdict{Meaning: pool.RequestError, Scope: pool.ScopeRequest}},
		{"forbidden, empty", 403, "", pool.Verdict{Meaning: pool.RequestError, Scope: pool.ScopeRequest}},

		{"bad request", 400, `{"code":"insufficient_quota"}`, pool.Verdict{Meaning: pool.RequestError, Scope: pool.ScopeRequest}},
		{"payment required", 402, "", pool.Verdict{Meaning: pool.RequestError, Scope: pool.ScopeRequest}},
		{"not found", 404, "", pool.Verdict{Meaning: pool.RequestError, Scope: pool.ScopeRequest}},
		{"proxy authentication", 407, "", pool.Verdict{Meaning: pool.RequestError, Scope: pool.ScopeRequest}},
		{"too large", 413, "", pool.Verdict{Meaning: pool.RequestError, Scope: pool.ScopeRequest}},

		{"internal error", 500, "", pool.Verdict{Meaning: pool.Overloaded, Scope: pool.ScopeProvider}},
		{"bad gateway", 502, "", pool.Verdict{Meaning: pool.Overloaded, Scope: pool.ScopeProvider}},
		{"unavailable", 503, "rate_limit_exceeded", pool.Verdict{Meaning: pool.Overloaded, Scope: pool.ScopeProvider}},
		{"overloaded", 529, "", pool.Verdict{Meaning: pool.Overloaded, Scope: pool.ScopeProvider}},
		{"no status of HTTP's", 0, "", pool.Verdict{Meaning: pool.Overloaded, Scope: pool.ScopeProvider}},
		{"no status of HTTP's, above", 999, "", pool.Verdict{Meaning: pool.Overloaded, Scope: pool.ScopeProvider}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.want.Reason = fmt.Sprint(test.status)
			got := lookup(t, "generic").Classify(classify.Answer{Status: test.status, Body: []byte(test.body), Now: now})
			if got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestGeneric_readsTheBodyOfAForbiddenOnly(t *testing.T) {
	for status := range 600 {
		if got, want := lookup(t, "generic").NeedsBody(status, nil), status == 403; got != want {
			t.Errorf("status %d: needs body %v, want %v", status, got, want)
		}
	}
}

func TestGeneric_waitBelongsToBenchesOnly(t *testing.T) {
	for status, want := range map[int]time.Duration{
		200: 0, 301: 0, 403: 0, 413: 0, 500: 0, 503: 0,
		401: 7 * time.Second, 429: 7 * time.Second,
	} {
		got := lookup(t, "generic").Classify(classify.Answer{
			Status: status, Header: http.Header{"Retry-After": {"7"}}, Now: now,
		})
		if got.Wait != want {
			t.Errorf("status %d: wait %v, want %v", status, got.Wait, want)
		}
	}
}

func TestGeneric_retryAfter(t *testing.T) {
	const longest = 1 << 31 * time.Second
	date := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	ahead := now.Add(time.Hour).Format(http.TimeFormat) // the upstream's clock is an hour ahead

	for _, test := range []struct {
		name   string
		values []string
		date   string
		want   time.Duration
	}{
		{"absent", nil, "", 0},
		{"seconds", []string{"2"}, "", 2 * time.Second},
		{"seconds with blanks", []string{" 2\t"}, "", 2 * time.Second},
		{"leading zeros", []string{"007"}, "", 7 * time.Second},
		{"zero is a wait, the shortest", []string{"0"}, "", time.Second},
		{"a billion seconds", []string{"1000000000"}, "", 1e9 * time.Second},
		{"the longest", []string{"2147483648"}, "", longest},
		{"above the longest", []string{"2147483649"}, "", longest},
		{"larger than 64 bits", []string{"99999999999999999999999999"}, "", longest},
		{"2^64 and a bit does not wrap", []string{"18446744073709551617"}, "", longest},
		{"large, but no number", []string{"99999999999999999999999999x"}, "", 0},

		{"empty", []string{""}, "", 0},
		{"word", []string{"abc"}, "", 0},
		{"negative", []string{"-1"}, "", 0},
		{"plus sign", []string{"+1"}, "", 0},
		{"fraction", []string{"1.5"}, "", 0},
		{"exponent", []string{"1e9"}, "", 0},
		{"hex", []string{"0x10"}, "", 0},
		{"unit", []string{"10s"}, "", 0},
		{"digits of another script", []string{"٣"}, "", 0},

		{"date, by the local clock", []string{date(90 * time.Second)}, "", 90 * time.Second},
		{"date, by the answer's clock", []string{date(time.Hour + 90*time.Second)}, ahead, 90 * time.Second},
		{"date, past by the answer's clock", []string{date(90 * time.Second)}, ahead, 0},
		{"date, the answer's own is broken", []string{date(90 * time.Second)}, "yesterday", 90 * time.Second},
		{"date in RFC 850's form", []string{now.Add(time.Minute).Format("Monday, 02-Jan-06 15:04:05 GMT")}, "", time.Minute},
		{"date in asctime's form", []string{now.Add(time.Minute).Format(time.ANSIC)}, "", time.Minute},
		{"date in the past", []string{date(-time.Second)}, "", 0},
		{"date that is now", []string{date(0)}, "", time.Second},
		{"date in year 9999", []string{"Fri, 31 Dec 9999 23:59:59 GMT"}, "", longest},
		{"date in year 9999, answered in year 1", []string{"Fri, 31 Dec 9999 23:59:59 GMT"}, "Mon, 01 Jan 0001 00:00:00 GMT", longest},
		{"date in another format", []string{"2026-03-01T12:01:00Z"}, "", 0},

		{"twice, the longest", []string{"2", "60", "5"}, "", time.Minute},
		{"twice, in both forms", []string{"2", date(time.Minute)}, "", time.Minute},
		{"twice, one valid", []string{"abc", "5", "-100"}, "", 5 * time.Second},
		{"twice, none valid", []string{"abc", "1e9"}, "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			header := http.Header{"Retry-After": test.values}
			if test.date != "" {
				header.Set("Date", test.date)
			}
			got := lookup(t, "generic").Classify(classify.Answer{Status: 429, Header: header, Now: now})
			if got.Wait != test.want {
				t.Errorf("wait %v, want %v", got.Wait, test.want)
			}
		})
	}
}

func TestLookup(t *testing.T) {
	names := classify.Names()
	if !slices.IsSorted(names) || !slices.Contains(names, "generic") {
		t.Errorf("names: %q", names)
	}
	for _, name := range names {
		if got := lookup(t, name).Name; got != name {
			t.Errorf("lookup of %q gives %q", name, got)
		}
	}
	for _, name := range []string{"", "Generic", "nobody"} {
		if _, ok := classify.Lookup(name); ok {
			t.Errorf("there is a provider %q", name)
		}
	}
}

// A table can be wrong in ways that the engine cannot show.
func TestProviders_tablesAreSound(t *testing.T) {
	for _, name := range classify.Names() {
		p := lookup(t, name)
		for _, kind := range []string{classify.KindStatic, classify.KindOAuth} {
			if len(p.Injections(kind)) == 0 {
				t.Errorf("%s: nothing carries a credential of kind %s", name, kind)
			}
		}
		for _, in := range p.Inject {
			if in.Name != http.CanonicalHeaderKey(in.Name) || !strings.Contains(in.Template, "{credential") || in.Source == "" {
				t.Errorf("%s: injection %+v", name, in)
			}
		}
		for _, h := range p.Headers {
			if h.Name != http.CanonicalHeaderKey(h.Name) || h.Value == "" || h.Source == "" {
				t.Errorf("%s: header %+v", name, h)
			}
		}
		for _, param := range p.StripParams {
			if param == "" || strings.ContainsAny(param, " &=*") {
				t.Errorf("%s: strips the parameter %q", name, param)
			}
		}
		for _, strip := range p.Strip {
			if strip != http.CanonicalHeaderKey(strip) {
				t.Errorf("%s: strips %q", name, strip)
			}
		}
		checkRules(t, name, p.Rules)
		checkRules(t, name, p.Success)
		for _, r := range p.Success {
			if len(r.Status)+len(r.Codes)+len(r.Words)+len(r.Body) > 0 || len(r.Header) == 0 || !r.Meaning.Benches() {
				t.Errorf("%s: rule %s is asked about headers only", name, r.Name)
			}
		}
		for _, wait := range p.Waits {
			if wait.Name == "" || wait.Source == "" {
				t.Errorf("%s: wait %q lacks something", name, wait.Name)
			}
		}
	}
}

func checkRules(t *testing.T, provider string, rules []classify.Rule) {
	names := make(map[string]bool)
	for _, r := range rules {
		id := fmt.Sprintf("%s: rule %s", provider, r.Name)
		if r.Name == "" || r.Source == "" || r.Meaning == "" {
			t.Errorf("%s lacks name, meaning or source", id)
		}
		if names[r.Name] {
			t.Errorf("%s is there twice", id)
		}
		names[r.Name] = true
		if slices.ContainsFunc(r.Status, func(s int) bool { return s < 400 || s > 499 }) {
			t.Errorf("%s is about statuses %d, about which it is never asked", id, r.Status)
		}
		for _, h := range r.Header {
			if h.Name != http.CanonicalHeaderKey(h.Name) {
				t.Errorf("%s can never match the header %q", id, h.Name)
			}
		}
		if r.Meaning.Benches() && len(r.Words) > 0 && len(r.Status) == 0 && !r.Within {
			t.Errorf("%s benches by words at any status", id)
		}
		for _, text := range r.Words {
			if r.Meaning.Benches() && strings.HasPrefix(text, "*") {
				t.Errorf("%s benches by %q anywhere in a message", id, text)
			}
		}
		for _, text := range slices.Concat(r.Words, r.Body) {
			if text == "" || text != strings.ToLower(text) {
				t.Errorf("%s can never match %q", id, text)
			}
		}
		if r.Wait != 0 && r.Wait < time.Second {
			t.Errorf("%s waits %v", id, r.Wait)
		}
	}
}

var reasonWord = regexp.MustCompile(`^-?[0-9]+$|^[a-zA-Z0-9_.:-]{1,64}$`)

var keyForm = regexp.MustCompile(`^(model|model:[a-z0-9._-]{1,64}|resource:[a-z0-9._-]{1,64})$`)

// legal reports what is wrong with a finding, whatever the answer was.
func legal(a classify.Answer, f classify.Finding) error {
	switch v := f.Verdict; {
	case f.Rule == "" || f.Source == "":
		return fmt.Errorf("no rule or source: %+v", f)
	case a.Status >= 400 && a.Endpoint == classify.EndpointAPI && v.Reason != fmt.Sprint(a.Status):
		return fmt.Errorf("reason %q for status %d", v.Reason, a.Status)
	case !reasonWord.MatchString(v.Reason):
		return fmt.Errorf("reason %q", v.Reason)
	case (f.Wait == 0) != (f.WaitFrom == ""):
		return fmt.Errorf("wait %v from %q", f.Wait, f.WaitFrom)
	case v.Served && (!v.Meaning.Benches() || a.Status >= 400):
		return fmt.Errorf("%s was served, with status %d", v.Meaning, a.Status)
	case v.Scope != pool.ScopeModel && v.Key != "", v.Scope == pool.ScopeModel && !keyForm.MatchString(v.Key):
		return fmt.Errorf("key %q of scope %s", v.Key, v.Scope)
	case !v.Meaning.Benches() && v.Wait != 0:
		return fmt.Errorf("%s waits %v", v.Meaning, v.Wait)
	case v.Wait != 0 && (v.Wait < time.Second || v.Wait > 1<<31*time.Second):
		return fmt.Errorf("wait %v", v.Wait)
	}
	scopes := map[pool.Meaning][]pool.Scope{
		pool.OK:             {pool.ScopeMember},
		pool.RequestError:   {pool.ScopeRequest},
		pool.Overloaded:     {pool.ScopeProvider},
		pool.RateLimited:    {pool.ScopeMember, pool.ScopeModel},
		pool.QuotaExhausted: {pool.ScopeMember, pool.ScopeModel},
		pool.AuthFailed:     {pool.ScopeMember},
	}
	if !slices.Contains(scopes[f.Meaning], f.Scope) {
		return fmt.Errorf("%s of scope %s", f.Meaning, f.Scope)
	}
	return nil
}

func FuzzRetryAfter(f *testing.F) {
	for _, seed := range []string{
		"2", "0", "-1", "1e9", "abc", "1000000000", "99999999999999999999", " 5 ", "5, 6",
		"Sun, 01 Mar 2026 12:01:00 GMT", "Sunday, 01-Mar-26 12:01:00 GMT", "Sun Mar  1 12:01:00 2026",
		"Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT",
	} {
		f.Add(seed, "", "")
		f.Add("1", seed, seed)
	}
	f.Fuzz(func(t *testing.T, first, second, date string) {
		wait := func(values ...string) time.Duration {
			a := classify.Answer{Status: 429, Now: now, Header: http.Header{"Retry-After": values, "Date": {date}}}
			f := lookup(t, "generic").Explain(a)
			if err := legal(a, f); err != nil {
				t.Fatal(err)
			}
			return f.Wait
		}
		both, one, other := wait(first, second), wait(first), wait(second)
		if both != max(one, other) || both != wait(second, first) {
			t.Errorf("%q waits %v, %q waits %v, both wait %v", first, one, second, other, both)
		}
	})
}

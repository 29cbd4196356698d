package classify_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/pool/classify"
)

// made is a made-up answer in a shape that the provider documents.
type made struct {
	Name     string            `json:"name"`
	Endpoint classify.Endpoint `json:"endpoint"`
	Status   int               `json:"status"`
	Headers  map[string]string `json:"headers"`

	// Body is JSON, or a string that is the body.
	Body json.RawMessage `json:"body"`

	// Want is "<meaning> <wait or -> <rule>", and where they are not empty or
	// what the status says: the key, "reason=<reason>", "served".
	Want string `json:"want"`
}

func (m made) answer() classify.Answer {
	a := classify.Answer{Endpoint: m.Endpoint, Status: m.Status, Header: make(http.Header), Body: m.Body, Now: now}
	for name, value := range m.Headers {
		a.Header.Set(name, value)
	}
	var text string
	if json.Unmarshal(m.Body, &text) == nil {
		a.Body = []byte(text)
	}
	return a
}

// summary writes a finding as made.Want does.
func summary(a classify.Answer, f classify.Finding) string {
	wait := "-"
	if f.Wait != 0 {
		wait = strings.TrimRight(strings.TrimRight(fmt.Sprintf("%.3f", f.Wait.Seconds()), "0"), ".") + "s"
	}
	parts := []string{string(f.Meaning), wait, f.Rule}
	if f.Key != "" {
		parts = append(parts, f.Key)
	}
	if f.Reason != fmt.Sprint(a.Status) {
		parts = append(parts, "reason="+f.Reason)
	}
	if f.Served {
		parts = append(parts, "served")
	}
	return strings.Join(parts, " ")
}

func load(tb testing.TB, provider string) []made {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", provider+".json"))
	if err != nil {
		tb.Fatal(err)
	}
	var answers []made
	if err := json.Unmarshal(data, &answers); err != nil {
		tb.Fatalf("%s: %v", provider, err)
	}
	return answers
}

func TestProviders_madeUpAnswers(t *testing.T) {
	for _, provider := range classify.Names() {
		for _, m := range load(t, provider) {
			t.Run(provider+"/"+m.Name, func(t *testing.T) {
				a := m.answer()
				f := lookup(t, provider).Explain(a)
				if got := summary(a, f); got != m.Want {
					t.Errorf("got %q, want %q (%+v)", got, m.Want, f)
				}
				if err := legal(a, f); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// Each provider's file has at least three answers for each meaning that the
// provider can express.
func TestProviders_madeUpAnswersAreEnough(t *testing.T) {
	never := map[string][]pool.Meaning{"stripe": {pool.QuotaExhausted}, "slack": {pool.QuotaExhausted}}
	for _, provider := range classify.Names() {
		count := make(map[pool.Meaning]int)
		for _, m := range load(t, provider) {
			meaning, _, _ := strings.Cut(m.Want, " ")
			count[pool.Meaning(meaning)]++
		}
		for _, meaning := range []pool.Meaning{
			pool.RateLimited, pool.QuotaExhausted, pool.AuthFailed, pool.Overloaded, pool.RequestError,
		} {
			need := 3
			for _, m := range never[provider] {
				if m == meaning {
					need = 0
				}
			}
			if count[meaning] < need {
				t.Errorf("%s: %d answers of %s, want %d", provider, count[meaning], meaning, need)
			}
		}
		if count[pool.OK] == 0 {
			t.Errorf("%s: no good answer", provider)
		}
	}
}

// The body is cut off where the peek ends. What is left must not say more than
// the whole: a half number is no wait, a half code no code.
func TestProviders_cutBodiesBenchNoLonger(t *testing.T) {
	for _, provider := range classify.Names() {
		p := lookup(t, provider)
		for _, m := range load(t, provider) {
			whole := m.answer()
			for n := range whole.Body {
				cut := whole
				cut.Body = whole.Body[:n]
				f := p.Explain(cut)
				if err := legal(cut, f); err != nil {
					t.Fatalf("%s/%s cut at %d: %v", provider, m.Name, n, err)
				}
				// By the second: a point in time is left if what says the same
				// without a clock is cut off.
				all := p.Explain(whole)
				if f.Rule == all.Rule && f.Wait > all.Wait+2*time.Second {
					t.Errorf("%s/%s cut at %d: waits %v, the whole %v", provider, m.Name, n, f.Wait, all.Wait)
				}
			}
		}
	}
}

// NeedsBody and NeedsEvents decide what is read, so without what they do not
// ask for the verdict must be the same.
func TestProviders_needNoMoreThanTheyAskFor(t *testing.T) {
	for _, provider := range classify.Names() {
		p := lookup(t, provider)
		for _, m := range load(t, provider) {
			a := m.answer()
			if a.Endpoint != classify.EndpointAPI || p.NeedsBody(a.Status, a.Header) || p.NeedsEvents(a.Status, a.Header) {
				continue
			}
			with := p.Explain(a)
			a.Body = nil
			if without := p.Explain(a); with != without {
				t.Errorf("%s/%s: %+v with the body, %+v without", provider, m.Name, with, without)
			}
		}
	}
}

func TestWith_usersRulesComeFirst(t *testing.T) {
	p := lookup(t, "openai").With(
		classify.Rule{
			Meaning: pool.QuotaExhausted, Status: []int{418, 503},
			Header: []classify.HeaderIs{{Name: "X-Limit", Values: []string{"day", "month"}}},
			Body:   []string{"No Tea", "no coffee"},
		},
		classify.Rule{Meaning: pool.RequestError, Status: []int{429}, Body: []string{"concurrent"}},
		classify.Rule{Meaning: pool.RateLimited, Status: []int{200}, Header: []classify.HeaderIs{{Name: "X-Spent"}}},
		classify.Rule{Meaning: pool.AuthFailed, Status: []int{200}, Body: []string{"please log in"}},
		classify.Rule{Meaning: pool.AuthFailed, Body: []string{"tenant is gone"}},
	)
	header := func(name, value string) http.Header { return http.Header{name: {value}} }
	for _, test := range []struct {
		name   string
		status int
		header http.Header
		body   string
		want   string
	}{
		{"all conditions hold", 418, header("X-Limit", "Month"), "there is NO COFFEE", "quota_exhausted - fail"},
		{"5xx", 503, header("X-Limit", "day"), "no tea", "quota_exhausted - fail"},
		{"another value", 418, header("X-Limit", "hour"), "no tea", "request_error - client-error"},
		{"no such text", 418, header("X-Limit", "day"), "tea", "request_error - client-error"},
		{"another status", 419, header("X-Limit", "day"), "no tea", "request_error - client-error"},
		{"keeps from a later rule", 429, nil, "concurrent", "request_error - fail"},
		{"else the provider's", 429, nil, "x", "rate_limited - too-many-requests"},
		{"a success that it lists", 200, header("X-Spent", "yes"), "", "rate_limited - fail served"},
		{"the body of a success that it lists", 200, nil, "Please log in", "auth_failed - fail served"},
		{"a success that it does not", 201, header("X-Spent", "yes"), "", "ok - served"},
		{"any failure", 404, nil, "tenant is gone", "auth_failed - fail"},
		{"any failure, 5xx", 500, nil, "tenant is gone", "auth_failed - fail"},
		{"but no success", 204, nil, "tenant is gone", "ok - served"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := classify.Answer{Status: test.status, Header: test.header, Body: []byte(test.body), Now: now}
			if !p.NeedsBody(a.Status, a.Header) {
				a.Body = nil
			}
			f := p.Explain(a)
			if got := summary(a, f); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if err := legal(a, f); err != nil {
				t.Error(err)
			}
		})
	}
	if lookup(t, "openai").Classify(classify.Answer{Status: 404, Body: []byte("tenant is gone")}).Meaning != pool.RequestError {
		t.Error("the shared table was changed")
	}
}

func TestProvider_byKind(t *testing.T) {
	names := func(provider, kind string) string {
		var all []string
		for _, in := range lookup(t, provider).Injections(kind) {
			all = append(all, in.Name)
		}
		for _, h := range lookup(t, provider).ExtraHeaders(kind) {
			all = append(all, h.Name)
		}
		return strings.Join(all, " ")
	}
	for _, test := range []struct{ provider, kind, want string }{
		{"anthropic", classify.KindStatic, "X-Api-Key"},
		{"anthropic", classify.KindOAuth, "Authorization Anthropic-Beta"},
		{"azure_openai", classify.KindStatic, "Api-Key"},
		{"codex", classify.KindOAuth, "Authorization Chatgpt-Account-Id"},
		{"gemini", classify.KindStatic, "X-Goog-Api-Key"},
		{"gemini", classify.KindOAuth, "Authorization"},
		{"github", classify.KindStatic, "Authorization"},
	} {
		if got := names(test.provider, test.kind); got != test.want {
			t.Errorf("%s, %s: %s; want %s", test.provider, test.kind, got, test.want)
		}
	}
}

// A wait that is relative needs no clock, and a point in time means nothing
// without one.
func TestExplain_withoutAClock(t *testing.T) {
	p := lookup(t, "codex")
	for body, want := range map[string]time.Duration{
		`{"error":{"type":"usage_limit_reached","resets_at":1772370000}}`:                         0,
		`{"error":{"type":"usage_limit_reached","resets_at":1772370000,"resets_in_seconds":"9"}}`: 9 * time.Second,
	} {
		if f := p.Explain(classify.Answer{Status: 429, Body: []byte(body)}); f.Wait != want {
			t.Errorf("%s: waits %v, want %v", body, f.Wait, want)
		}
	}
}

// A rule that decides no answer of these is not tried at all.
func TestProviders_everyRuleDecidesSomething(t *testing.T) {
	for _, provider := range classify.Names() {
		p := lookup(t, provider)
		decided := make(map[string]bool)
		for _, m := range load(t, provider) {
			decided[strings.Split(m.Want, " ")[2]] = true
		}
		for _, r := range slices.Concat(p.Rules, p.Success) {
			if !decided[r.Name] {
				t.Errorf("%s: no answer is for the rule %s", provider, r.Name)
			}
		}
	}
}

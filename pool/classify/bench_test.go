package classify_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/pool/classify"
)

// good is what a provider answers to most requests: its own headers say that
// all is well.
func good(provider string) classify.Answer {
	h := http.Header{"Content-Type": {"application/json"}, "Date": {now.Format(http.TimeFormat)}}
	for name, value := range map[string]string{
		"anthropic":   "Anthropic-Ratelimit-Unified-Status: allowed",
		"codex":       "X-Codex-Primary-Used-Percent: 12",
		"github":      "X-Ratelimit-Remaining: 4999",
		"huggingface": `Ratelimit: "api";r=489;t=189`,
		"openai":      "X-Ratelimit-Remaining-Requests: 59",
	} {
		if name == provider {
			key, value, _ := strings.Cut(value, ": ")
			h[key] = []string{value}
		}
	}
	return classify.Answer{Status: 200, Header: h, Now: now}
}

func BenchmarkClassify_good(b *testing.B) {
	for _, name := range classify.Names() {
		b.Run(name, func(b *testing.B) {
			p, a := lookup(b, name), good(name)
			b.ReportAllocs()
			for b.Loop() {
				p.NeedsBody(a.Status, a.Header)
				p.NeedsEvents(a.Status, a.Header)
				if p.Classify(a).Meaning != pool.OK {
					b.Fatal("not ok")
				}
			}
		})
	}
}

func TestClassify_ofAGoodAnswerAllocatesNothing(t *testing.T) {
	for _, name := range classify.Names() {
		p, a := lookup(t, name), good(name)
		if n := testing.AllocsPerRun(100, func() {
			p.NeedsBody(a.Status, a.Header)
			p.NeedsEvents(a.Status, a.Header)
			if p.Classify(a).Meaning != pool.OK {
				t.Errorf("%s: not ok", name)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// hostile are bodies that are made to cost much.
func hostile(size int) map[string]string {
	return map[string]string{
		"words":     strings.Repeat("QUOTA_EXCEEDE", size/13),
		"nested":    strings.Repeat(`{"error":`, size/9),
		"lists":     strings.Repeat("[", size),
		"escapes":   `{"error":{"message":"` + strings.Repeat(`\\`, size/2),
		"facts":     "{" + strings.Repeat(`"message":"wait wait wait",`, size/26),
		"keys":      "{" + strings.Repeat(`"a":1,`, size/6),
		"durations": `{"message":"wait ` + strings.Repeat("1s", size/2) + `"}`,
		"anchors":   `{"message":"` + strings.Repeat("again in ", 450) + `","error":"` + strings.Repeat("until 2026-01-01 ", 240) + `"}`,
		"events":    strings.Repeat("data: {}\n\n", size/10),
		"data":      strings.Repeat("data:\n", size/6),
		"numbers":   `{"retry_after":` + strings.Repeat("9", size) + "}",
		"lines":     strings.Repeat("\r", size),
		"text":      strings.Repeat("secondary rate limi ", size/20),
		"parts":     "[" + strings.Repeat(`{"code":"x","message":"y"},`, size/27),
		"empty":     "[" + strings.Repeat("{},", size/3),
		"quotes":    `{"message":"` + strings.Repeat("'a 'a' `[“", size/12) + `"}`,
		"markup":    "<" + strings.Repeat("cloudflar", size/9),
	}
}

// Whatever comes, judging it takes less than 10 ms, and there is much room for
// slow machines in that.
func TestClassify_hostileBodiesCostLittle(t *testing.T) {
	for name, body := range hostile(1 << 20) {
		for _, provider := range classify.Names() {
			p := lookup(t, provider)
			for _, contentType := range []string{"application/json", "text/event-stream"} {
				for _, status := range []int{200, 400, 403, 429} {
					a := classify.Answer{Status: status, Header: http.Header{"Content-Type": {contentType}}, Body: []byte(body), Now: now}
					if took := best(10*time.Millisecond*slowdown, func() { p.Explain(a) }); took > 10*time.Millisecond*slowdown {
						t.Errorf("%s: %s with status %d takes %v", provider, name, status, took)
					}
				}
			}
		}
	}
}

// best runs f until it takes less than the limit, for the machine may be busy,
// and returns the shortest time.
func best(limit time.Duration, f func()) time.Duration {
	shortest := time.Hour
	for range 10 {
		start := time.Now()
		f()
		if shortest = min(shortest, time.Since(start)); shortest < limit {
			break
		}
	}
	return shortest
}

func BenchmarkClassify_errorBody(b *testing.B) {
	for name, body := range hostile(64 << 10) {
		b.Run(name, func(b *testing.B) {
			p := lookup(b, "openai")
			a := classify.Answer{Status: 429, Body: []byte(body), Now: now}
			b.ReportAllocs()
			for b.Loop() {
				p.Classify(a)
			}
		})
	}
}

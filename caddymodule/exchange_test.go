package caddymodule

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

func TestExhausted_aStormMakesOneAttemptEachAndOneNotice(t *testing.T) {
	for _, mode := range []string{onExhaustedServe, onExhaustedReject} {
		t.Run(mode, func(t *testing.T) {
			u := newUpstream(t)
			d := open(t, u, "", directive("on_exhausted "+mode))
			u.on("credential-a", status(429))
			u.on("credential-b", status(429))
			d.want(429)
			u.seen()
			var wg sync.WaitGroup
			for range 500 {
				wg.Go(func() {
					if res, _ := d.do(http.MethodPost, "/", "x"); res.StatusCode != 429 {
						t.Errorf("status %d", res.StatusCode)
					}
				})
			}
			wg.Wait()
			want := map[string]int{onExhaustedServe: 500, onExhaustedReject: 0}[mode]
			if got := len(u.seen()); got != want {
				t.Errorf("%d attempts, want %d", got, want)
			}
			told := 0
			for _, n := range notices.recent(0) {
				if n.Pool == d.pool && n.Kind == pool.Exhausted {
					told++
				}
			}
			if told != 1 {
				t.Errorf("told %d times", told)
			}
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// BenchmarkExchange is the plugin's own share of a good request that carries
// twelve headers.
func BenchmarkExchange(b *testing.B) {
	sp := poolOfTwo(b, "bench")
	h := &Handler{AllowAnyClient: true, OnExhausted: onExhaustedServe}
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://127.0.0.1/v1/x", strings.NewReader(""))
	if err != nil {
		b.Fatal(err)
	}
	req.Body = nil
	for i := range 11 {
		req.Header.Set(fmt.Sprintf("X-Header-%d", i), "value")
	}
	req.Header.Set("Authorization", "Bearer phantom")
	res := &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}, "Date": {"x"}}, Body: http.NoBody}
	upstream := roundTripper(func(*http.Request) (*http.Response, error) { return res, nil })
	b.ReportAllocs()
	for b.Loop() {
		x := &exchange{pool: sp, handler: h}
		if _, err := x.roundTrip(req, upstream); err != nil {
			b.Fatal(err)
		}
		x.close(nil)
	}
}

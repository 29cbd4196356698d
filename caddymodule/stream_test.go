package caddymodule

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

const (
	created    = "event: response.created\ndata: {\"type\":\"response.created\"}\n\n"
	delta      = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"no error\"}\n\n"
	limitEvent = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"usage_limit_reached\",\"resets_in_seconds\":3600}}\n\n"
	busyEvent  = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"service_unavailable_error\",\"code\":\"server_is_overloaded\"}}\n\n"
)

// events answers with an event stream, an event at a time.
func events(list ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, e := range list {
			_, _ = io.WriteString(w, e)
			_ = http.NewResponseController(w).Flush()
		}
	}
}

// memberOf returns a member of the door's pool as it is now.
func memberOf(t *testing.T, d *door, name string) pool.MemberStatus {
	t.Helper()
	app, err := runningApp()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range app.pools[d.pool].Status(time.Now()).Members {
		if m.Name == name {
			return m
		}
	}
	t.Fatalf("no member %s", name)
	return pool.MemberStatus{}
}

// openCodex is a door before a provider that reports failures in its streams.
func openCodex(t *testing.T, u *upstream, directive string) *door {
	t.Helper()
	return open(t, u, "provider codex\ninject header Authorization \"Bearer {credential}\"", directive)
}

func TestStream_thatFailsInItsFirstEventIsTriedAgain(t *testing.T) {
	for name, first := range map[string]http.HandlerFunc{
		"at once":         events(limitEvent),
		"after a comment": events(": waiting\n\n", "\n", limitEvent),
		"with a comment":  events(": waiting\n" + limitEvent),
		"with CR":         events(strings.ReplaceAll(limitEvent, "\n", "\r") + " "),
		"with CRLF":       events(strings.ReplaceAll(limitEvent, "\n", "\r\n")),
		"compressed": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = io.WriteString(z, limitEvent)
			_ = z.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			u.on("credential-a", first)
			u.on("credential-b", events(created, delta))
			d := openCodex(t, u, directive())
			if body := d.want(200); body != created+delta {
				t.Errorf("the client got %q", body)
			}
			if m := memberOf(t, d, "a"); m.Meaning != pool.QuotaExhausted || time.Until(m.Until) < 59*time.Minute {
				t.Errorf("a is %+v", m)
			}
		})
	}
}

func TestStream_thatFailsForAnotherReasonIsGivenBack(t *testing.T) {
	u := newUpstream(t)
	u.on("credential-a", events(busyEvent))
	d := openCodex(t, u, directive())
	if body := d.want(200); body != busyEvent {
		t.Errorf("the client got %q", body)
	}
	if m := memberOf(t, d, "a"); m.State != pool.StateReady {
		t.Errorf("a is %+v", m)
	}
}

func TestStream_thatFailsLaterBenchesForTheNextRequest(t *testing.T) {
	for form, text := range map[string]string{"with upstream": directive(), "without": withoutUpstream} {
		t.Run(form, func(t *testing.T) {
			u := newUpstream(t)
			arrived := make(chan struct{})
			u.on("credential-a", func(w http.ResponseWriter, r *http.Request) {
				events(created)(w, r)
				<-arrived // what comes with the first event is still tried again
				events(delta, limitEvent, delta)(w, r)
			})
			u.on("credential-b", events(created))
			d := openCodex(t, u, text)
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+phantom)
			res, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			first := make([]byte, len(created))
			if _, err := io.ReadFull(res.Body, first); err != nil {
				t.Fatal(err)
			}
			close(arrived)
			rest, err := io.ReadAll(res.Body)
			if got := string(first) + string(rest); err != nil || got != created+delta+limitEvent+delta {
				t.Errorf("the client got %q, %v", got, err)
			}
			if m := memberOf(t, d, "a"); m.Meaning != pool.QuotaExhausted || m.Failures != 1 {
				t.Errorf("a is %+v", m)
			}
			if body := d.want(200); body != created {
				t.Errorf("the client then got %q", body)
			}
		})
	}
}

func TestStream_isGivenBackWithItsFirstEventOrAfterTwoSeconds(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		first       string
		least, most time.Duration
	}{
		"an event":         {created, 0, time.Second},
		"with a comment":   {": hello\n" + created, 0, time.Second},
		"half of an event": {"data: {", time.Second, 4 * time.Second},
		"comments alone":   {": waiting\n\n", time.Second, 4 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := newUpstream(t)
			release := make(chan struct{})
			sp := poolOfTwo(t, "stream-"+uniqueName())
			p, err := (&PoolConfig{Provider: "codex"}).provider()
			if err != nil {
				t.Fatal(err)
			}
			sp.provider = p
			u.on("credential-of-a", func(w http.ResponseWriter, r *http.Request) {
				events(tt.first)(w, r)
				<-release
				_, _ = io.WriteString(w, "rest")
			})
			x := &exchange{pool: sp, handler: &Handler{OnExhausted: onExhaustedServe}}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			res, err := x.roundTrip(req, http.DefaultTransport)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if took := time.Since(began); took < tt.least || took > tt.most {
				t.Errorf("it took %s", took)
			}
			close(release)
			if body, err := io.ReadAll(bufio.NewReader(res.Body)); err != nil || string(body) != tt.first+"rest" {
				t.Errorf("got %q, %v", body, err)
			}
		})
	}
}

// judged returns the events that a watch would judge, if a stream came in pieces
// of that size.
func judged(stream string, size int) string {
	var seen []string
	w := &eventWatch{judge: func(event []byte) bool {
		seen = append(seen, string(event))
		return len(seen) == 3
	}}
	for len(stream) > 0 {
		n := min(size, len(stream))
		w.pass([]byte(stream[:n]))
		stream = stream[n:]
	}
	return fmt.Sprintf("%q", seen)
}

func FuzzEvents(f *testing.F) {
	f.Add(created+limitEvent+delta+busyEvent, 1)
	f.Add("data: error\r\n\r\ndata: failed\n\nerror", 2)
	f.Add(strings.Repeat("x", peekBytes+10)+" error\n\n"+limitEvent, 1000)
	f.Fuzz(func(t *testing.T, stream string, size int) {
		if size < 1 {
			size = 1
		}
		if got, want := judged(stream, size), judged(stream, 1<<20); len(stream) < peekBytes && got != want {
			t.Errorf("in pieces of %d: %s, at once: %s", size, got, want)
		}
	})
}

// A stream of short lines that never end an event is not searched again and again.
func BenchmarkEvents_withoutAnEnd(b *testing.B) {
	for b.Loop() {
		w := &eventWatch{judge: func([]byte) bool { return false }}
		for range peekBytes / 2 {
			w.pass([]byte("a"))
			w.pass([]byte("\n"))
		}
	}
}

func TestEventWatch_passesOverWhatIsTooLarge(t *testing.T) {
	stream := "data: " + strings.Repeat("x", 2*peekBytes) + " error\n\n" + limitEvent
	if got, want := judged(stream, 4096), fmt.Sprintf("%q", []string{strings.TrimSuffix(limitEvent, "\n")}); got != want {
		t.Errorf("judged %s, want %s", got, want)
	}
	var w *eventWatch
	w.pass([]byte("nothing to look at"))
}

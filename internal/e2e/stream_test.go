package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
)

// event writes an event of an event stream and sends it off.
func event(w http.ResponseWriter, n int) {
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = fmt.Fprintf(w, "event: delta\ndata: %d\n\n", n)
	_ = http.NewResponseController(w).Flush()
}

func TestStream_eventsArriveAsTheyAreSent(t *testing.T) {
	t.Parallel()
	for name, form := range map[string]func(*caddy) config{
		"with an upstream":    func(*caddy) config { return config{} },
		"without an upstream": func(c *caddy) config { return config{handler: c.secondForm()} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCaddy(t, "work", "home")
			c.start(form(c))
			next := make(chan struct{})
			c.upstream.answer("work", func(w http.ResponseWriter, _ *http.Request) {
				for n := range 5 {
					event(w, n)
					<-next // not before the client has the last one
				}
			})
			res, err := c.client.Do(c.request(http.MethodGet, "/", "", "Accept", "text/event-stream"))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			lines := bufio.NewScanner(res.Body)
			for n := range 5 {
				for lines.Scan() && !strings.HasPrefix(lines.Text(), "data: ") {
				}
				equal(t, "event", lines.Text(), fmt.Sprint("data: ", n))
				next <- struct{}{}
			}
		})
	}
}

func TestFault_streamThatDiesIsNotReplayed(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, config{}, "work", "home")
	c.upstream.answer("work", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		for n := range 3 {
			event(w, n)
		}
		panic(http.ErrAbortHandler)
	})
	a, err := c.try(c.request(http.MethodPost, "/", "a question"))
	if err == nil {
		t.Error("the client does not see the cut")
	}
	equal(t, "events", strings.Count(a.body, "data: "), 3)
	equal(t, "attempts", c.upstream.served(), "[work]")
	c.is("work", "ready")
}

func TestStream_trailers(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, config{}, "work", "home")
	c.upstream.answer("work", status429)
	c.upstream.answer("home", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Digest")
		_, _ = io.WriteString(w, "begun, ")
		_ = http.NewResponseController(w).Flush()
		_, _ = fmt.Fprintf(w, "done with %s", r.Trailer.Get("X-Sum"))
		w.Header().Set("X-Digest", fmt.Sprint(len(body)))
		w.Header().Set(http.TrailerPrefix+"X-Late", "yes")
	})
	req := c.request(http.MethodPost, "/", "")
	req.Body = io.NopCloser(strings.NewReader("a question"))
	req.ContentLength = -1
	req.Trailer = http.Header{"X-Sum": {"42"}}
	a := c.do(req)
	equal(t, "status", a.status, 200)
	equal(t, "body", a.body, "begun, done with 42")
	equal(t, "trailers", a.trailer.Get("X-Digest")+" "+a.trailer.Get("X-Late"), "10 yes")
	equal(t, "attempts", c.upstream.served(), "[work home]")
}

// status429 is an answer that benches for a while.
func status429(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Retry-After", "60")
	w.WriteHeader(http.StatusTooManyRequests)
}

func TestFault_earlyHintsBeforeARefusal(t *testing.T) {
	t.Parallel()
	hinting := func(name string, final http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "</"+name+".css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Set("X-From", name)
			final(w, r)
		}
	}
	ok := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "served by home") }
	c := startCaddy(t, config{}, "work", "home")
	c.upstream.answer("work", hinting("work", status429))
	c.upstream.answer("home", hinting("home", ok))

	var hints []string
	ask := func() answer {
		hints = nil
		return c.do(c.request(http.MethodGet, "/", "").WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
				hints = append(hints, fmt.Sprint(code, header["Link"]))
				return nil
			},
		})))
	}
	served(t, ask(), "home")
	equal(t, "hints", hints, "[103 [</home.css>; rel=preload]]")

	c.upstream.answer("home", hinting("home", status429))
	a := ask()
	equal(t, "status", a.status, 429)
	equal(t, "hints", hints, "[103 [</home.css>; rel=preload]]")
	equal(t, "headers", a.header["X-From"], "[home]")
	equal(t, "headers", len(a.header["Link"]), 1)
	equal(t, "headers", a.header["Retry-After"], "[60]")
}

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// api is the mock of a provider's API, for a client that nobody here wrote. The
// account that serves says so in its answer.
type api struct {
	start    func(*caddy)                          // with the pool as the client needs it
	path     string                                // of the calls that are refused
	refusals map[string]http.HandlerFunc           // by the notice's reason and what it is about, in the provider's words
	serve    func(account string) http.HandlerFunc // what the others answer
	check    func(t *testing.T, c *caddy, h hit)   // of the request that is answered
}

// failsOver runs the client once for each way in which the first account
// refuses its call. The client must be told what the second one says, and by
// the pool's retry alone, not by one of its own. Ask returns what it was told.
func (a api) failsOver(t *testing.T, ask func(*testing.T, *caddy) string) {
	for name, refuse := range a.refusals {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCaddy(t, "work", "home")
			c.upstream.answer("home", a.serve("home"))
			c.upstream.answer("work", func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost && r.URL.Path == a.path {
					refuse(w, r)
				} else {
					a.serve("work")(w, r)
				}
			})
			a.start(c)
			equal(t, "the client is told", ask(t, c), "served by home")
			reason, _, _ := strings.Cut(name, " ")
			answered := c.failedOver(t, http.MethodPost+" "+a.path, reason)
			if a.check != nil {
				a.check(t, c, answered)
			}
		})
	}
}

// failedOver fails the test unless there was exactly one such call, which the
// first account refused for that reason and the second one served. It returns
// the call as the second one got it.
func (c *caddy) failedOver(t *testing.T, call, reason string) (answered hit) {
	t.Helper()
	attempts := []string{}
	for _, h := range c.upstream.seen() {
		if path, _, _ := strings.Cut(h.path, "?"); h.method+" "+path == call {
			attempts = append(attempts, h.account)
			answered = h
		}
	}
	equal(t, "attempts", attempts, "[work home]")
	equal(t, "the pool's retries", c.metric(`retries_total{pool="api"}`), 1)
	equal(t, "notices", c.notices(), "[failover work>home "+reason+"]")
	c.is("work", "cooling")
	return answered
}

// by returns the API with a pool that knows its provider, and with other ways to
// refuse.
func (a api) by(provider string, refusals map[string]http.HandlerFunc) api {
	start := a.start
	a.refusals = refusals
	a.start = func(c *caddy) {
		c.provider = provider
		start(c)
	}
	return a
}

// key starts a Caddy whose pool sends the credential as an API key.
func key(c *caddy) { c.start(config{pool: "inject header X-Api-Key {credential}"}) }

// bearer starts a Caddy whose pool is as it is by default.
func bearer(c *caddy) { c.start(config{}) }

// asked answers with 400 unless the client's question arrived, and returns its
// body otherwise.
func asked(w http.ResponseWriter, r *http.Request) []byte {
	body, err := io.ReadAll(r.Body)
	if err != nil || !bytes.Contains(body, []byte("say hi")) {
		http.Error(w, fmt.Sprintf("not the question: %v in %d bytes", err, len(body)), http.StatusBadRequest)
		return nil
	}
	return body
}

// send sends an event of an event stream. It may have no name.
func send(w http.ResponseWriter, name, data string) {
	w.Header().Set("Content-Type", "text/event-stream")
	if name != "" {
		_, _ = fmt.Fprintf(w, "event: %s\n", name)
	}
	_, _ = fmt.Fprintf(w, "data: %s\n\n", data)
	_ = http.NewResponseController(w).Flush()
}

// witness is the transport of a client in this process. Each answer is
// evidence, and must be a success.
type witness struct {
	c *caddy
	http.RoundTripper
}

func (c *caddy) witness() *http.Client {
	return &http.Client{Transport: witness{c, c.client.Transport}, Timeout: patience}
}

func (w witness) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := w.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		w.c.t.Errorf("the client sees %s", res.Status)
	}
	res.Body = &witnessed{body: res.Body, seen: func(body string) {
		w.c.sawAnswer("what the client got", answer{header: res.Header, trailer: res.Trailer, body: body})
	}}
	return res, nil
}

// witnessed is a body that is kept until the client closes it.
type witnessed struct {
	body io.ReadCloser
	read bytes.Buffer
	seen func(string)
}

func (b *witnessed) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	b.read.Write(p[:n])
	return n, err
}

func (b *witnessed) Close() error {
	b.seen(b.read.String())
	return b.body.Close()
}

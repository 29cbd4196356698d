package e2e

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"
)

// stalling is a body that stops before its last bytes until it may go on.
type stalling struct {
	io.Reader // up to where it stops
	rest      io.Reader
	goOn      <-chan struct{}
}

func (s *stalling) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err == io.EOF {
		<-s.goOn
		return s.rest.Read(p)
	}
	return n, err
}

// uploads starts n slow uploads of that size and returns once the upstream has
// got nearly all of each. They end when goOn is closed; their answers come then.
func (c *caddy) uploads(n int, size int64, goOn <-chan struct{}) (answers <-chan string) {
	c.t.Helper()
	const rest = 64 << 10 // what may still lie in somebody's buffer
	arrived := make(chan struct{}, n)
	c.upstream.answer("work", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			_, _ = io.WriteString(w, "served by work")
			return
		}
		got, _ := io.CopyN(io.Discard, r.Body, size-rest)
		arrived <- struct{}{}
		more, _ := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprint(w, got+more)
	})
	all := make(chan string, n)
	for range n {
		go func() {
			req := c.request(http.MethodPost, "/upload", "")
			req.Body, req.ContentLength = io.NopCloser(&stalling{io.LimitReader(zeros{}, size-1), io.LimitReader(zeros{}, 1), goOn}), size
			a, err := c.try(req)
			all <- fmt.Sprint(a.status, " ", a.body, " ", err)
		}()
	}
	timeout := time.After(3 * patience)
	for i := range n {
		select {
		case <-arrived:
		case a := <-all:
			c.t.Fatalf("an upload ended before its body did: %s; the log: %.2000s", a, c.lines("http.log.error"))
		case <-timeout:
			c.t.Fatalf("the upstream has got %d of %d uploads", i, n)
		}
	}
	return all
}

// Two hundred bodies of 10 MiB, each within the replay limit, would be 2 GiB if
// nothing bounded them together.
func TestFault_slowUploadsAreRecordedWithinABound(t *testing.T) {
	needProc(t)
	t.Parallel()
	const uploads, size = 200, 10 << 20
	const bound, margin = 256 << 20, 96 << 20 // the margin is for connections and for what is not collected yet
	// On a busy machine two hundred connections at once take their time.
	c := startCaddy(t, config{quiet: true, door: "transport http {\ndial_timeout 1m\n}"}, "work", "home")
	served(t, c.get("/"), "work")
	before := c.resident()
	goOn := make(chan struct{})
	finish := sync.OnceFunc(func() { close(goOn) })
	t.Cleanup(finish)
	answers := c.uploads(uploads, size, goOn)
	for range 100 { // others are served meanwhile
		served(t, c.get("/"), "work")
	}
	grown := c.peak() - before
	t.Logf("memory grew by %d MiB", grown>>20)
	if grown > overhead(t)*(bound+margin) {
		t.Errorf("memory grew by %d MiB", grown>>20)
	}
	finish()
	for range uploads {
		equal(t, "an upload", <-answers, fmt.Sprint("200 ", size, " <nil>"))
	}

	// What was recorded has been given back: bodies can be sent again.
	c.upstream.answer("work", status429)
	c.upstream.answer("home", digest)
	req := c.request(http.MethodPost, "/upload", "")
	req.Body, req.ContentLength = io.NopCloser(io.LimitReader(zeros{}, size)), size
	equal(t, "an upload that is refused", c.do(req).status, 200)
	equal(t, "active", c.active(), "home")
}

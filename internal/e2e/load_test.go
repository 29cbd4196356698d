package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// load is good requests that go through the Caddy of a test at a steady rate,
// on a site and through a pool of their own, with an upstream of their own.
// None of them may get an answer other than the upstream's.
type load struct {
	upstream *upstream
	port     string
	rate     int // requests in a second

	client *http.Client
	stop   context.CancelFunc // of what start has started
	pause  sync.RWMutex       // a request is made with it held for reading
	ending atomic.Bool        // Caddy is about to end: connections may break
	all    sync.WaitGroup

	asked, cut, late, wrong atomic.Int64
}

// newLoad makes the load that CREDENTIAL_POOL_LOAD asks for, in requests a
// second; nil without that variable. It is for the tests of faults alone: what
// others count and list would be another's too.
func (c *caddy) newLoad() *load {
	text := os.Getenv("CREDENTIAL_POOL_LOAD")
	if text == "" || !strings.HasPrefix(c.t.Name(), "TestFault_") {
		return nil
	}
	rate, err := strconv.Atoi(text)
	if err != nil || rate < 1 {
		c.t.Fatalf("CREDENTIAL_POOL_LOAD: %q is no number of requests", text)
	}
	l := &load{
		upstream: newUpstream(c.t), port: freePort(c.t), rate: rate,
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: time.Minute},
	}
	secret := c.canary()
	l.upstream.accounts[secret] = "loaded"
	l.upstream.answer("loaded", func(w http.ResponseWriter, r *http.Request) {
		l.upstream.forget()
		_, _ = io.Copy(w, r.Body)
	})
	c.setenv("KEY_loaded", secret)
	return l
}

// pool and site are the load's parts of the Caddyfile; nothing without a load.
func (l *load) pool() string {
	if l == nil {
		return ""
	}
	return "pool loaded {\n\t\t\tmember loaded {env.KEY_loaded}\n\t\t}"
}

func (l *load) site() string {
	if l == nil {
		return ""
	}
	return fmt.Sprintf("http://127.0.0.1:%s {\n\tcredential_pool loaded %s {\n\t\tclient agent {env.PHANTOM}\n\t}\n}", l.port, l.upstream.URL)
}

// start begins to load the Caddy, which serves.
func (l *load) start(c *caddy) {
	if l == nil {
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	l.ending.Store(false)
	turns := make(chan int)
	for range 32 {
		l.all.Go(func() {
			for n := range turns {
				l.ask(c, n)
			}
		})
	}
	l.all.Go(func() {
		defer l.client.CloseIdleConnections()
		defer close(turns)
		tick := time.NewTicker(time.Second / time.Duration(l.rate))
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			select {
			case turns <- n:
			default: // all are waiting for their answers
				l.late.Add(1)
			}
		}
	})
}

func (l *load) ask(c *caddy, n int) {
	l.pause.RLock()
	defer l.pause.RUnlock()
	body := fmt.Sprint("question ", n)
	req := must(http.NewRequest(http.MethodPost, "http://127.0.0.1:"+l.port+"/", strings.NewReader(body)))
	req.Header.Set("Authorization", "Bearer "+c.phantom)
	l.asked.Add(1)
	res, err := l.client.Do(req)
	if err == nil {
		var got []byte
		got, err = io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err == nil && (res.StatusCode != http.StatusOK || string(got) != body) && !l.ending.Load() {
			l.wrong.Add(1)
			c.t.Errorf("the load got %d %q", res.StatusCode, got)
		}
	}
	if err != nil && !l.ending.Load() {
		l.cut.Add(1)
	}
}

// rest interrupts the load, with all its connections, for as long as f takes.
func (l *load) rest(f func()) {
	if l != nil {
		l.pause.Lock()
		defer l.pause.Unlock()
		l.client.CloseIdleConnections()
		l.upstream.CloseClientConnections()
	}
	f()
}

// end stops the load, once Caddy has been told to end.
func (l *load) end() {
	if l != nil && l.stop != nil {
		l.stop()
		l.all.Wait()
		l.stop = nil
	}
}

// check fails the test if connections were cut that Caddy had no reason to cut.
func (l *load) check(t *testing.T, reloaded bool) {
	t.Helper()
	if l == nil {
		return
	}
	if l.cut.Load() > 0 && !reloaded {
		t.Errorf("%d connections of the load were cut", l.cut.Load())
	}
	t.Logf("the load: %d requests, %d left out, %d cut, %d wrong", l.asked.Load(), l.late.Load(), l.cut.Load(), l.wrong.Load())
}

package e2e

import (
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// fault is what the upstream does with an attempt.
type fault string

const (
	fine      fault = "200"
	slow      fault = "200, slowly"
	cut       fault = "200, cut"
	reset     fault = "a reset"
	broken    fault = "503"
	forbidden fault = "403"
	limited   fault = "429"
	limitedly fault = "429, slowly"
	rejected  fault = "401"
	usedUp    fault = "403 for its quota"
)

// weights are how often each fault comes, of a thousand attempts.
var weights = []struct {
	fault fault
	of    uint64
}{
	{slow, 60},
	{cut, 40},
	{reset, 40},
	{broken, 30},
	{forbidden, 30},
	{limited, 15},
	{limitedly, 5},
	{rejected, 10},
	{usedUp, 10},
}

// refuses reports whether the fault benches the account.
func (f fault) refuses() bool {
	return f == limited || f == limitedly || f == rejected || f == usedUp
}

func (f fault) status() int {
	code, _ := strconv.Atoi(string(f[:3]))
	return code
}

// meaning is the fault in the pool's words; empty if it is no answer.
func (f fault) meaning() string {
	return map[fault]string{
		fine: "ok", slow: "ok", cut: "ok", broken: "overloaded", forbidden: "request_error",
		limited: "rate_limited", limitedly: "rate_limited", rejected: "auth_failed", usedUp: "quota_exhausted",
	}[f]
}

// storm is requests, and what goes wrong with them. All that is chance follows
// from the seed.
type storm struct {
	c      *caddy
	seed   uint64
	ledger *ledger
	asked  int // requests so far
	client *http.Client
	wg     sync.WaitGroup

	// What the operator did, besides reloads.
	acts int
	does *rand.Rand
}

func newStorm(c *caddy, seed uint64) *storm {
	s := &storm{c: c, seed: seed, ledger: newLedger(), does: rand.New(rand.NewPCG(seed, 1))}
	// A kept connection would let this client repeat requests on its own.
	s.client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}, Timeout: time.Minute}
	for _, account := range c.accounts {
		c.upstream.answer(account, func(w http.ResponseWriter, r *http.Request) { s.answer(account, w, r) })
	}
	return s
}

// dice returns a number that is always the same for the same words.
func (s *storm) dice(words ...any) uint64 {
	h := fnv.New64a()
	_, _ = fmt.Fprint(h, append(words, s.seed)...)
	return rand.New(rand.NewPCG(h.Sum64(), s.seed)).Uint64()
}

// plan says what becomes of the n-th attempt at a request. In every fourth
// hundred of requests refusals come in crowds, so that nobody is left at times.
func (s *storm) plan(id, n int) fault {
	at := s.dice("fault", id, n) % 1000
	crowd := uint64(1)
	if id/100%4 == 3 {
		crowd = 10
	}
	for _, w := range weights {
		of := w.of
		if w.fault.refuses() {
			of *= crowd
		}
		if at < of {
			return w.fault
		}
		at -= of
	}
	return fine
}

// answer is the upstream.
func (s *storm) answer(account string, w http.ResponseWriter, r *http.Request) {
	s.c.upstream.forget() // the ledger is kept instead
	id, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
	if err != nil {
		http.Error(w, "no such request", http.StatusNotFound)
		return
	}
	a := s.ledger.enter(id, account, s.plan)
	w.Header().Set("X-Attempt", a.number)
	if a.fault != rejected { // that one is answered before the body is read
		if got, _ := io.Copy(io.Discard, r.Body); r.Header.Get("X-Size") != fmt.Sprint(got) {
			http.Error(w, fmt.Sprintf("a body of %d bytes", got), http.StatusBadRequest)
			return
		}
	}
	body := strings.Repeat("x", 2000)
	switch {
	case a.fault == reset:
		panic(http.ErrAbortHandler)
	case a.fault == usedUp:
		body = `{"code":"insufficient_quota"}`
	case a.fault.refuses(), a.fault == broken:
		w.Header().Set("Retry-After", "1")
	}
	if a.fault == usedUp {
		w.Header().Set("Retry-After", "1")
	}
	w.WriteHeader(a.fault.status())
	s.write(w, r, a.fault, body)
}

// write writes the body as the fault has it.
func (s *storm) write(w http.ResponseWriter, r *http.Request, f fault, body string) {
	if f != slow && f != limitedly && f != cut {
		_, _ = io.WriteString(w, body)
		return
	}
	for part := range 5 {
		if f == cut && part == 2 {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, body[:400])
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// ask makes one request, and enters what came of it.
func (s *storm) ask(id int) {
	o := outcome{method: http.MethodGet, began: time.Now()}
	size := 0
	if kind := s.dice("method", id) % 4; kind > 0 {
		o.method, size = http.MethodPost, []int{0, 20, 5000, 200_000}[kind]
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	req := must(http.NewRequestWithContext(ctx, o.method, s.c.url(fmt.Sprint("/", id)), nil))
	if size > 0 {
		req.Body, req.ContentLength = io.NopCloser(io.LimitReader(zeros{}, int64(size))), int64(size)
		if s.dice("length", id)%2 == 0 {
			req.ContentLength = -1
		}
	}
	req.Header.Set("Authorization", "Bearer "+s.c.phantom)
	req.Header.Set("X-Size", fmt.Sprint(size))
	res, err := s.client.Do(req)
	if err == nil {
		o.status, o.number = res.StatusCode, res.Header.Get("X-Attempt")
		first := make([]byte, 1)
		_, err = io.ReadFull(res.Body, first)
		if o.left = err == nil && s.dice("leaves", id)%20 == 0; o.left {
			cancel()
		}
		if rest, readErr := io.ReadAll(res.Body); err == nil {
			err = readErr
			s.c.sawAnswer("the answers in the storm", answer{res.StatusCode, res.Header, string(rest[:min(100, len(rest))]), nil})
		}
		_ = res.Body.Close()
	}
	o.err, o.ended = err, time.Now()
	s.ledger.close(id, o)
}

// blow goes on for that time with that many requests a second, and returns when
// all have their answers.
func (s *storm) blow(duration time.Duration, rate int, cfg config) {
	s.c.t.Helper()
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	next := time.Now()
	for end := time.Now().Add(duration); time.Now().Before(end) && !s.c.t.Failed(); <-tick.C {
		id := s.asked
		s.asked++
		s.wg.Go(func() { s.ask(id) })
		if time.Now().After(next) {
			s.act(cfg)
			next = time.Now().Add(time.Duration(100+s.does.IntN(400)) * time.Millisecond)
		}
	}
	s.wg.Wait()
}

// act is something that the operator does.
func (s *storm) act(cfg config) {
	c := s.c
	c.t.Helper()
	name := c.accounts[s.does.IntN(len(c.accounts))]
	path, body := "/credential_pool/pools/api/members/"+name+"/recover", ""
	switch s.does.IntN(5) {
	case 0:
		cfg.global = fmt.Sprintf("\tgrace_period %ds", 10+s.does.IntN(1000)) // else nothing is reloaded
		if err := c.load(cfg); err != nil {
			c.t.Errorf("a reload: %v", err)
		}
		return
	case 1:
		if name == c.accounts[0] { // that one is inline
			return
		}
		r := replacement{account: name, began: time.Now()}
		c.put(name)
		r.ended = time.Now()
		s.ledger.replaced(r)
		return
	case 2:
		path, body = "/credential_pool/pools/api/rotate", fmt.Sprintf(`{"park_for":"%ds"}`, 1+s.does.IntN(3))
	case 3:
		path, body = "/credential_pool/pools/api/members/"+name+"/park", fmt.Sprintf(`{"for":"%ds"}`, 1+s.does.IntN(3))
	}
	s.acts++
	if a := c.admin(http.MethodPost, path, body); a.status != http.StatusOK && a.status != http.StatusConflict {
		c.t.Errorf("POST %s: %d %s", path, a.status, a.body)
	}
}

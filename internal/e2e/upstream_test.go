package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// hit is a request as the upstream got it.
type hit struct {
	account string // whose credential it had; "" for none, "?" for an unknown one
	method  string
	path    string
	proto   string
	header  http.Header
	at      time.Time
}

// upstream is the mock of an API. Each account answers as it is told to;
// without that, with 200 and the account's name.
type upstream struct {
	*httptest.Server

	mu       sync.Mutex
	accounts map[string]string // by secret
	answers  map[string]http.HandlerFunc
	hits     []hit
}

func newUpstream(t *testing.T) *upstream {
	u := &upstream{accounts: make(map[string]string), answers: make(map[string]http.HandlerFunc)}
	u.Server = httptest.NewUnstartedServer(u)
	u.Config.Protocols = new(http.Protocols)
	u.Config.Protocols.SetHTTP1(true)
	u.Config.Protocols.SetUnencryptedHTTP2(true)
	u.Start()
	t.Cleanup(func() {
		u.CloseClientConnections()
		u.Close()
	})
	return u
}

// answer says what the account answers from now on.
func (u *upstream) answer(account string, h http.HandlerFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answers[account] = h
}

// seen returns the requests so far.
func (u *upstream) seen() []hit {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]hit(nil), u.hits...)
}

// served returns whose credentials the requests so far had, in order.
func (u *upstream) served() []string {
	accounts := []string{}
	for _, h := range u.seen() {
		accounts = append(accounts, h.account)
	}
	return accounts
}

func (u *upstream) forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.hits = nil
}

// whose finds the account by its credential, in either header that tests use.
func (u *upstream) whose(r *http.Request) string {
	secret := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if key := r.Header.Get("X-Api-Key"); key != "" {
		secret = key
	}
	if secret == "" {
		return ""
	}
	if account, ok := u.accounts[secret]; ok {
		return account
	}
	return "?"
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	account := u.whose(r)
	u.hits = append(u.hits, hit{account, r.Method, r.URL.RequestURI(), r.Proto, r.Header.Clone(), time.Now()})
	answer := u.answers[account]
	u.mu.Unlock()
	if answer == nil {
		answer = func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			fmt.Fprintf(w, "served by %s", account)
		}
	}
	answer(w, r)
}

// status answers with that status, with the headers given as name and value,
// and with a short body. It reads the request's body first.
func status(code int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		for i := 0; i < len(header); i += 2 {
			w.Header().Add(header[i], header[i+1])
		}
		w.WriteHeader(code)
		fmt.Fprintf(w, "status %d", code)
	}
}

// refusal answers with that status and body.
func refusal(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

// refusals are one for each of the statuses that bench a credential by themselves.
var refusals = map[string]http.HandlerFunc{"429": status429, "401": status(http.StatusUnauthorized)}

// gate holds answers back until it is opened.
type gate struct {
	arrived chan struct{} // one for each request that waits
	opened  chan struct{}
	once    sync.Once
}

func newGate(t *testing.T) *gate {
	g := &gate{arrived: make(chan struct{}, 1000), opened: make(chan struct{})}
	t.Cleanup(g.open)
	return g
}

func (g *gate) open() { g.once.Do(func() { close(g.opened) }) }

// before answers with h once the gate is open.
func (g *gate) before(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		g.arrived <- struct{}{}
		select {
		case <-g.opened:
		case <-r.Context().Done():
		}
		h(w, r)
	}
}

// wait waits until n requests have arrived.
func (g *gate) wait(t *testing.T, n int) {
	t.Helper()
	for range n {
		select {
		case <-g.arrived:
		case <-time.After(patience):
			t.Fatal("the upstream was not asked")
		}
	}
}

package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"
)

// tokenServer is a token endpoint whose refresh tokens work once. One that is
// used again revokes all of its account (RFC 9700, section 4.14.2). The tokens of
// an account are access-<account>-<n> and refresh-<account>-<n>.
type tokenServer struct {
	mu       sync.Mutex
	accounts map[string]*tokenAccount
	grants   []time.Time // that were made
	hits     []string    // method and path of every request
	styles   []string    // how the client showed who it is
	reuses   int

	// before answers in the place of the server if it returns true. It runs
	// without the lock.
	before func(w http.ResponseWriter, r *http.Request) bool
	// shape changes an answer with tokens.
	shape func(answer map[string]any)
	// lose makes the server grant, and the answer get lost.
	lose bool
}

type tokenAccount struct {
	n       int
	revoked bool
}

func newTokenServer(accounts ...string) *tokenServer {
	s := &tokenServer{accounts: make(map[string]*tokenAccount)}
	for _, name := range accounts {
		s.accounts[name] = &tokenAccount{n: 1}
	}
	return s
}

func accessToken(account string, n int) string  { return fmt.Sprintf("access-%s-%d", account, n) }
func refreshToken(account string, n int) string { return fmt.Sprintf("refresh-%s-%d", account, n) }

// set changes the switches.
func (s *tokenServer) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// granted returns how many grants were made, and how many tokens were used again.
func (s *tokenServer) granted() (grants, reuses int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.grants), s.reuses
}

// seen returns what was asked.
func (s *tokenServer) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.hits)
}

// times returns when grants were made.
func (s *tokenServer) times() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.grants)
}

// newest returns the number of the account's newest tokens.
func (s *tokenServer) newest(account string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accounts[account].n
}

// accepts reports whether the token is the newest of an account that is not
// revoked.
func (s *tokenServer) accepts(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, a := range s.accounts {
		if token == accessToken(name, a.n) {
			return !a.revoked
		}
	}
	return false
}

func (s *tokenServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	s.mu.Lock()
	s.hits = append(s.hits, r.Method+" "+r.URL.Path)
	before := s.before
	s.mu.Unlock()
	if before != nil && before(w, r) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	style := "params"
	if _, _, ok := r.BasicAuth(); ok {
		style = "header"
	}
	s.styles = append(s.styles, style)
	w.Header().Set("Content-Type", "application/json")
	for name, a := range s.accounts {
		if !strings.HasPrefix(r.PostForm.Get("refresh_token"), "refresh-"+name+"-") {
			continue
		}
		if a.revoked || r.PostForm.Get("refresh_token") != refreshToken(name, a.n) {
			a.revoked = true
			s.reuses++
			break
		}
		a.n++
		s.grants = append(s.grants, time.Now())
		if s.lose {
			panic(http.ErrAbortHandler)
		}
		answer := map[string]any{"access_token": accessToken(name, a.n), "refresh_token": refreshToken(name, a.n), "token_type": "Bearer", "expires_in": 600}
		if s.shape != nil {
			s.shape(answer)
		}
		_ = json.NewEncoder(w).Encode(answer)
		return
	}
	w.WriteHeader(http.StatusBadRequest)
	_, _ = w.Write([]byte(`{"error":"invalid_grant","error_description":"` + r.PostForm.Get("refresh_token") + ` was used"}`))
}

// RoundTrip lets the server be asked without a network.
func (s *tokenServer) RoundTrip(req *http.Request) (*http.Response, error) {
	return askWithoutNetwork(s, req, errors.New("the connection broke"))
}

// askWithoutNetwork returns what the handler answers, or broken if it panics.
func askWithoutNetwork(h http.Handler, req *http.Request, broken error) (*http.Response, error) {
	answers := make(chan *http.Response, 1)
	go func() {
		defer close(answers)
		defer func() { _ = recover() }()
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, req)
		answers <- rec.Result()
	}()
	select {
	case res, ok := <-answers:
		if !ok {
			return nil, broken
		}
		return res, nil
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
}

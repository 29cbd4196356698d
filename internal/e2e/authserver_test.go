package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/storage"
	"golang.org/x/crypto/bcrypt"
)

// tokenPath is where an authorization server gives out tokens.
const tokenPath = "/oauth/token"

// authServer is an authorization server whose refresh tokens work once: who uses
// one again loses the whole login. Fosite decides what is granted, and issues it.
// What is around it keeps a ledger, and answers as a test wants.
type authServer struct {
	*httptest.Server
	caddies  []*caddy // that must not show a token
	provider fosite.OAuth2Provider
	store    *authStore
	secret   string // of the client with the name confidential

	mu      sync.Mutex
	instead http.HandlerFunc  // answers a refresh, and nothing is granted
	sender  sending           // brings the answer of a refresh to the client
	issued  map[string]issue  // by token
	used    map[string]bool   // refresh tokens
	logins  map[string]string // the last one, by account
	ledger  []grant           // of all refreshes, in order
}

// sending is how the answer to a refresh gets to the client.
type sending func(w http.ResponseWriter, r *http.Request, answer map[string]any)

// issue is what a token was issued for.
type issue struct {
	account    string
	login      string // one from its beginning to the next one of that account
	generation int    // counts its refreshes
}

// grant is a refresh that a client has asked for.
type grant struct {
	issue        // of the refresh token; zero if it is not one of this server's
	granted bool // there are new tokens
	reused  bool // the refresh token had been used before
	known   bool // the refresh token is one of this server's
}

// authStore decides what a refresh ends.
type authStore struct {
	*storage.MemoryStore
	keeps  atomic.Bool // a refresh token works again, as with servers that don't rotate them
	strict atomic.Bool // the access token before ends, too
}

// RotateRefreshToken ends the tokens that were issued before.
func (s *authStore) RotateRefreshToken(ctx context.Context, id, _ string) error {
	if s.keeps.Load() {
		return nil
	}
	if s.strict.Load() {
		if err := s.RevokeAccessToken(ctx, id); err != nil {
			return err
		}
	}
	return s.RevokeRefreshToken(ctx, id)
}

// newAuthServer starts an authorization server with a public client, named app,
// and one that has to show a secret, named confidential. The Caddys must not
// show its tokens, and have an upstream that asks it about them.
func newAuthServer(t *testing.T, caddies ...*caddy) *authServer {
	t.Helper()
	s := &authServer{
		caddies: caddies, store: &authStore{MemoryStore: storage.NewMemoryStore()},
		issued: make(map[string]issue), used: make(map[string]bool), logins: make(map[string]string), sender: send200,
	}
	s.secret = s.canary()
	hash := must(bcrypt.GenerateFromPassword([]byte(s.secret), bcrypt.MinCost))
	for _, client := range []*fosite.DefaultClient{{ID: "app", Public: true}, {ID: "confidential", Secret: hash}} {
		client.GrantTypes, client.Scopes = fosite.Arguments{"password", "refresh_token", "client_credentials"}, fosite.Arguments{"offline"}
		s.store.Clients[client.ID] = client
	}
	cfg := &fosite.Config{AccessTokenLifespan: time.Hour, GlobalSecret: []byte(newCanary().core)}
	s.provider = compose.Compose(cfg, s.store, compose.NewOAuth2HMACStrategy(cfg),
		compose.OAuth2ResourceOwnerPasswordCredentialsFactory, compose.OAuth2RefreshTokenGrantFactory,
		compose.OAuth2ClientCredentialsGrantFactory, compose.OAuth2TokenIntrospectionFactory)
	s.Server = httptest.NewServer(s)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// canary makes a secret that no Caddy may show.
func (s *authServer) canary() string {
	c := newCanary()
	s.watch(c)
	return c.secret()
}

func (s *authServer) watch(c canary) {
	for _, caddy := range s.caddies {
		caddy.watch(c)
	}
}

// refuse makes it answer every refresh so, and grant nothing; nil ends that.
func (s *authServer) refuse(h http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.instead = h
}

// send makes the answer to every refresh that it grants go this way.
func (s *authServer) send(d sending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sender = d
}

// send200 is how an answer is delivered by default.
func send200(w http.ResponseWriter, _ *http.Request, answer map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// with changes an answer before it is sent; a value that is nil is left out.
func with(changes map[string]any) sending {
	return func(w http.ResponseWriter, r *http.Request, answer map[string]any) {
		maps.Copy(answer, changes)
		maps.DeleteFunc(answer, func(_ string, value any) bool { return value == nil })
		send200(w, r, answer)
	}
}

// held keeps answers back until the gate is open.
func (g *gate) held(w http.ResponseWriter, r *http.Request, answer map[string]any) {
	g.before(func(w http.ResponseWriter, r *http.Request) { send200(w, r, answer) })(w, r)
}

// lost closes the connection in the place of an answer.
func lost(http.ResponseWriter, *http.Request, map[string]any) { panic(http.ErrAbortHandler) }

func (s *authServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx := context.WithoutCancel(r.Context()) // a grant is made whole
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	instead, sender := s.instead, s.sender
	s.mu.Unlock()
	refresh := r.PostForm.Get("grant_type") == "refresh_token"
	switch {
	case r.URL.Path != tokenPath:
		http.NotFound(w, r)
	case refresh && instead != nil:
		instead(w, r)
	default:
		answer, asked, err := s.issueTokens(ctx, r)
		if err != nil {
			s.provider.WriteAccessError(ctx, w, asked, err)
			return
		}
		if !refresh {
			sender = send200
		}
		sender(w, r, answer)
	}
}

// issueTokens asks Fosite for tokens, and keeps the ledger.
func (s *authServer) issueTokens(ctx context.Context, r *http.Request) (map[string]any, fosite.AccessRequester, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := r.PostForm.Get("refresh_token")
	of, known := s.issued[old]
	asked, err := s.provider.NewAccessRequest(ctx, r, new(fosite.DefaultSession))
	if err == nil {
		for _, scope := range asked.GetRequestedScopes() {
			asked.GrantScope(scope)
		}
	}
	var issued fosite.AccessResponder
	if err == nil {
		issued, err = s.provider.NewAccessResponse(ctx, asked)
	}
	if old != "" {
		s.ledger = append(s.ledger, grant{issue: of, granted: err == nil, reused: s.used[old], known: known})
	}
	if err != nil {
		return nil, asked, err
	}
	if old != "" {
		s.used[old] = !s.store.keeps.Load()
		of.generation++
	} else {
		of = issue{account: r.PostForm.Get("username"), login: asked.GetID()}
		s.logins[of.account] = of.login
	}
	answer := issued.ToMap()
	for _, name := range []string{"access_token", "refresh_token"} {
		if token, ok := answer[name].(string); ok {
			s.issued[token] = of
			s.watch(canary{token})
		}
	}
	s.tell(answer["access_token"].(string), of.account)
	return answer, asked, nil
}

// tell makes the upstream know a token, which it then asks about.
func (s *authServer) tell(token, account string) {
	u := s.caddies[0].upstream
	u.mu.Lock()
	defer u.mu.Unlock()
	u.accounts[token] = account
	if u.answers[account] == nil {
		u.answers[account] = s.guard(account)
	}
}

// guard is the API of an account, which takes a token if this server does.
func (s *authServer) guard(account string) http.HandlerFunc {
	return s.guarded(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "served by %s", account)
	})
}

// guarded lets those in whose token this server takes.
func (s *authServer) guarded(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s.rejects(r) {
			status(http.StatusUnauthorized)(w, r)
			return
		}
		h(w, r)
	}
}

// rejects reports whether the API of the account has to refuse the request.
func (s *authServer) rejects(r *http.Request) bool {
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	_, _, err := s.provider.IntrospectToken(r.Context(), token, fosite.AccessToken, new(fosite.DefaultSession))
	return err != nil
}

// end ends the account's newest access token.
func (s *authServer) end(account string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.store.RevokeAccessToken(context.Background(), s.logins[account])
}

// of returns what a token was issued for.
func (s *authServer) of(token string) issue {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.issued[token]
}

// isNewest reports whether no other refresh token was issued after that one.
func (s *authServer) isNewest(refresh string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.used[refresh]
}

// tokens are the answer to a login.
type tokens struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
}

// logIn begins a login of the account's owner by that client.
func (s *authServer) logIn(account, client string) (got tokens) {
	res := must(http.PostForm(s.URL+tokenPath, s.password(account, client)))
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&got); err != nil || got.Refresh == "" {
		panic(fmt.Sprint("logging in: ", res.Status, " ", err))
	}
	return got
}

// password is a grant (RFC 6749, section 4.3) that begins a login.
func (s *authServer) password(account, client string) url.Values {
	password := s.canary()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.store.Users[account] = storage.MemoryUserRelation{Username: account, Password: password}
	form := url.Values{"grant_type": {"password"}, "username": {account}, "password": {password}, "scope": {"offline"}, "client_id": {client}}
	if client == "confidential" {
		form.Set("client_secret", s.secret)
	}
	return form
}

// put puts a new login of each account in the vault, with access tokens that
// end then.
func (s *authServer) put(c *caddy, expires time.Time, accounts ...string) {
	c.t.Helper()
	for _, account := range accounts {
		s.putWith(c, expires, account, "app", nil)
	}
}

// putWith puts a login of that client, with more of what a put may hold.
func (s *authServer) putWith(c *caddy, expires time.Time, account, client string, more map[string]any) {
	c.t.Helper()
	got := s.logIn(account, client)
	if !expires.After(time.Now()) {
		s.end(account)
	}
	body := map[string]any{
		"kind": "oauth", "access_token": got.Access, "refresh_token": got.Refresh,
		"expires_at": expires.UTC(), "token_url": s.URL + tokenPath, "client_id": client,
	}
	maps.Copy(body, more)
	c.want(200, http.MethodPut, "/credential_pool/credentials/api/"+account, string(must(json.Marshal(body))), nil)
}

// grants returns the refreshes so far.
func (s *authServer) grants() []grant {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]grant(nil), s.ledger...)
}

// saw fails the test unless there were so many refreshes that were granted, and
// so many attempts with a refresh token that had been used.
func (s *authServer) saw(t *testing.T, granted, reused int) {
	t.Helper()
	g, r := 0, 0
	for _, asked := range s.grants() {
		if !asked.known {
			t.Error("the token endpoint was sent what is no refresh token of its own")
		}
		if asked.granted {
			g++
		}
		if asked.reused {
			r++
		}
	}
	equal(t, "refreshes granted, and used tokens", fmt.Sprint(g, " ", r), fmt.Sprint(granted, " ", reused))
}

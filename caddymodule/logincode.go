package caddymodule

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"html"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"
)

const (
	// defaultRedirect is where the browser brings the code, at a port that is
	// free.
	defaultRedirect = "http://127.0.0.1:0/callback"

	redirectTime = 5 * time.Second // for one request of the browser
	redirectEnd  = time.Second     // for its last page, when the login is over
	maxRedirect  = 64 << 10        // bytes of what it sends
)

// codeLogin logs in with an authorization code (RFC 6749, section 4.1), PKCE
// (RFC 7636) and a redirect to this machine (RFC 8252, section 7.3).
func (a *authorization) codeLogin(ctx context.Context, redirect string) (*oauth2.Token, error) {
	listener, uri, err := listenForRedirect(ctx, redirect)
	if err != nil {
		return nil, err
	}
	verifier := oauth2.GenerateVerifier()
	target := &redirectTarget{
		uri: uri, state: rand.Text(), issuer: a.server.Issuer, namesIssuer: a.server.NamesIssuer,
		answer: make(chan authAnswer, 1),
	}
	server := &http.Server{
		Handler: target, ReadTimeout: redirectTime, WriteTimeout: redirectTime, IdleTimeout: redirectTime,
		MaxHeaderBytes: maxRedirect, ErrorLog: log.New(io.Discard, "", 0),
	}
	go func() { _ = server.Serve(listener) }()
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), redirectEnd)
		defer cancel()
		_ = server.Shutdown(ctx) // so that the browser gets its page
	}()

	a.config.RedirectURL = uri.String()
	options := append([]oauth2.AuthCodeOption{oauth2.S256ChallengeOption(verifier)}, a.params...)
	a.say("\nTo log in %s, open this address in a browser on this machine:\n\n    %s\n\n"+
		"The browser is then sent to %s, which this command answers. The client must be registered for that.\n",
		a.name, a.config.AuthCodeURL(target.state, options...), uri)
	done := a.wait("Waiting for the login")
	defer done()
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case answer := <-target.answer:
		if answer.err != nil {
			return nil, answer.err
		}
		a.secrets = append(a.secrets, answer.code, verifier)
		token, err := a.config.Exchange(a.asking(ctx), answer.code, oauth2.VerifierOption(verifier))
		switch {
		case err == nil:
			return token, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		}
		return a.rescue(err)
	}
}

// listenForRedirect listens where the browser is to be sent, and returns that
// address.
func listenForRedirect(ctx context.Context, redirect string) (net.Listener, *url.URL, error) {
	uri, err := url.Parse(redirect)
	if err != nil || uri.Scheme != "http" || uri.Port() == "" || uri.User != nil || uri.RawQuery != "" || uri.Fragment != "" {
		return nil, nil, errors.New("--redirect must be an address such as http://127.0.0.1:1455/auth/callback, as the client is registered with; port 0 takes a free one")
	}
	host := uri.Hostname()
	if strings.EqualFold(host, "localhost") {
		host = "127.0.0.1" // not what a resolver makes of it (RFC 8252, section 8.3)
	}
	if !net.ParseIP(host).IsLoopback() {
		return nil, nil, errors.New("--redirect must be on this machine: 127.0.0.1, [::1] or localhost")
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(host, uri.Port()))
	if err != nil {
		return nil, nil, fmt.Errorf("--redirect: the browser can't be answered there: %w; is another login under way?", err)
	}
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	uri.Host = strings.TrimSuffix(uri.Host, uri.Port()) + port
	return listener, uri, nil
}

// authAnswer is what the authorization server has the browser bring: a code, or
// why there is none.
type authAnswer struct {
	code string
	err  error
}

// redirectTarget takes the answer of the authorization server from the browser,
// once.
type redirectTarget struct {
	uri         *url.URL
	state       string // that the answer must have
	issuer      string // that the answer must name, if any; empty if it is not known
	namesIssuer bool   // the answer must name one
	answer      chan authAnswer

	mu    sync.Mutex
	taken bool
}

// ServeHTTP implements [http.Handler]. Pages of other sites can have the browser
// come here, too: what is not the answer changes nothing.
func (t *redirectTarget) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	switch {
	case !strings.EqualFold(strings.TrimSuffix(r.Host, ":80"), strings.TrimSuffix(t.uri.Host, ":80")): // a name that was made to lead here
		page(w, http.StatusMisdirectedRequest, "Nothing is here.")
	case r.URL.EscapedPath() != orDefault(t.uri.EscapedPath(), "/"):
		page(w, http.StatusNotFound, "Nothing is here.")
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", http.MethodGet)
		page(w, http.StatusMethodNotAllowed, "The answer to a login comes as a GET.")
	case err != nil || !t.isOurs(query):
		page(w, http.StatusBadRequest, "This is not the answer to the login that is under way. Nothing was changed. "+
			"Open the address that the command shows, and no older one.")
	default:
		t.take(w, query)
	}
}

// isOurs reports whether the answer is to what this login has asked.
func (t *redirectTarget) isOurs(query url.Values) bool {
	for _, values := range query {
		if len(values) > 1 { // RFC 6749, section 3.1
			return false
		}
	}
	return subtle.ConstantTimeCompare([]byte(query.Get("state")), []byte(t.state)) == 1
}

func (t *redirectTarget) take(w http.ResponseWriter, query url.Values) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.taken {
		page(w, http.StatusConflict, "This login has had its answer already. See the command for what became of it.")
		return
	}
	t.taken = true
	var answer authAnswer
	switch code := query.Get("code"); {
	case (t.namesIssuer || query.Has("iss")) && t.issuer != "" && query.Get("iss") != t.issuer: // RFC 9207, section 2.4
		answer.err = errors.New("the answer is from another authorization server than the one that was asked; it was not used")
	case query.Has("error"):
		answer.err = refused(query.Get("error"), query.Get("error_description"), t.state)
	case code == "":
		answer.err = errors.New("the answer of the authorization server holds no code")
	default:
		answer.code = code
	}
	if answer.err != nil {
		page(w, http.StatusOK, "The login has failed: "+answer.err.Error()+".")
	} else {
		page(w, http.StatusOK, "The answer has arrived. You can close this page; the command says what becomes of it.")
	}
	t.answer <- answer
}

// page answers with a small page. Its own address holds the code, which must not
// be kept, or sent elsewhere.
func page(w http.ResponseWriter, status int, text string) {
	for name, value := range map[string]string{
		"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer",
		"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", "X-Content-Type-Options": "nosniff",
		"Connection": "close",
	} {
		w.Header().Set(name, value)
	}
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, "<!DOCTYPE html>\n<title>caddy credential-pool login</title>\n<p>%s</p>\n", html.EscapeString(text))
}

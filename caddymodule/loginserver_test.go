package caddymodule

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

const loginIssuer = "https://id.example.com"

// What the authorization server gives out, and must not be shown.
const (
	loginAccess, loginRefresh = "canary-access-0123456789", "canary-refresh-0123456789"
	loginSecret               = "canary-client-secret-0123"
	loginDevice, loginAuth    = "canary-device-code-0123", "canary-auth-code-0123"
)

// loginServer is an authorization server of one client, with id "app". It is
// asked without a network.
type loginServer struct {
	mu       sync.Mutex
	metadata map[string]any // by path
	device   map[string]any // the answer to the request of a code
	answers  []string       // of the token endpoint, one after the other; the last one stays
	tokens   map[string]any // the answer with tokens
	redirect url.Values     // what the browser brings in place of a code
	declares string         // the Content-Type of its JSON

	hits      []string // method and path of every request
	polls     []time.Time
	asked     url.Values // of the last authorization request, or the one of a code
	style     string     // how the client showed its secret at the last request
	challenge string
}

func newLoginServer() *loginServer {
	known := map[string]any{
		"issuer": loginIssuer, "token_endpoint": loginIssuer + "/token", "authorization_endpoint": loginIssuer + "/authorize",
		"device_authorization_endpoint": loginIssuer + "/device",
	}
	return &loginServer{
		metadata: map[string]any{"/.well-known/oauth-authorization-server": known},
		device: map[string]any{
			"device_code": loginDevice, "user_code": "WDJB-MJHT", "verification_uri": loginIssuer + "/activate",
			"expires_in": 900, "interval": 5,
		},
		answers: []string{"tokens"}, declares: "application/json",
		tokens: map[string]any{"access_token": loginAccess, "refresh_token": loginRefresh, "token_type": "Bearer", "expires_in": 3600},
	}
}

func (s *loginServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = r.ParseForm()
	s.hits = append(s.hits, r.Method+" "+r.URL.Path)
	if r.Method == http.MethodPost {
		s.style = "none"
		if id, secret, ok := r.BasicAuth(); ok && id == "app" && secret == loginSecret {
			s.style = "header"
		} else if r.PostForm.Get("client_secret") == loginSecret {
			s.style = "params"
		}
	}
	w.Header().Set("Content-Type", s.declares)
	switch r.URL.Path {
	case "/device":
		s.asked = r.PostForm
		answerJSON(w, http.StatusOK, s.device)
	case "/authorize":
		s.authorize(w, r)
	case "/token":
		s.token(w, r)
	default:
		known, ok := s.metadata[r.URL.Path]
		if text, isText := known.(string); isText {
			_, _ = io.WriteString(w, text)
		} else if ok {
			answerJSON(w, http.StatusOK, known)
		} else {
			http.NotFound(w, r)
		}
	}
}

func answerJSON(w http.ResponseWriter, status int, answer any) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer)
}

// authorize sends the browser back at once.
func (s *loginServer) authorize(w http.ResponseWriter, r *http.Request) {
	s.asked = r.Form
	s.challenge = r.Form.Get("code_challenge")
	back := url.Values{"code": {loginAuth}, "state": {r.Form.Get("state")}}
	maps.Copy(back, s.redirect)
	if back.Has("error") {
		back.Del("code")
	}
	w.Header().Set("Location", r.Form.Get("redirect_uri")+"?"+back.Encode())
	w.WriteHeader(http.StatusFound)
}

// token gives the next answer.
func (s *loginServer) token(w http.ResponseWriter, r *http.Request) {
	s.polls = append(s.polls, time.Now())
	answer := s.answers[0]
	if len(s.answers) > 1 {
		s.answers = s.answers[1:]
	}
	switch r.PostForm.Get("grant_type") {
	case "urn:ietf:params:oauth:grant-type:device_code":
		if r.PostForm.Get("device_code") != loginDevice || r.PostForm.Get("client_id") != "app" {
			answer = "invalid_request"
		}
	case "authorization_code":
		sum := sha256.Sum256([]byte(r.PostForm.Get("code_verifier")))
		if r.PostForm.Get("code") != loginAuth || base64.RawURLEncoding.EncodeToString(sum[:]) != s.challenge ||
			r.PostForm.Get("redirect_uri") != s.asked.Get("redirect_uri") {
			answer = "invalid_grant"
		}
	default:
		answer = "unsupported_grant_type"
	}
	switch answer {
	case "tokens":
		answerJSON(w, http.StatusOK, s.tokens)
	case "break":
		panic(http.ErrAbortHandler)
	case "hang":
		s.mu.Unlock()
		<-r.Context().Done()
		s.mu.Lock()
	case "503":
		w.WriteHeader(http.StatusServiceUnavailable)
	case "307":
		w.Header().Set("Location", "https://elsewhere.example/token")
		w.WriteHeader(http.StatusTemporaryRedirect)
	case "page":
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<p>"+loginAccess)
	case "large":
		_, _ = io.WriteString(w, `{"access_token":"`+strings.Repeat("x", 2*maxGrant)+`"}`)
	case "steers": // the terminal
		answerJSON(w, http.StatusBadRequest, map[string]string{"error": "\x1b[2Jodd", "error_description": "line\r\nline \u202e" + strings.Repeat("x", 1000)})
	case "echoes", "echoes, and is not well":
		status := http.StatusBadRequest
		if answer != "echoes" {
			status = http.StatusServiceUnavailable
		}
		answerJSON(w, status, map[string]string{
			"error": "invalid_request", "error_description": "not " + orDefault(r.Header.Get("Authorization"), r.PostForm.Encode()),
		})
	default:
		answerJSON(w, http.StatusBadRequest, map[string]string{"error": answer, "error_description": "because"})
	}
}

// RoundTrip lets the server be asked without a network.
func (s *loginServer) RoundTrip(req *http.Request) (*http.Response, error) {
	return askWithoutNetwork(s, req, fmt.Errorf("malformed HTTP response %q", loginAccess))
}

// seen returns what was asked.
func (s *loginServer) seen() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.hits, ", ")
}

// attempt is one login.
type attempt struct {
	body credentialBody
	said string
	err  error
}

// logIn logs in as the flags say, to which what every login needs is added. When
// there is something to open, the browser is called with it.
func (s *loginServer) logIn(ctx context.Context, t *testing.T, f loginFlags, secret string, browse func(address string)) attempt {
	t.Helper()
	if f.server.TokenURL == "" && f.issuer == "" {
		f.issuer = loginIssuer
	}
	f.clientID, f.redirect = orDefault(f.clientID, "app"), orDefault(f.redirect, defaultRedirect)
	if f.timeout == 0 {
		f.timeout = loginTime
	}
	a, err := f.authorization([]string{"api", "work"})
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	a.say = func(format string, args ...any) { fmt.Fprintf(&said, format, args...) }
	var browsers sync.WaitGroup
	a.wait = func(string) func() {
		for line := range strings.Lines(said.String()) {
			if address := strings.TrimSpace(line); browse != nil && strings.HasPrefix(address, loginIssuer+"/authorize?") {
				browsers.Go(func() { browse(address) })
			}
		}
		return func() {}
	}
	client := &http.Client{Transport: s, CheckRedirect: newTokenClient().CheckRedirect}
	body, err := a.run(ctx, client, &f, secret)
	browsers.Wait()
	for _, canary := range []string{loginAccess, loginRefresh, loginSecret, loginDevice, loginAuth} {
		if strings.Contains(said.String()+fmt.Sprint(err), canary) {
			t.Errorf("%s is shown: %s %v", canary, said.String(), err)
		}
	}
	return attempt{body, said.String(), err}
}

// browse opens the address, and follows it to this machine. It returns the page
// that is shown in the end.
func (s *loginServer) browse(t *testing.T, address string, change func(back *url.URL)) (int, string) {
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	rec := httptest.NewRecorder()
	s.ServeHTTP(rec, req)
	back, err := rec.Result().Location()
	if err != nil {
		t.Errorf("%s: %v", address, err)
		return 0, ""
	}
	if change != nil {
		change(back)
	}
	return get(t, back.String(), "")
}

// get opens an address on this machine.
func get(t *testing.T, address, host string) (int, string) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, http.NoBody)
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	req.Host = host
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(body)
}

package caddymodule

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCodeLogin(t *testing.T) {
	free := freeAddress(t)
	for redirect, want := range map[string]string{
		"":                                  "http://127.0.0.1:",
		"http://" + free + "/auth/callback": "http://" + free + "/auth/callback",
		"http://localhost:0/cb":             "http://localhost:",
		"http://127.0.0.1:0":                "http://127.0.0.1:",
	} {
		s := newLoginServer()
		var status int
		var page string
		got := s.logIn(t.Context(), t, loginFlags{flow: flowCode, redirect: redirect, scopes: []string{"a", "b"}, params: []string{"prompt=consent"}}, loginSecret,
			func(address string) { status, page = s.browse(t, address, nil) })
		if got.err != nil || got.body.AccessToken != loginAccess || got.body.RefreshToken != loginRefresh {
			t.Errorf("%s: error %v, the login is of %s", redirect, got.err, got.body.ClientID)
		}
		if status != 200 || !strings.Contains(page, "The answer has arrived") {
			t.Errorf("%s: the browser shows %d %s", redirect, status, page)
		}
		q := s.asked
		if !strings.HasPrefix(q.Get("redirect_uri"), want) || strings.HasSuffix(q.Get("redirect_uri"), ":0") || q.Get("response_type") != "code" ||
			q.Get("code_challenge_method") != "S256" || len(q.Get("state")) < 20 || q.Get("scope") != "a b" || q.Get("prompt") != "consent" || q.Get("client_id") != "app" {
			t.Errorf("%s: asked for a code with %v", redirect, q)
		}
	}
}

func TestCodeLogin_failsClosed(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(s *loginServer)
		back   func(back *url.URL)
		err    string
		page   string
	}{
		"denied": {
			func(s *loginServer) {
				s.redirect = url.Values{"error": {"access_denied"}, "error_description": {"<b>no\x1b[2J"}}
			},
			nil, "access_denied (<b>no?[2J); the login was denied", "&lt;b&gt;no?[2J",
		},
		"no code": {func(s *loginServer) { s.redirect = url.Values{"code": {""}} }, nil, "holds no code", "holds no code"},
		"another code, which a third one has injected": {
			func(s *loginServer) { s.redirect = url.Values{"code": {"of another login"}} }, nil, "refuses: invalid_grant", "has arrived",
		},
		"another verifier": {
			func(*loginServer) {}, func(*url.URL) {}, "", "has arrived", // see below
		},
		"another server": {
			func(s *loginServer) { s.redirect = url.Values{"iss": {"https://evil.example"}} }, nil,
			"from another authorization server", "from another authorization server",
		},
		"no server, where it must be named": {
			func(s *loginServer) {
				s.metadata["/.well-known/oauth-authorization-server"].(map[string]any)["authorization_response_iss_parameter_supported"] = true
			}, nil, "from another authorization server", "from another authorization server",
		},
		"the tokens are refused":      {func(s *loginServer) { s.answers = []string{"unauthorized_client"} }, nil, "try the other --flow", "has arrived"},
		"the endpoint answers a page": {func(s *loginServer) { s.answers = []string{"page"} }, nil, "is none of OAuth", "has arrived"},
		"the endpoint breaks off":     {func(s *loginServer) { s.answers = []string{"break"} }, nil, "no answer from the token endpoint", "has arrived"},
		"the endpoint redirects":      {func(s *loginServer) { s.answers = []string{"307"} }, nil, "which is not followed", "has arrived"},
		"the endpoint repeats":        {func(s *loginServer) { s.answers = []string{"echoes"} }, nil, "withheld", "has arrived"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newLoginServer()
			tc.change(s)
			if name == "another verifier" {
				tc.back = func(*url.URL) { s.challenge = "of another login" }
				tc.err = "refuses: invalid_grant"
			}
			var page string
			got := s.logIn(t.Context(), t, loginFlags{flow: flowCode}, loginSecret, func(address string) { _, page = s.browse(t, address, tc.back) })
			if got.err == nil || !strings.Contains(got.err.Error(), tc.err) {
				t.Errorf("error %v, want %s", got.err, tc.err)
			}
			if !strings.Contains(page, tc.page) {
				t.Errorf("the browser shows %s, want %s", page, tc.page)
			}
		})
	}
}

func TestCodeLogin_namedServerIsTheRightOne(t *testing.T) {
	s := newLoginServer()
	s.metadata["/.well-known/oauth-authorization-server"].(map[string]any)["authorization_response_iss_parameter_supported"] = true
	s.redirect = url.Values{"iss": {loginIssuer}}
	if got := s.logIn(t.Context(), t, loginFlags{flow: flowCode}, "", func(address string) { s.browse(t, address, nil) }); got.err != nil {
		t.Error(got.err)
	}
}

// What is not the answer to this login must not end it, nor be used.
func TestCodeLogin_othersAtTheDoorChangeNothing(t *testing.T) {
	s := newLoginServer()
	got := s.logIn(t.Context(), t, loginFlags{flow: flowCode}, "", func(address string) {
		u, _ := url.Parse(address)
		state, redirect := u.Query().Get("state"), u.Query().Get("redirect_uri")
		right := "code=" + loginAuth + "&state=" + state
		for what, tc := range map[string]struct {
			address, host string
			want          int
		}{
			"another state":          {redirect + "?code=x&state=" + strings.Repeat("A", len(state)), "", 400},
			"no state":               {redirect + "?code=x", "", 400},
			"an error without state": {redirect + "?error=access_denied", "", 400},
			"two states":             {redirect + "?code=x&state=" + state + "&state=x", "", 400},
			"two codes":              {redirect + "?" + right + "&code=x", "", 400},
			"a query that is none":   {redirect + "?%zz&" + right, "", 400},
			"another host":           {redirect + "?" + right, "evil.example", 421},
			"another port":           {redirect + "?" + right, "127.0.0.1:1", 421},
			"another path":           {redirect + "/x?" + right, "", 404},
			"an icon":                {strings.TrimSuffix(redirect, "/callback") + "/favicon.ico", "", 404},
		} {
			if status, page := get(t, tc.address, tc.host); status != tc.want || strings.Contains(page, "arrived") {
				t.Errorf("%s gives %d %s, want %d", what, status, page, tc.want)
			}
		}
		for _, method := range []string{http.MethodPost, http.MethodHead} {
			req, _ := http.NewRequestWithContext(t.Context(), method, redirect+"?"+right, http.NoBody)
			res, err := http.DefaultClient.Do(req)
			if err != nil || res.StatusCode != 405 || res.Header.Get("Allow") != "GET" {
				t.Errorf("%s gives %v, %v", method, res, err)
			}
		}
		if len(s.polls) != 0 {
			t.Error("the token endpoint was asked")
		}
		if status, _ := s.browse(t, address, nil); status != 200 {
			t.Errorf("the right answer gives %d", status)
		}
	})
	if got.err != nil {
		t.Error(got.err)
	}
}

func TestRedirectTarget_takesOneAnswer(t *testing.T) {
	listener, uri, err := listenForRedirect(t.Context(), defaultRedirect)
	if err != nil {
		t.Fatal(err)
	}
	target := &redirectTarget{uri: uri, state: "the-state", answer: make(chan authAnswer, 1)}
	server := &http.Server{Handler: target, ReadTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	for _, want := range []int{200, 409, 409} {
		if status, _ := get(t, uri.String()+"?code=one&state=the-state", ""); status != want {
			t.Errorf("status %d, want %d", status, want)
		}
	}
	if a := <-target.answer; a.code != "one" || len(target.answer) > 0 {
		t.Errorf("the answer is %+v, and %d follow", a, len(target.answer))
	}
	res, err := http.Get(uri.String() + "?code=one&state=the-state")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	for header, want := range map[string]string{
		"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
	} {
		if got := res.Header.Get(header); got != want {
			t.Errorf("%s is %q", header, got)
		}
	}
}

func TestListenForRedirect_refuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	for redirect, want := range map[string]string{
		"":                                  "must be an address such as",
		"https://127.0.0.1:1455/cb":         "must be an address such as",
		"http://127.0.0.1/cb":               "must be an address such as",
		"http://127.0.0.1:0/cb?x=1":         "must be an address such as",
		"http://127.0.0.1:0/cb#x":           "must be an address such as",
		"http://u@127.0.0.1:0/cb":           "must be an address such as",
		"http://0.0.0.0:0/cb":               "must be on this machine",
		"http://:1455/cb":                   "must be on this machine",
		"http://pool.example.com:80/cb":     "must be on this machine",
		"http://" + taken.Addr().String():   "is another login under way?",
		"http://localhost.example.com:0/cb": "must be on this machine",
	} {
		listener, _, err := listenForRedirect(t.Context(), redirect)
		if err == nil {
			_ = listener.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "--redirect") {
			t.Errorf("%q: error %v, want %s", redirect, err, want)
		}
	}
}

func TestDiscover(t *testing.T) {
	const path = loginIssuer + "/tenant/1"
	doc := func(issuer string, more ...string) map[string]any {
		m := map[string]any{"issuer": issuer, "token_endpoint": loginIssuer + "/token", "device_authorization_endpoint": loginIssuer + "/device"}
		for i := 0; i < len(more); i += 2 {
			m[more[i]] = more[i+1]
		}
		return m
	}
	for name, tc := range map[string]struct {
		issuer   string
		metadata map[string]any
		want     string // in the error; empty if it is found
	}{
		"of OAuth":                        {loginIssuer, map[string]any{"/.well-known/oauth-authorization-server": doc(loginIssuer)}, ""},
		"of OpenID":                       {loginIssuer, map[string]any{"/.well-known/openid-configuration": doc(loginIssuer)}, ""},
		"of OAuth, with a path":           {path, map[string]any{"/.well-known/oauth-authorization-server/tenant/1": doc(path)}, ""},
		"of OpenID, with a path":          {path, map[string]any{"/tenant/1/.well-known/openid-configuration": doc(path)}, ""},
		"of OpenID, where OAuth has it":   {path, map[string]any{"/.well-known/openid-configuration/tenant/1": doc(path)}, ""},
		"with a slash more":               {loginIssuer, map[string]any{"/.well-known/openid-configuration": doc(loginIssuer + "/")}, ""},
		"with a slash less":               {loginIssuer + "/", map[string]any{"/.well-known/openid-configuration": doc(loginIssuer)}, ""},
		"after a page":                    {loginIssuer, map[string]any{"/.well-known/oauth-authorization-server": "<p>", "/.well-known/openid-configuration": doc(loginIssuer)}, ""},
		"after null":                      {loginIssuer, map[string]any{"/.well-known/oauth-authorization-server": nil, "/.well-known/openid-configuration": doc(loginIssuer)}, ""},
		"nowhere":                         {loginIssuer, nil, "no metadata of an authorization server at https://id.example.com/.well-known/oauth-authorization-server, nor at"},
		"of another path":                 {path, map[string]any{"/.well-known/oauth-authorization-server": doc(path)}, "no metadata"},
		"of another issuer":               {loginIssuer, map[string]any{"/.well-known/openid-configuration": doc("https://evil.example\x1b")}, "says that it is https://evil.example?;"},
		"with a token endpoint in plain":  {loginIssuer, map[string]any{"/.well-known/openid-configuration": doc(loginIssuer, "token_endpoint", "http://id.example.com/token")}, "names for --token-url is not https"},
		"with an endpoint on our machine": {loginIssuer, map[string]any{"/.well-known/openid-configuration": doc(loginIssuer, "authorization_endpoint", "http://127.0.0.1:2019/load")}, "names for --auth-url is not https"},
		"with a script":                   {loginIssuer, map[string]any{"/.well-known/openid-configuration": doc(loginIssuer, "authorization_endpoint", "javascript:alert(1)")}, "names for --auth-url is not an https URL"},
		"with a URL that steers":          {loginIssuer, map[string]any{"/.well-known/openid-configuration": doc(loginIssuer, "authorization_endpoint", loginIssuer+"/\u009b2J")}, "names for --auth-url has characters that are none of a URL"},
		"with a space":                    {loginIssuer, map[string]any{"/.well-known/openid-configuration": doc(loginIssuer, "token_endpoint", loginIssuer+"/to ken")}, "names for --token-url has characters that are none of a URL"},
		"without a token endpoint":        {loginIssuer, map[string]any{"/.well-known/openid-configuration": doc(loginIssuer, "token_endpoint", "")}, "give --token-url"},
		"in plain":                        {"http://id.example.com", nil, "--issuer is not https"},
		"without a scheme":                {"id.example.com", nil, "--issuer is not an https URL"},
		"that is none":                    {"https://[", nil, "--issuer is not an https URL"},
		"with a query":                    {loginIssuer + "?x=1", nil, "--issuer holds a query"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newLoginServer()
			s.metadata = tc.metadata
			s.device = nil // which ends the login, without a wait
			want := orDefault(tc.want, "device authorization endpoint")
			if got := s.logIn(t.Context(), t, loginFlags{issuer: tc.issuer}, "", nil); got.err == nil || !strings.Contains(got.err.Error(), want) {
				t.Errorf("error %v, want %s; asked %s", got.err, want, s.seen())
			}
			for _, hit := range s.hits {
				if tc.want != "" && strings.HasPrefix(hit, "POST") {
					t.Errorf("asked %s", s.seen())
				}
			}
		})
	}
}

func TestDiscover_deadIssuer(t *testing.T) {
	f := loginFlags{issuer: "http://" + freeAddress(t), clientID: "app", timeout: loginTime}
	a, err := f.authorization([]string{"api", "work"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.run(t.Context(), newTokenClient(), &f, "")
	if err == nil || !strings.HasPrefix(err.Error(), "--issuer: no answer from "+f.issuer) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("error %v", err)
	}
}

// Whoever sits on the way chooses the names in a certificate that nobody trusts.
func TestDiscover_certificateDoesNotSteerTheTerminal(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	names := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"\x1b[2Jevil"}}
	cert, err := x509.CreateCertificate(rand.Reader, names, names, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	_, err = discover(t.Context(), newTokenClient(), "https://localhost:"+port)
	if err == nil || strings.Contains(err.Error(), "\x1b") || !strings.Contains(err.Error(), "certificate is valid for ?[2Jevil") {
		t.Errorf("error %q", err)
	}
}

func TestLogin_flagsWinOverTheIssuer(t *testing.T) {
	s := newLoginServer()
	s.metadata["/.well-known/oauth-authorization-server"].(map[string]any)["token_endpoint"] = loginIssuer + "/gone"
	f := loginFlags{issuer: loginIssuer, flow: flowCode, server: authServer{TokenURL: loginIssuer + "/token"}}
	got := s.logIn(t.Context(), t, f, "", func(address string) { s.browse(t, address, nil) })
	if got.err != nil || got.body.TokenURL != loginIssuer+"/token" {
		t.Errorf("error %v, the login is refreshed at %s", got.err, got.body.TokenURL)
	}
}

func TestLogin_withoutAnIssuer(t *testing.T) {
	s := newLoginServer()
	f := loginFlags{server: authServer{TokenURL: loginIssuer + "/token", AuthURL: loginIssuer + "/authorize"}}
	got := s.logIn(t.Context(), t, f, loginSecret, func(address string) { s.browse(t, address, nil) })
	if got.err != nil || s.style != "params" || !slices.Equal(s.hits, []string{"GET /authorize", "POST /token"}) {
		t.Errorf("error %v, asked %s", got.err, s.seen())
	}
}

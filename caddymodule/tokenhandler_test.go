package caddymodule

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// Both forms of the directive, each beside a door that takes phantoms.
var tokenForms = map[string]string{
	"with an upstream":    "credential_pool_token /oauth/token POOL UPSTREAM\n" + phantomClient,
	"without an upstream": "handle /oauth/token {\ncredential_pool_token POOL\nreverse_proxy UPSTREAM\n}\nhandle {\n" + phantomClient + "\n}",
}

// endpoint is a real token endpoint, which keeps what it was sent.
type endpoint struct {
	*upstream
	mu   sync.Mutex
	seen []tokenHit
}

type tokenHit struct {
	method, query, kind, authorization, body string
	length                                   int64
	encoding                                 string
	trailer                                  string
}

func newEndpoint(t *testing.T) *endpoint {
	e := &endpoint{upstream: &upstream{answers: make(map[string]http.HandlerFunc)}}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/oauth/token" {
			e.serve(w, r)
			return
		}
		body, _ := io.ReadAll(r.Body)
		e.mu.Lock()
		e.seen = append(e.seen, tokenHit{
			r.Method, r.URL.RawQuery, r.Header.Get("Content-Type"), r.Header.Get("Authorization"), string(body),
			r.ContentLength, strings.Join(r.TransferEncoding, ","), r.Trailer.Get("X-Sum"),
		})
		e.mu.Unlock()
		w.Header().Set("X-Endpoint", "real")
		w.WriteHeader(418)
		_, _ = io.WriteString(w, "from the real one")
	}))
	t.Cleanup(e.Close)
	return e
}

// hits returns what the endpoint was sent since the last call.
func (e *endpoint) hits() []tokenHit {
	e.mu.Lock()
	defer e.mu.Unlock()
	seen := e.seen
	e.seen = nil
	return seen
}

// grant sends a body to the token endpoint.
func (d *door) grant(kind, body string, header ...string) (*http.Response, string) {
	d.t.Helper()
	return d.do(http.MethodPost, "/oauth/token", body, append([]string{"Content-Type", kind, "Authorization", "Basic Y2xpZW50OnNlY3JldA=="}, header...)...)
}

func refreshForm(token string) string {
	return url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}.Encode()
}

func TestToken_refreshGivesTheSamePhantoms(t *testing.T) {
	for name, form := range tokenForms {
		t.Run(name, func(t *testing.T) {
			e := newEndpoint(t)
			d := open(t, e.upstream, "", form)
			v := d.phantoms()
			for _, tc := range []struct{ kind, body, scope, id string }{
				{formBody, refreshForm(v.RefreshToken), "", v.IDToken},
				{formBody, refreshForm(v.RefreshToken) + "&client_id=c&client_secret=s&scope=openid+email", "openid email", v.IDToken},
				{formBody, refreshForm(v.RefreshToken) + "&scope=user%3Ainference", "user:inference", ""},
				{jsonBody, `{"client_id":"app","grant_type":"refresh_token","refresh_token":"` + v.RefreshToken + `"}`, "", v.IDToken},
				{jsonBody + "; charset=utf-8", `{"grant_type":"refresh_token","refresh_token":"` + v.RefreshToken + `","scope":"email"}`, "email", ""},
			} {
				res, body := d.grant(tc.kind, tc.body)
				var got tokenAnswer
				if err := json.Unmarshal([]byte(body), &got); err != nil || res.StatusCode != 200 {
					t.Fatalf("%s: %d %s", tc.body, res.StatusCode, body)
				}
				if want := (tokenAnswer{v.AccessToken, "Bearer", 86400, v.RefreshToken, tc.scope, tc.id}); got != want {
					t.Errorf("%s: %+v, want %+v", tc.body, got, want)
				}
				if h := res.Header; h.Get("Cache-Control") != "no-store" || h.Get("Content-Type") != "application/json" {
					t.Errorf("header %v", h)
				}
			}
			if code := d.as(v.AccessToken); code != 200 {
				t.Errorf("the API answers %d", code)
			}
			if seen := e.hits(); len(seen) > 0 {
				t.Errorf("the real endpoint was asked: %v", seen)
			}
		})
	}
}

func TestToken_everythingElsePassesAsItCame(t *testing.T) {
	large := "grant_type=refresh_token&refresh_token=rt_1&padding=" + strings.Repeat("p", 3*peekBytes)
	for name, form := range tokenForms {
		t.Run(name, func(t *testing.T) {
			e := newEndpoint(t)
			d := open(t, e.upstream, "", form)
			for _, tc := range []struct{ method, query, kind, body string }{
				{"POST", "", formBody, "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Adevice_code&device_code=d%20e&client_id=c"},
				{"POST", "a=b&a=%20c", formBody, "grant_type=authorization_code&code=c&code_verifier=v&redirect_uri=http%3A%2F%2Flocalhost"},
				{"POST", "", jsonBody, `{"grant_type": "authorization_code", "code": "c"}`},
				{"POST", "", formBody, "grant_type=client_credentials"},
				{"POST", "", formBody, "grant_type=refresh_token&refresh_token=rt_real"},
				{"POST", "", jsonBody, "{\n\"grant_type\":\"refresh_token\",\"refresh_token\":\"rt_real\"\n}"},
				{"POST", "", formBody, "token=rt_real"},
				{"POST", "", formBody, large},
				{"POST", "", "text/plain", refreshForm("rt_real")},
				{"POST", "", "", refreshForm("rt_real")},
				{"POST", "", jsonBody, "{broken"},
				{"POST", "", formBody, ""},
				{"PUT", "", formBody, "x=y"},
				{"GET", "grant_type=refresh_token", "", ""},
				{"HEAD", "", "", ""},
				{"OPTIONS", "", "", ""},
				{"POST", "", formBody, refreshForm("rt_real") + "&Refresh_Token=x&refresh_token=y"},
				{"POST", "", jsonBody, `{"grant_type":"refresh_token","refresh_token":"a","refresh_token":"b"}`},
			} {
				res, body := d.do(tc.method, "/oauth/token?"+tc.query, tc.body, "Content-Type", tc.kind, "Authorization", "Basic abc")
				if res.StatusCode != 418 || res.Header.Get("X-Endpoint") != "real" || (body != "from the real one" && tc.method != "HEAD") {
					t.Errorf("%.80s: answered %d %s", tc.body, res.StatusCode, body)
				}
				want := tokenHit{tc.method, tc.query, tc.kind, "Basic abc", tc.body, int64(len(tc.body)), "", ""}
				if seen := e.hits(); len(seen) != 1 || seen[0] != want {
					t.Errorf("the real endpoint got\n%.300v, want\n%.300v", seen, want)
				}
			}
		})
	}
}

// raw sends a request as it stands, and returns the answer's status.
func (d *door) raw(request string) int {
	d.t.Helper()
	host := strings.TrimPrefix(d.url, "http://")
	conn, err := net.Dial("tcp", host)
	if err != nil {
		d.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, strings.ReplaceAll(request, "HOST", host)); err != nil {
		d.t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		d.t.Fatal(err)
	}
	defer res.Body.Close()
	return res.StatusCode
}

func TestToken_chunkedBodyPassesWithItsTrailers(t *testing.T) {
	for name, form := range tokenForms {
		t.Run(name, func(t *testing.T) {
			e := newEndpoint(t)
			d := open(t, e.upstream, "", form)
			v := d.phantoms()
			chunked := func(body string) string {
				return fmt.Sprintf("POST /oauth/token HTTP/1.1\r\nHost: HOST\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"+
					"5\r\n%s\r\n%x\r\n%s\r\n0\r\nX-Sum: sum\r\n\r\n", formBody, body[:5], len(body)-5, body[5:])
			}
			for _, body := range []string{"grant_type=authorization_code&code=c", "grant_type=refresh_token&refresh_token=r&p=" + strings.Repeat("p", 2*peekBytes)} {
				if code := d.raw(chunked(body)); code != 418 {
					t.Errorf("status %d", code)
				}
				want := tokenHit{"POST", "", formBody, "", body, -1, "chunked", "sum"}
				if seen := e.hits(); len(seen) != 1 || seen[0] != want {
					t.Errorf("the real endpoint got\n%.300v, want\n%.300v", seen, want)
				}
			}
			if code := d.raw(chunked(refreshForm(v.RefreshToken))); code != 200 {
				t.Errorf("a phantom in chunks gets %d", code)
			}
			if seen := e.hits(); len(seen) > 0 {
				t.Errorf("the real endpoint was asked: %v", seen)
			}
		})
	}
}

func TestToken_foreignAndRevokedPhantomsAreRefusedHere(t *testing.T) {
	e := newEndpoint(t)
	d := open(t, e.upstream, "", tokenForms["with an upstream"])
	refused := func(what, kind, body string) {
		t.Helper()
		res, answer := d.grant(kind, body)
		if res.StatusCode != 400 || !strings.HasPrefix(answer, `{"error":"invalid_grant",`) || res.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s gets %d %s", what, res.StatusCode, answer)
		}
		if seen := e.hits(); len(seen) > 0 {
			t.Errorf("%s went to the real endpoint: %v", what, seen)
		}
	}
	foreign, err := newPhantomTokens(keyOfTheTests, d.pool)
	if err != nil {
		t.Fatal(err)
	}
	v := d.phantoms()
	key, err := runningKey()
	if err != nil {
		t.Fatal(err)
	}
	other, err := newPhantomTokens(key, "other")
	if err != nil {
		t.Fatal(err)
	}
	refused("another pool's", formBody, refreshForm(other.refresh))
	refused("another pool's in JSON", jsonBody, `{"grant_type":"refresh_token","refresh_token":"`+other.refresh+`"}`)
	refused("another key's", formBody, refreshForm(foreign.refresh))
	refused("the access token", formBody, refreshForm(v.AccessToken))
	d.operate(http.MethodPost, "/credential_pool/phantom/rotate", 200, nil)
	refused("a revoked one", formBody, refreshForm(v.RefreshToken))
	if res, answer := d.grant(formBody, refreshForm(d.phantoms().RefreshToken)); res.StatusCode != 200 {
		t.Errorf("the new one gets %d %s", res.StatusCode, answer)
	}
}

func TestToken_nothingRealReachesTheClient(t *testing.T) {
	e := newEndpoint(t)
	d := open(t, e.upstream, "", tokenForms["with an upstream"])
	v := d.phantoms()
	res, body := d.grant(formBody, refreshForm(v.RefreshToken))
	for _, secret := range []string{"credential-a", "credential-b"} {
		if strings.Contains(fmt.Sprint(v, res.Header, body), secret) {
			t.Error("a credential of an account is in an answer")
		}
	}
}

func TestToken_provisionNeedsWhatItUses(t *testing.T) {
	for config, want := range map[string]string{
		`{"handler":"credential_pool_token","pool":"nope"}`:                                                            `unknown pool "nope"; configured: p`,
		`{"handler":"credential_pool_token","pool":"p","proxy":{}}`:                                                    "proxy: no upstream is given",
		`{"handler":"credential_pool","pool":"p","clients":[{"name":"a","token":"12345678","phantom":true}]}`:          "client a: token and phantom exclude each other",
		`{"handler":"credential_pool","pool":"p","clients":[{"name":"a","phantom":true},{"name":"b","phantom":true}]}`: "clients a and b have the same token",
		`{"handler":"credential_pool","pool":"p","clients":[{"name":"a"}]}`:                                            "client a: token: it is empty",
	} {
		t.Setenv("TEST_CREDENTIAL_A", "credential-a")
		var cfg caddy.Config
		text := fmt.Sprintf(`{"admin":{"disabled":true},"storage":{"module":"file_system","root":%q},"apps":{
			"credential_pool":{"pools":{"p":{"members":[{"name":"a","secret":"{env.TEST_CREDENTIAL_A}"}]}}},
			"http":{"servers":{"s":{"listen":["127.0.0.1:0"],"routes":[{"handle":[%s]}]}}}}}`, t.TempDir(), config)
		if err := json.Unmarshal([]byte(text), &cfg); err != nil {
			t.Fatal(err)
		}
		if err := caddy.Validate(&cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", config, err, want)
		}
	}
}

// A phantom is for the refresh that is answered here, and for nothing else: where
// it is not clear that it is one, as the real endpoint would read it, nothing is
// sent on.
func TestToken_noPhantomPasses(t *testing.T) {
	e := newEndpoint(t)
	d := open(t, e.upstream, "", tokenForms["with an upstream"])
	v := d.phantoms()
	form, rt := refreshForm(v.RefreshToken), v.RefreshToken
	object := func(fields string) string {
		return "{" + strings.ReplaceAll(fields, "TOKEN", `"`+rt+`"`) + "}"
	}
	for name, tc := range map[string]struct {
		kind, body string
		header     []string
	}{
		"revocation":                    {formBody, "token=" + rt + "&token_type_hint=refresh_token", nil},
		"revocation in JSON":            {jsonBody, object(`"token":TOKEN`), nil},
		"token exchange":                {formBody, "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&subject_token=" + v.AccessToken, nil},
		"token exchange of an ID token": {formBody, "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&subject_token=" + v.IDToken, nil},
		"deep in JSON":                  {jsonBody, object(`"grant_type":"x","more":[{"deep":TOKEN}]`), nil},
		"escaped in a form":             {formBody, "token=%63pr%5F" + rt[4:], nil},
		"escaped in JSON":               {jsonBody, `{"token":"\u0063pr_` + rt[4:] + `"}`, nil},
		"escaped in a URL in a form":    {formBody, "url=" + url.QueryEscape("https://a.example/?id_token_hint="+v.IDToken), nil},
		"another grant":                 {formBody, form + "&grant_type=authorization_code", nil},
		"two refresh tokens":            {formBody, form + "&refresh_token=rt_real", nil},
		"two scopes":                    {formBody, form + "&scope=a&scope=b", nil},
		"a name in another case":        {formBody, form + "&Refresh_Token=rt_real", nil},
		"only a name in another case":   {formBody, "Grant_Type=refresh_token&refresh_token=" + rt, nil},
		"a pair that can't be read":     {formBody, form + "&refresh_token=%zz", nil},
		"a semicolon":                   {formBody, form + ";x=y", nil},
		"a byte order mark in a form":   {formBody, "\ufeff" + form, nil},
		"JSON: keys in another case":    {jsonBody, object(`"Grant_Type":"refresh_token","Refresh_Token":TOKEN`), nil},
		"JSON: two keys":                {jsonBody, object(`"grant_type":"refresh_token","refresh_token":TOKEN,"refresh_token":"rt_real"`), nil},
		"JSON: two keys, ours last":     {jsonBody, object(`"grant_type":"refresh_token","refresh_token":"rt_real","refresh_token":TOKEN`), nil},
		"JSON: two keys of two cases":   {jsonBody, object(`"grant_type":"refresh_token","refresh_token":TOKEN,"REFRESH_TOKEN":"rt_real"`), nil},
		"JSON: two grants":              {jsonBody, object(`"grant_type":"refresh_token","refresh_token":TOKEN,"grant_type":"password"`), nil},
		"JSON: a byte order mark":       {jsonBody, "\ufeff" + object(`"grant_type":"refresh_token","refresh_token":TOKEN`), nil},
		"JSON: more than one":           {jsonBody, object(`"grant_type":"refresh_token","refresh_token":TOKEN`) + "{}", nil},
		"JSON: cut off":                 {jsonBody, `{"grant_type":"refresh_token","refresh_token":"` + rt + `"`, nil},
		"JSON: a list":                  {jsonBody, `[` + object(`"grant_type":"refresh_token","refresh_token":TOKEN`) + `]`, nil},
		"JSON: the token in a list":     {jsonBody, object(`"grant_type":"refresh_token","refresh_token":[TOKEN]`), nil},
		"a form as JSON":                {jsonBody, form, nil},
		"JSON as a form":                {formBody, object(`"grant_type":"refresh_token","refresh_token":TOKEN`), nil},
		"text":                          {"text/plain", form, nil},
		"no type":                       {"", form, nil},
		"a broken type":                 {formBody + "; charset", form, nil},
		"a charset of wide characters":  {formBody + "; charset=utf-16", form, nil},
		"a type of many parts":          {"multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=\"refresh_token\"\r\n\r\n" + rt + "\r\n--x--\r\n", nil},
		"an unknown coding":             {formBody, form, []string{"Content-Encoding", "x-none"}},
		"gzip":                          {formBody, string(encode(t, "gzip", []byte(form))), []string{"Content-Encoding", "gzip"}},
		"a large body":                  {formBody, form + "&p=" + strings.Repeat("p", 2*peekBytes), nil},
		"a header":                      {formBody, "grant_type=client_credentials", []string{"X-Copy", rt}},
		"a bearer token":                {formBody, "grant_type=client_credentials", []string{"Authorization", "Bearer " + v.AccessToken}},
		"a cookie":                      {formBody, "grant_type=client_credentials", []string{"Cookie", "a=b; c=" + v.IDToken}},
	} {
		res, answer := d.grant(tc.kind, tc.body, tc.header...)
		if res.StatusCode != 400 || !strings.HasPrefix(answer, `{"error":"invalid_request",`) || strings.Contains(answer, rt) {
			t.Errorf("%s gets %d %s", name, res.StatusCode, answer)
		}
		if h := res.Header; h.Get("Cache-Control") != "no-store" || h.Get("Pragma") != "no-cache" {
			t.Errorf("%s: header %v", name, h)
		}
		if seen := e.hits(); len(seen) > 0 {
			t.Errorf("%s went to the real endpoint: %.300v", name, seen)
		}
	}
	for _, method := range []string{"GET", "HEAD", "PUT", "DELETE"} {
		for _, target := range []string{"?id_token_hint=" + v.IDToken, "?a=b&c=" + url.QueryEscape("d="+rt)} {
			if res, _ := d.do(method, "/oauth/token"+target, "", "Authorization", "Basic abc"); res.StatusCode != 400 {
				t.Errorf("%s %s gets %d", method, target, res.StatusCode)
			}
			if seen := e.hits(); len(seen) > 0 {
				t.Errorf("%s %s went to the real endpoint", method, target)
			}
		}
	}
}

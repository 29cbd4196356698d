package caddymodule

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/pool/classify"
	"github.com/credentialpool/caddy-credential-pool/vault"
)

// answerOnce is a token endpoint that gives one answer.
type answerOnce struct {
	status int
	header http.Header
	body   io.Reader
}

func (a answerOnce) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: a.status, Header: a.header, Body: io.NopCloser(a.body), Request: req}, nil
}

func grantOf(t *testing.T, answer http.RoundTripper) (vault.Credential, *refusal) {
	t.Helper()
	provider, ok := classify.Lookup("generic")
	if !ok {
		t.Fatal("no provider")
	}
	return grant(&http.Client{Transport: answer}, provider, vault.Credential{
		Kind: vault.KindOAuth, Secret: vault.NewSecret("old-access"), Generation: 7,
		OAuth: &vault.OAuth{RefreshToken: vault.NewSecret("old-refresh"), TokenURL: "https://auth.example.com/token", ClientID: "app"},
	})
}

// An answer with tokens may be the only one, so they are taken out of whatever
// can be read.
func TestGrant_takesTokensFromOddAnswers(t *testing.T) {
	const good = `"access_token":"new-access","refresh_token":"new-refresh","token_type":"Bearer"`
	packed := func(pack func(io.Writer) io.WriteCloser) io.Reader {
		var b bytes.Buffer
		w := pack(&b)
		_, _ = io.WriteString(w, `{`+good+`,"expires_in":600}`)
		_ = w.Close()
		return &b
	}
	for name, tc := range map[string]struct {
		kind    string // of the body; JSON if empty
		coding  string
		body    io.Reader
		life    time.Duration
		refresh string // "new-refresh" if empty
	}{
		"as it should be":          {body: strings.NewReader(`{` + good + `,"expires_in":600}`), life: 10 * time.Minute},
		"a byte order mark":        {body: strings.NewReader("\ufeff{" + good + `,"expires_in":600}`), life: 10 * time.Minute},
		"text after it":            {body: strings.NewReader(`{` + good + `,"expires_in":600}<!-- served by x -->`), life: 10 * time.Minute},
		"not said to be JSON":      {kind: "text/plain", body: strings.NewReader(`{` + good + `,"expires_in":600}`), life: 10 * time.Minute},
		"said to be a page":        {kind: "text/html", body: strings.NewReader(`{` + good + `,"expires_in":600}`), life: 10 * time.Minute},
		"a form":                   {kind: formBody, body: strings.NewReader("access_token=new-access&refresh_token=new-refresh&expires_in=600"), life: 10 * time.Minute},
		"gzip, unasked for":        {coding: "gzip", body: packed(func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }), life: 10 * time.Minute},
		"deflate":                  {coding: "deflate", body: packed(func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) }), life: 10 * time.Minute},
		"keys that come twice":     {body: strings.NewReader(`{"access_token":"x","refresh_token":"y",` + good + `}`), life: time.Hour},
		"seconds as a string":      {body: strings.NewReader(`{` + good + `,"expires_in":"600"}`), life: 10 * time.Minute},
		"seconds with a fraction":  {body: strings.NewReader(`{` + good + `,"expires_in":600.5}`), life: 10 * time.Minute},
		"a fraction in a string":   {body: strings.NewReader(`{` + good + `,"expires_in":"600.0"}`), life: 10 * time.Minute},
		"an unthinkable number":    {body: strings.NewReader(`{` + good + `,"expires_in":1e300}`), life: maxLifetime},
		"one that JSON can't hold": {body: strings.NewReader(`{` + good + `,"expires_in":1e999}`), life: time.Hour},
		"no number":                {body: strings.NewReader(`{` + good + `,"expires_in":"NaN"}`), life: time.Hour},
		"a negative fraction":      {body: strings.NewReader(`{` + good + `,"expires_in":-0.5}`), life: time.Hour},
		"an odd type elsewhere":    {body: strings.NewReader(`{"token_type":["Bearer"],` + good + `,"expires_in":600}`), life: 10 * time.Minute},
		"an odd refresh token":     {body: strings.NewReader(`{"access_token":"new-access","refresh_token":5}`), life: time.Hour, refresh: "old-refresh"},
		"another type of token":    {body: strings.NewReader(`{"access_token":"new-access","refresh_token":"new-refresh","token_type":"bot"}`), life: time.Hour},
		"cut off after the tokens": {body: strings.NewReader(`{` + good + `,"expires`), life: time.Hour},
		"a connection that breaks": {body: io.MultiReader(strings.NewReader(`{`+good+`}`), iotest.ErrReader(errors.New("reset"))), life: time.Hour},
		"a megabyte of padding":    {body: strings.NewReader(`{` + good + `,"x":"` + strings.Repeat("x", maxGrant) + `"}`), life: time.Hour},
	} {
		header := http.Header{"Content-Type": {orDefault(tc.kind, jsonBody)}}
		if tc.coding != "" {
			header.Set("Content-Encoding", tc.coding)
		}
		c, refused := grantOf(t, answerOnce{200, header, tc.body})
		if refused != nil {
			t.Errorf("%s: refused for %s", name, refused.reason)
			continue
		}
		if c.Secret.Reveal() != "new-access" || c.OAuth.RefreshToken.Reveal() != orDefault(tc.refresh, "new-refresh") || c.Generation != 8 {
			t.Errorf("%s: access token %s, refresh token %s, generation %d", name, c.Secret.Reveal(), c.OAuth.RefreshToken.Reveal(), c.Generation)
		}
		if life := time.Until(c.OAuth.ExpiresAt); life > tc.life || life < tc.life-time.Minute {
			t.Errorf("%s: it lasts %s", name, life)
		}
	}
}

func TestGrant_whatIsNoAnswerIsNobodysFault(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		kind   string
		body   io.Reader
		want   string // the reason
	}{
		"no access token":             {200, jsonBody, strings.NewReader(`{"access_token":"","refresh_token":"x"}`), "no_token"},
		"one that is null":            {200, jsonBody, strings.NewReader(`{"access_token":null,"refresh_token":"x"}`), "no_token"},
		"a list":                      {200, jsonBody, strings.NewReader(`[{"access_token":"x"}]`), "no_token"},
		"nothing":                     {200, jsonBody, strings.NewReader(""), "no_token"},
		"cut off in the access token": {200, jsonBody, strings.NewReader(`{"access_token":"new-acc`), "no_token"},
		"broken off":                  {200, jsonBody, io.MultiReader(strings.NewReader(`{"access_token":"new-acc`), iotest.ErrReader(io.ErrUnexpectedEOF)), "unreachable"},
		"padding before the token":    {200, jsonBody, strings.NewReader(`{"x":"` + strings.Repeat("x", maxGrant) + `","access_token":"x"}`), "no_token"},
		"tokens with a bad status":    {502, jsonBody, strings.NewReader(`{"access_token":"x"}`), "502"},
		"an empty 401":                {401, "", strings.NewReader(""), "401"},
		"a page with 401":             {401, "text/html", strings.NewReader("<html><title>401</title>invalid_grant</html>"), "401"},
		"a line with 401":             {401, "text/plain", strings.NewReader("Unauthorized"), "401"},
		"a malformed request":         {400, jsonBody, strings.NewReader(`{"error":"invalid_request"}`), "400"},
	} {
		c, refused := grantOf(t, answerOnce{tc.status, http.Header{"Content-Type": {tc.kind}}, tc.body})
		if refused == nil || refused.reason != tc.want || refused.meaning.Benches() {
			t.Errorf("%s: %+v", name, refused)
		}
		if c.Generation != 7 || c.Secret.Reveal() != "old-access" {
			t.Errorf("%s: the credential has changed", name)
		}
	}
}

func TestGrant_loginsThatAreLost(t *testing.T) {
	for name, tc := range map[string]struct {
		status     int
		body, want string
	}{
		"invalid_grant":                {400, `{"error":"invalid_grant"}`, "invalid_grant"},
		"with 200":                     {200, `{"error":"invalid_grant"}`, "invalid_grant"},
		"with 200, and an empty token": {200, `{"error":"invalid_grant","access_token":""}`, "invalid_grant"},
		"with 403":                     {403, `{"error":"invalid_grant"}`, "invalid_grant"},
		"the client is not known":      {401, `{"error":"invalid_client"}`, "invalid_client"},
		"a 401 in words of its own":    {401, `{"error":{"message":"Sign in."}}`, "401"},
	} {
		_, refused := grantOf(t, answerOnce{tc.status, http.Header{"Content-Type": {jsonBody}}, strings.NewReader(tc.body)})
		if refused == nil || refused.meaning != pool.AuthFailed || refused.reason != tc.want {
			t.Errorf("%s: %+v", name, refused)
		}
	}
}

func TestGrant_theEndpointSaysWhenToComeBack(t *testing.T) {
	for _, status := range []int{429, 500, 502, 503, 403} {
		_, refused := grantOf(t, answerOnce{status, http.Header{"Retry-After": {"77"}}, strings.NewReader("")})
		if refused == nil || refused.wait != 77*time.Second || refused.meaning == pool.AuthFailed {
			t.Errorf("%d: %+v", status, refused)
		}
	}
}

func TestGrant_compressedAnswer(t *testing.T) {
	endpoint := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			t.Error("gzip was not asked for")
		}
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = io.WriteString(z, `{"access_token":"new-access"}`)
		_ = z.Close()
	}))
	defer endpoint.Close()
	client := endpoint.Client()
	provider, _ := classify.Lookup("generic")
	c, refused := grant(client, provider, vault.Credential{OAuth: &vault.OAuth{RefreshToken: vault.NewSecret("r"), TokenURL: endpoint.URL, ClientID: "app"}})
	if refused != nil || c.Secret.Reveal() != "new-access" {
		t.Errorf("%+v", refused)
	}
}

func TestGrant_authStyle(t *testing.T) {
	server := newTokenServer("a")
	client := &http.Client{Transport: server}
	c := vault.Credential{OAuth: &vault.OAuth{RefreshToken: vault.NewSecret(refreshToken("a", 1)), TokenURL: "https://auth.example.com/token", ClientID: "app", ClientSecret: vault.NewSecret("s"), AuthStyle: vault.AuthHeader}}
	provider, _ := classify.Lookup("generic")
	if _, refused := grant(client, provider, c); refused != nil || !slices.Equal(server.styles, []string{"header"}) {
		t.Errorf("%v, styles %v", refused, server.styles)
	}
}

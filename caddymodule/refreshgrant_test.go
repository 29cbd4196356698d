package caddymodule

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

const (
	formBody = "application/x-www-form-urlencoded"
	jsonBody = "application/json"
)

func grantRequest(t testing.TB, kind string, body io.Reader) *http.Request {
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/oauth/token", body)
	r.Header.Set("Content-Type", kind)
	return r
}

func TestGrant_readsARefresh(t *testing.T) {
	for _, tc := range []struct {
		kind, body string
		tokens     []string // nil if it is no refresh
		scope      string
	}{
		{formBody, "grant_type=refresh_token&refresh_token=x", []string{"x"}, ""},
		{formBody, "refresh_token=x%2By&client_id=c&client_secret=s&scope=openid+email&grant_type=refresh_token", []string{"x+y"}, "openid email"},
		{formBody + "; charset=UTF-8", "grant_type=refresh_token&refresh_token=x", []string{"x"}, ""},
		{formBody, "grant_type=refresh_token&refresh_token=x&client_secret=%zz", []string{"x"}, ""},
		{formBody, "grant_type=refresh_token&refresh_token=x&refresh_token=y", []string{"x", "y"}, ""},
		{formBody, "grant_type=refresh_token&grant_type=password&refresh_token=x", []string{"x", ""}, ""},
		{formBody, "grant_type=refresh_token", []string{}, ""},
		{formBody, "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Adevice_code&device_code=x", nil, ""},
		{formBody, "grant_type=authorization_code&code=x&refresh_token=x", nil, ""},
		{formBody, "grant_type=client_credentials", nil, ""},
		{formBody, "refresh_token=x", nil, ""},
		{formBody, `{"grant_type":"refresh_token","refresh_token":"x"}`, nil, ""},
		{formBody, "", nil, ""},
		{jsonBody, `{"grant_type":"refresh_token","refresh_token":"x"}`, []string{"x"}, ""},
		{jsonBody, ` {"client_id":"c","refresh_token":"x","grant_type":"refresh_token","scope":"openid"}` + "\n", []string{"x"}, "openid"},
		{jsonBody, `{"grant_type":"refresh_token","refresh_token":"x","scope":["openid"],"more":{"deep":1}}`, []string{"x"}, ""},
		{jsonBody, `{"grant_type":"authorization_code","code":"x"}`, nil, ""},
		{jsonBody, `{"grant_type":"refresh_token","refresh_token":7}`, nil, ""},
		{jsonBody, `{"grant_type":"refresh_token","refresh_token":"x"`, nil, ""},
		{jsonBody, `["refresh_token"]`, nil, ""},
		{jsonBody, `null`, nil, ""},
		{jsonBody, "grant_type=refresh_token&refresh_token=x", nil, ""},
		{"text/plain", "grant_type=refresh_token&refresh_token=x", nil, ""},
		{"", "grant_type=refresh_token&refresh_token=x", nil, ""},
		{"multipart/form-data; boundary=x", "grant_type=refresh_token&refresh_token=x", nil, ""},
	} {
		for name, body := range map[string]io.Reader{
			"at once":     strings.NewReader(tc.body),
			"in pieces":   iotest.OneByteReader(strings.NewReader(tc.body)),
			"EOF at once": iotest.DataErrReader(strings.NewReader(tc.body)),
		} {
			r := grantRequest(t, tc.kind, body)
			g := readRefreshGrant(r)
			if (g == nil) != (tc.tokens == nil) || (g != nil && (!slices.Equal(g.tokens, tc.tokens) || g.scope != tc.scope)) {
				t.Errorf("%s, %s: %+v, want %q of %q", tc.body, name, g, tc.tokens, tc.scope)
			}
			if left, err := io.ReadAll(r.Body); err != nil || string(left) != tc.body {
				t.Errorf("%s, %s: what is left is %q, %v", tc.body, name, left, err)
			}
		}
	}
}

func TestGrant_looksAtNothingElse(t *testing.T) {
	const body = "grant_type=refresh_token&refresh_token=x"
	for name, change := range map[string]func(r *http.Request){
		"GET":     func(r *http.Request) { r.Method = http.MethodGet },
		"PUT":     func(r *http.Request) { r.Method = http.MethodPut },
		"encoded": func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") },
		"large":   func(r *http.Request) { r.ContentLength = peekBytes },
		"no body": func(r *http.Request) { r.Body = http.NoBody },
	} {
		r := grantRequest(t, formBody, strings.NewReader(body))
		change(r)
		before := r.Body
		if g := readRefreshGrant(r); g != nil || r.Body != before {
			t.Errorf("%s: it was looked at: %+v", name, g)
		}
	}
}

func TestGrant_largeBodyIsGivenBackWhole(t *testing.T) {
	const start = "grant_type=refresh_token&refresh_token=x&padding="
	for _, size := range []int{peekBytes - 1, peekBytes, peekBytes + 1, 5 * peekBytes} {
		body := start + strings.Repeat("p", size-len(start))
		r := grantRequest(t, formBody, strings.NewReader(body))
		r.ContentLength = -1 // chunked
		if g := readRefreshGrant(r); (g != nil) != (size < peekBytes) {
			t.Errorf("%d bytes: %+v", size, g)
		}
		if left, err := io.ReadAll(r.Body); err != nil || string(left) != body {
			t.Errorf("%d bytes: %d are left, %v", size, len(left), err)
		}
	}
}

// Not more than the start is read before it is passed on.
func TestGrant_largeBodyIsNotWaitedFor(t *testing.T) {
	from, to := io.Pipe()
	go func() { _, _ = to.Write(make([]byte, peekBytes)) }()
	r := grantRequest(t, formBody, from)
	if g := readRefreshGrant(r); g != nil {
		t.Errorf("%+v", g)
	}
	go func() { _, _ = to.Write([]byte("more")); _ = to.Close() }()
	if left, err := io.ReadAll(r.Body); err != nil || !bytes.HasSuffix(left, []byte("more")) || len(left) != peekBytes+4 {
		t.Errorf("%d bytes are left, %v", len(left), err)
	}
}

func TestGrant_bodyThatBreaksOffBreaksOffForTheNext(t *testing.T) {
	broken := errors.New("broken")
	const start = "grant_type=refresh_token&refresh_token=x"
	r := grantRequest(t, formBody, io.MultiReader(strings.NewReader(start), &failsOnce{broken}))
	if g := readRefreshGrant(r); g != nil {
		t.Errorf("%+v", g)
	}
	if left, err := io.ReadAll(r.Body); string(left) != start || !errors.Is(err, broken) {
		t.Errorf("what is left is %q, %v", left, err)
	}
}

// failsOnce fails, and then pretends that all was read.
type failsOnce struct{ err error }

func (f *failsOnce) Read([]byte) (int, error) {
	err := f.err
	f.err = io.EOF
	return 0, err
}

func FuzzGrant(f *testing.F) {
	for _, body := range []string{
		"grant_type=refresh_token&refresh_token=cpr_x", "grant_type=refresh_token&refresh_token=%", "a=b;c=d&&=",
		`{"grant_type":"refresh_token","refresh_token":"x","scope":"openid"}`, `{"grant_type":["refresh_token"]}`, "null", "\xff\x00",
		"grant_type=refresh_token&refresh_token=eyJhbGciOiJIUzI1NiJ9.e30.AA",
	} {
		f.Add(body, true)
		f.Add(body, false)
	}
	f.Fuzz(func(t *testing.T, body string, asForm bool) {
		kind := jsonBody
		if asForm {
			kind = formBody
		}
		r := grantRequest(t, kind, strings.NewReader(body))
		if g := readRefreshGrant(r); g != nil {
			_, _ = g.phantom(), g.wantsIDToken()
		}
		if left, err := io.ReadAll(r.Body); err != nil || string(left) != body {
			t.Errorf("%q became %q, %v", body, left, err)
		}
	})
}

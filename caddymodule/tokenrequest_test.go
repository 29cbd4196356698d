package caddymodule

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
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

func TestTokenRequest_readsARefresh(t *testing.T) {
	for _, tc := range []struct{ kind, body, token, scope string }{
		{formBody, "grant_type=refresh_token&refresh_token=x", "x", ""},
		{formBody, "refresh_token=x%2By&client_id=c&client_secret=s&scope=openid+email&grant_type=refresh_token", "x+y", "openid email"},
		{formBody, "grant_type=refresh_token&refresh_token=x&resource=a&resource=b", "x", ""},
		{formBody + "; charset=UTF-8", "grant_type=refresh_token&refresh_token=x", "x", ""},
		{"Application/X-WWW-Form-Urlencoded;charset=ISO-8859-1", "grant_type=refresh_token&refresh_token=x", "x", ""},
		{jsonBody, `{"grant_type":"refresh_token","refresh_token":"x"}`, "x", ""},
		{jsonBody, ` {"client_id":"c","refresh_token":"\u0078","grant_type":"refresh_token","scope":"openid"}` + "\n", "x", "openid"},
		{jsonBody, `{"grant_type":"refresh_token","refresh_token":"x","scope":["openid"],"more":{"deep":1}}`, "x", ""},
	} {
		for name, body := range map[string]io.Reader{
			"at once":     strings.NewReader(tc.body),
			"in pieces":   iotest.OneByteReader(strings.NewReader(tc.body)),
			"EOF at once": iotest.DataErrReader(strings.NewReader(tc.body)),
		} {
			r := grantRequest(t, tc.kind, body)
			if got := readTokenRequest(r); got != (tokenRequest{refresh: tc.token, scope: tc.scope}) {
				t.Errorf("%s, %s: %+v, want %q of %q", tc.body, name, got, tc.token, tc.scope)
			}
			if left, err := io.ReadAll(r.Body); err != nil || string(left) != tc.body {
				t.Errorf("%s, %s: what is left is %q, %v", tc.body, name, left, err)
			}
		}
	}
}

func TestTokenRequest_isNoRefreshIfItCanBeReadInAnotherWay(t *testing.T) {
	const form, object = "grant_type=refresh_token&refresh_token=x", `"grant_type":"refresh_token","refresh_token":"x"`
	for _, tc := range []struct{ kind, body string }{
		{formBody, "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Adevice_code&device_code=x"},
		{formBody, "grant_type=authorization_code&code=x&refresh_token=x"},
		{formBody, "grant_type=client_credentials"},
		{formBody, "grant_type=refresh_token"},
		{formBody, "refresh_token=x"},
		{formBody, "{" + object + "}"},
		{formBody, ""},
		{formBody, form + "&client_secret=%zz"},
		{formBody, form + ";x=y"},
		{formBody, form + "&refresh_token=y"},
		{formBody, form + "&refresh_token="},
		{formBody, form + "&grant_type=password"},
		{formBody, form + "&scope=a&scope=b"},
		{formBody, form + "&Refresh_Token=y"},
		{formBody, form + "&refre\u017fh_token=y"}, // the letter is an s in another case
		{formBody, "Grant_Type=refresh_token&refresh_token=x"},
		{formBody, "grant_type=Refresh_Token&refresh_token=x"},
		{formBody, "\ufeff" + form},
		{formBody + "; charset=utf-16", form},
		{formBody + "; charset", form},
		{"text/plain", form},
		{"", form},
		{"multipart/form-data; boundary=x", form},
		{jsonBody, `{"grant_type":"authorization_code","code":"x"}`},
		{jsonBody, `{"grant_type":"refresh_token","refresh_token":7}`},
		{jsonBody, `{"grant_type":"refresh_token","refresh_token":null}`},
		{jsonBody, `{"Grant_Type":"refresh_token","refresh_token":"x"}`},
		{jsonBody, "{" + object + `,"refresh_token":"y"}`},
		{jsonBody, "{" + object + `,"refresh_token":7}`},
		{jsonBody, "{" + object + `,"REFRESH_TOKEN":"y"}`},
		{jsonBody, "{" + object + `,"grant_type":"password"}`},
		{jsonBody, "{" + object},
		{jsonBody, "{" + object + "}{}"},
		{jsonBody, "\ufeff{" + object + "}"},
		{jsonBody, "[{" + object + "}]"},
		{jsonBody, `"refresh_token"`},
		{jsonBody, "null"},
		{jsonBody, form},
	} {
		r := grantRequest(t, tc.kind, strings.NewReader(tc.body))
		if got := readTokenRequest(r); got.refresh != "" || got.phantom {
			t.Errorf("%s, %s: %+v", tc.kind, tc.body, got)
		}
		if left, err := io.ReadAll(r.Body); err != nil || string(left) != tc.body {
			t.Errorf("%s: what is left is %q, %v", tc.body, left, err)
		}
	}
	for name, change := range map[string]func(r *http.Request){
		"GET":             func(r *http.Request) { r.Method = http.MethodGet },
		"PUT":             func(r *http.Request) { r.Method = http.MethodPut },
		"encoded":         func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") },
		"oddly encoded":   func(r *http.Request) { r.Header.Set("Content-Encoding", "x-none") },
		"of two types":    func(r *http.Request) { r.Header.Add("Content-Type", jsonBody) },
		"also in the URL": func(r *http.Request) { r.URL.RawQuery = "Refresh_Token=y" },
		"an odd URL":      func(r *http.Request) { r.URL.RawQuery = "%zz" },
		"no body":         func(r *http.Request) { r.Body = http.NoBody },
	} {
		r := grantRequest(t, formBody, strings.NewReader(form))
		change(r)
		if got := readTokenRequest(r); got.refresh != "" || got.phantom {
			t.Errorf("%s: %+v", name, got)
		}
	}
	r := grantRequest(t, formBody, strings.NewReader(form))
	r.Header.Set("Content-Encoding", "identity")
	if got := readTokenRequest(r); got.refresh != "x" {
		t.Errorf("identity changes nothing: %+v", got)
	}
}

// An extended CONNECT has no end: its body is not waited for.
func TestTokenRequest_leavesATunnelAlone(t *testing.T) {
	body, _ := io.Pipe()
	r := grantRequest(t, formBody, body)
	r.Method = http.MethodConnect
	if got := readTokenRequest(r); got != (tokenRequest{}) || r.Body != body {
		t.Errorf("%+v", got)
	}
}

func TestTokenRequest_largeBodyIsGivenBackWhole(t *testing.T) {
	const start = "grant_type=refresh_token&refresh_token=x&padding="
	for _, size := range []int{peekBytes - 1, peekBytes, peekBytes + 1, 5 * peekBytes} {
		body := start + strings.Repeat("p", size-len(start))
		r := grantRequest(t, formBody, strings.NewReader(body))
		r.ContentLength = -1 // chunked
		if got := readTokenRequest(r); (got.refresh != "") != (size < peekBytes) {
			t.Errorf("%d bytes: %+v", size, got)
		}
		if left, err := io.ReadAll(r.Body); err != nil || string(left) != body {
			t.Errorf("%d bytes: %d are left, %v", size, len(left), err)
		}
	}
}

// Not more than the start is read before it is passed on.
func TestTokenRequest_largeBodyIsNotWaitedFor(t *testing.T) {
	from, to := io.Pipe()
	go func() { _, _ = to.Write(make([]byte, peekBytes)) }()
	r := grantRequest(t, formBody, from)
	if got := readTokenRequest(r); got != (tokenRequest{}) {
		t.Errorf("%+v", got)
	}
	go func() { _, _ = to.Write([]byte("more")); _ = to.Close() }()
	if left, err := io.ReadAll(r.Body); err != nil || !bytes.HasSuffix(left, []byte("more")) || len(left) != peekBytes+4 {
		t.Errorf("%d bytes are left, %v", len(left), err)
	}
}

func TestTokenRequest_bodyThatBreaksOffBreaksOffForTheNext(t *testing.T) {
	broken := errors.New("broken")
	const start = "grant_type=refresh_token&refresh_token=x"
	r := grantRequest(t, formBody, io.MultiReader(strings.NewReader(start), &failsOnce{broken}))
	if got := readTokenRequest(r); got != (tokenRequest{}) {
		t.Errorf("%+v", got)
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

// FuzzGrant holds it to it that the body is given back as it was, that no phantom
// goes on that another server could find in the request, and that what is answered
// here is what every server would read.
func FuzzGrant(f *testing.F) {
	p, err := newPhantomTokens(keyOfTheTests, "p")
	if err != nil {
		f.Fatal(err)
	}
	for _, body := range []string{
		refreshForm(p.refresh), "grant_type=refresh_token&refresh_token=%", "a=b;c=d&&=", "x=" + p.id, "%63pr" + p.refresh[3:],
		"refresh_token=" + p.refresh + "&refresh_token=x", refreshForm("x") + "&more=%2526" + p.refresh,
		`{"grant_type":"refresh_token","refresh_token":"` + p.refresh + `","scope":"openid"}`, `{"grant_type":["refresh_token"]}`, "null", "\xff\x00",
		`{"a":{"b":["` + p.access + `"]}}`, `{"Grant_Type":"refresh_token","refresh_token":"` + p.refresh + `"}`, `{"a":"\u0063pr` + p.refresh[3:] + `"}`,
	} {
		f.Add(body, formBody)
		f.Add(body, jsonBody)
		f.Add(body, "")
	}
	f.Fuzz(func(t *testing.T, body, kind string) {
		r := grantRequest(t, kind, strings.NewReader(body))
		got := readTokenRequest(r)
		if left, err := io.ReadAll(r.Body); err != nil || string(left) != body {
			t.Errorf("%q became %q, %v", body, left, err)
		}
		form, _ := url.ParseQuery(body)
		var object struct {
			Type  string `json:"grant_type"`
			Token string `json:"refresh_token"`
		}
		objectErr := json.Unmarshal([]byte(body), &object)
		if got.refresh != "" && !slices.Equal(form["refresh_token"], []string{got.refresh}) && (objectErr != nil || object.Token != got.refresh || object.Type != "refresh_token") {
			t.Errorf("nobody else finds that refresh in %q", body)
		}
		var any any
		_ = json.Unmarshal([]byte(body), &any)
		if within := strings.Join(append(stringsIn(any), slices.Concat(slices.Collect(maps.Values(form))...)...), "\n"); hasPhantom(within) && !got.phantom {
			t.Errorf("a phantom in %q is overlooked", body)
		}
	})
}

// stringsIn returns the strings of a JSON value.
func stringsIn(v any) (found []string) {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		for _, e := range v {
			found = append(found, stringsIn(e)...)
		}
	case map[string]any:
		for _, e := range v {
			found = append(found, stringsIn(e)...)
		}
	}
	return found
}

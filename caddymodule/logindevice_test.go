package caddymodule

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// waits returns how long was waited before each question for tokens.
func (s *loginServer) waits(since time.Time) (waits []time.Duration) {
	for _, at := range s.polls {
		waits, since = append(waits, at.Sub(since)), at
	}
	return waits
}

func TestDeviceLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLoginServer()
		s.device["verification_uri_complete"] = loginIssuer + "/activate?user_code=WDJB-MJHT"
		s.answers = []string{"authorization_pending", "slow_down", "slow_down", "authorization_pending", "503", "authorization_pending", "break", "tokens"}
		begun := time.Now()
		got := s.logIn(t.Context(), t, loginFlags{
			scopes: []string{"openid", "email offline_access"}, params: []string{"audience=https://api.example.com"},
		}, "", nil)
		if got.err != nil {
			t.Fatal(got.err)
		}
		if b := got.body; b.Kind != "oauth" || b.AccessToken != loginAccess || b.RefreshToken != loginRefresh || b.ClientSecret+b.AuthStyle != "" ||
			b.TokenURL != loginIssuer+"/token" || b.ClientID != "app" || !slices.Equal(b.Scopes, []string{"openid", "email", "offline_access"}) ||
			b.ExpiresAt != time.Now().Add(time.Hour).UTC().Format(time.RFC3339) {
			t.Errorf("the login is %+v", b)
		}
		// slow_down adds 5 s, and a server that is not well is asked half as often.
		if waits := s.waits(begun); !slices.Equal(waits, []time.Duration{5e9, 5e9, 10e9, 15e9, 15e9, 30e9, 30e9, 60e9}) {
			t.Errorf("asked after %v", waits)
		}
		if s.asked.Get("scope") != "openid email offline_access" || s.asked.Get("audience") != "https://api.example.com" || s.asked.Get("client_id") != "app" {
			t.Errorf("the code was asked for with %v", s.asked)
		}
		for _, says := range []string{
			"To log in api/work", "    " + loginIssuer + "/activate\n", "    WDJB-MJHT\n", "    " + loginIssuer + "/activate?user_code=WDJB-MJHT\n",
			"within 10m0s.", "answers 503", "the connection broke",
		} {
			if !strings.Contains(got.said, says) {
				t.Errorf("it does not say %q:\n%s", says, got.said)
			}
		}
		if strings.Contains(got.said, "Warning") {
			t.Errorf("it warns:\n%s", got.said)
		}
	})
}

func TestDeviceLogin_saysWhyThereIsNoLogin(t *testing.T) {
	for answer, want := range map[string]string{
		"access_denied":  "access_denied (because); the login was denied",
		"expired_token":  "expired_token (because); the code has ended",
		"invalid_client": "is --client-id right",
		"307":            "a redirect (307), which is not followed",
		"page":           "is none of OAuth",
		"large":          "is none of OAuth",
		"steers":         "refuses: ?[2Jodd (line??line ?xxx",
		"echoes":         "withheld, since it repeats a secret",
		"unknown_code":   "refuses: unknown_code (because)",
	} {
		t.Run(answer, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newLoginServer()
				s.answers = []string{"authorization_pending", answer}
				got := s.logIn(t.Context(), t, loginFlags{}, loginSecret, nil)
				if got.err == nil || !strings.Contains(got.err.Error(), want) {
					t.Errorf("error %v, want %s", got.err, want)
				}
				if len(s.polls) != 2 {
					t.Errorf("asked %d times", len(s.polls))
				}
			})
		})
	}
}

func TestDeviceLogin_showsNoSecretThatTheServerRepeats(t *testing.T) {
	for _, style := range []string{"params", "header"} {
		synctest.Test(t, func(t *testing.T) {
			s := newLoginServer()
			s.answers = []string{"echoes, and is not well", "tokens"}
			const secret = loginSecret + "/+=" // which a form holds in another shape
			basic := base64.StdEncoding.EncodeToString([]byte("app:" + url.QueryEscape(secret)))
			got := s.logIn(t.Context(), t, loginFlags{authStyle: style}, secret, nil)
			if got.err != nil || !strings.Contains(got.said, "withheld, since it repeats a secret") || strings.Contains(got.said, basic) {
				t.Errorf("%s: error %v, and it says\n%s", style, got.err, got.said)
			}
		})
	}
	const secret = "a/secret+of=a client"
	for _, form := range []string{secret, url.QueryEscape(secret)} {
		if err := refused("invalid_request", "not "+form, secret); strings.Contains(err.Error(), form) {
			t.Error(err)
		}
	}
}

func TestDeviceLogin_ends(t *testing.T) {
	for name, tc := range map[string]struct {
		flags  loginFlags
		change func(s *loginServer)
		want   string
		after  time.Duration
	}{
		"with its code":                     {loginFlags{}, func(*loginServer) {}, "the code has ended", 15 * time.Minute},
		"with the timeout":                  {loginFlags{timeout: time.Minute}, func(*loginServer) {}, "nobody has logged in within 1m0s (--timeout)", time.Minute},
		"when the server hangs":             {loginFlags{timeout: time.Hour}, func(s *loginServer) { s.answers = []string{"hang"} }, "the code has ended", 15 * time.Minute},
		"also without an end of the code":   {loginFlags{}, func(s *loginServer) { delete(s.device, "expires_in") }, "nobody has logged in", loginTime},
		"also with a code ended yesterday":  {loginFlags{}, func(s *loginServer) { s.device["expires_in"] = -86400 }, "nobody has logged in", loginTime},
		"also with an endless code":         {loginFlags{}, func(s *loginServer) { s.device["expires_in"] = int64(1) << 62 }, "nobody has logged in", loginTime},
		"with a negative interval":          {loginFlags{}, func(s *loginServer) { s.device["interval"] = -5 }, "nobody has logged in", loginTime},
		"with an interval longer than that": {loginFlags{}, func(s *loginServer) { s.device["interval"] = int64(1) << 62 }, "nobody has logged in", loginTime},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newLoginServer()
				s.answers = []string{"authorization_pending"}
				if tc.after == loginTime {
					s.device["expires_in"] = 3600
				} else {
					tc.flags.timeout = max(tc.flags.timeout, time.Minute)
				}
				if tc.after == 15*time.Minute {
					tc.flags.timeout = time.Hour
				}
				tc.change(s)
				begun := time.Now()
				got := s.logIn(t.Context(), t, tc.flags, "", nil)
				if !strings.Contains(got.said, "within "+tc.after.String()+".") {
					t.Errorf("it does not say how much time there is:\n%s", got.said)
				}
				if got.err == nil || !strings.Contains(got.err.Error(), tc.want) || time.Since(begun) != tc.after {
					t.Errorf("error %v after %s, want %s after %s", got.err, time.Since(begun), tc.want, tc.after)
				}
			})
		})
	}
}

func TestDeviceLogin_isGivenUpAtOnce(t *testing.T) {
	for _, answer := range []string{"authorization_pending", "hang"} {
		synctest.Test(t, func(t *testing.T) {
			s := newLoginServer()
			s.answers = []string{answer}
			ctx, cancel := context.WithCancelCause(t.Context())
			given := errors.New("Ctrl-C")
			time.AfterFunc(7*time.Second, func() { cancel(given) })
			begun := time.Now()
			got := s.logIn(ctx, t, loginFlags{}, "", nil)
			if !errors.Is(got.err, given) || time.Since(begun) != 7*time.Second {
				t.Errorf("%s: error %v after %s", answer, got.err, time.Since(begun))
			}
		})
	}
}

func TestDeviceLogin_codeThatIsNone(t *testing.T) {
	for name, device := range map[string]map[string]any{
		"no code":      {"user_code": "X", "verification_uri": loginIssuer},
		"no user code": {"device_code": loginDevice, "verification_uri": loginIssuer},
		"no page":      {"device_code": loginDevice, "user_code": "X"},
		"a script":     {"device_code": loginDevice, "user_code": "X", "verification_uri": "javascript:alert(1)"},
		"a file":       {"device_code": loginDevice, "user_code": "X", "verification_uri": loginIssuer, "verification_uri_complete": "file:///etc/passwd"},
		"nothing":      nil,
	} {
		s := newLoginServer()
		s.device = device
		if got := s.logIn(t.Context(), t, loginFlags{}, "", nil); got.err == nil || !strings.Contains(got.err.Error(), "URL right?") || got.said != "" {
			t.Errorf("%s: error %v, and it says %s", name, got.err, got.said)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		s := newLoginServer()
		s.device["user_code"], s.device["verification_uri"] = "A\x1b]0;owned\a", loginIssuer+"/\u202eevil"
		if got := s.logIn(t.Context(), t, loginFlags{}, "", nil); got.err != nil || strings.ContainsAny(got.said, "\x1b\a\u202e") {
			t.Errorf("error %v, and it says %q", got.err, got.said)
		}
	})
}

func TestLogin_clientShowsItsSecret(t *testing.T) {
	for name, tc := range map[string]struct {
		methods any
		style   string
		want    string
	}{
		"as the server says, in params": {[]string{"client_secret_basic", "client_secret_post"}, "", "params"},
		"as the server says, in header": {[]string{"client_secret_basic"}, "", "header"},
		"where the server says nothing": {nil, "", "header"},
		"as the flag says":              {[]string{"client_secret_basic"}, "params", "params"},
		"in a way that we can't":        {[]string{"private_key_jwt"}, "", ""},
		"in a way that it denies":       {[]string{"private_key_jwt"}, "header", "header"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newLoginServer()
			if tc.methods != nil {
				s.metadata["/.well-known/oauth-authorization-server"].(map[string]any)["token_endpoint_auth_methods_supported"] = tc.methods
			}
			var styles []string
			see := roundTrip(func(req *http.Request) (*http.Response, error) {
				res, err := s.RoundTrip(req)
				if req.Method == http.MethodPost {
					styles = append(styles, s.style)
				}
				return res, err
			})
			device := authServer{DeviceURL: "HTTPS://id.example.com/device"} // as a URL may be written, too
			f := loginFlags{issuer: loginIssuer, clientID: "app", timeout: loginTime, authStyle: tc.style, server: device}
			a, err := f.authorization([]string{"api", "work"})
			if err != nil {
				t.Fatal(err)
			}
			a.say, a.wait = func(string, ...any) {}, func(string) func() { return func() {} }
			body, err := a.run(t.Context(), &http.Client{Transport: see}, &f, loginSecret)
			if tc.want == "" {
				if err == nil || !strings.Contains(err.Error(), "takes no client secret, but private_key_jwt") {
					t.Errorf("%s: error %v", name, err)
				}
				return
			}
			if err != nil || !slices.Equal(styles, []string{tc.want, tc.want}) || body.AuthStyle != tc.want || body.ClientSecret != loginSecret {
				t.Errorf("%s: error %v, shown %v, kept as %s", name, err, styles, body.AuthStyle)
			}
		})
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestLogin_warnsOfWhatWasNotGiven(t *testing.T) {
	for name, tc := range map[string]struct {
		scopes []string
		change func(tokens map[string]any)
		want   string
	}{
		"no refresh token":               {nil, func(a map[string]any) { delete(a, "refresh_token") }, "log in again with --scope offline_access"},
		"no refresh token though wanted": {[]string{"offline_access"}, func(a map[string]any) { delete(a, "refresh_token") }, "although offline_access was asked for"},
		"a scope less":                   {[]string{"read", "write", "offline_access"}, func(a map[string]any) { a["scope"] = "read" }, "has not granted the scope write."},
		"nothing missing, with commas":   {[]string{"repo", "gist"}, func(a map[string]any) { a["scope"] = "repo,gist" }, ""}, // as GitHub has it
		"nothing missing":                {[]string{"read"}, func(a map[string]any) { a["scope"] = "read more" }, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newLoginServer()
			tc.change(s.tokens)
			got := s.logIn(t.Context(), t, loginFlags{scopes: tc.scopes}, "", nil)
			if got.err != nil || !strings.Contains(got.said, tc.want) || (tc.want == "") == strings.Contains(got.said, "Warning") {
				t.Errorf("%s: error %v, and it says\n%s", name, got.err, got.said)
			}
		})
	}
}

func TestLogin_tokensInOddAnswersAreKept(t *testing.T) {
	jwt := func(claims string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
	}
	for name, tc := range map[string]struct {
		change  func(tokens map[string]any)
		expires time.Duration
		account string
	}{
		"expires_in is a word":   {func(a map[string]any) { a["expires_in"] = "soon" }, time.Hour, ""},
		"expires_in is missing":  {func(a map[string]any) { delete(a, "expires_in") }, time.Hour, ""},
		"expires_in is huge":     {func(a map[string]any) { a["expires_in"] = int64(1) << 62 }, maxLifetime, ""},
		"expires_in is negative": {func(a map[string]any) { a["expires_in"] = -1 }, time.Hour, ""},
		"an account in the ID": {func(a map[string]any) {
			a["id_token"] = jwt(`{"https://api.openai.com/auth":{"chatgpt_account_id":"acc-1"}}`)
		}, time.Hour, "acc-1"},
		"another ID":               {func(a map[string]any) { a["id_token"] = jwt(`{"sub":"x","https://api.openai.com/auth":7}`) }, time.Hour, ""},
		"an ID that is none":       {func(a map[string]any) { a["id_token"] = 5 }, time.Hour, ""},
		"nothing that ends at all": {func(a map[string]any) { delete(a, "expires_in"); delete(a, "refresh_token") }, 0, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newLoginServer()
			tc.change(s.tokens)
			got := s.logIn(t.Context(), t, loginFlags{}, "", nil)
			want := ""
			if tc.expires > 0 {
				want = time.Now().Add(tc.expires).UTC().Format(time.RFC3339)
			}
			if got.err != nil || got.body.AccessToken != loginAccess || got.body.ExpiresAt != want || got.body.Fields["account_id"] != tc.account {
				t.Errorf("%s: error %v, ends %s and not %s, account %s", name, got.err, got.body.ExpiresAt, want, got.body.Fields["account_id"])
			}
		})
	}
}

// JSON that is declared as text is what Go's own http.Error makes of it.
func TestDeviceLogin_answersDeclaredAsText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLoginServer()
		s.declares = "text/plain; charset=utf-8"
		s.answers = []string{"authorization_pending", "tokens"}
		s.tokens["expires_in"] = 7200
		got := s.logIn(t.Context(), t, loginFlags{}, "", nil)
		if got.err != nil || got.body.ExpiresAt != time.Now().Add(2*time.Hour).UTC().Format(time.RFC3339) {
			t.Errorf("error %v, ends %s", got.err, got.body.ExpiresAt)
		}
	})
}

func TestLogin_tokensThatCannotBeKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newLoginServer()
		s.tokens["access_token"] = loginAccess + "\r\nX-Evil: 1"
		got := s.logIn(t.Context(), t, loginFlags{}, "", nil)
		if got.err == nil || !strings.Contains(got.err.Error(), "access_token has a control character") {
			t.Errorf("error %v", got.err)
		}
	})
}

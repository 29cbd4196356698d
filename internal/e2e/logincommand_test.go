package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/creack/pty"
)

// typed is a command of the plugin at a terminal.
type typed struct {
	c      *caddy
	cmd    *exec.Cmd
	tty    *os.File
	screen *buffer
	read   chan struct{} // closed when all is read
}

// sit starts a command at a terminal of its own.
func (c *caddy) sit(args ...string) *typed {
	c.t.Helper()
	s := &typed{c: c, screen: new(buffer), read: make(chan struct{})}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	s.cmd = exec.CommandContext(ctx, binary, append(append([]string{"credential-pool"}, args...), "--address", c.address)...)
	s.cmd.Dir, s.cmd.Env = c.dir, append(c.env, "TERM=xterm")
	s.tty = must(pty.Start(s.cmd))
	go func() {
		defer close(s.read)
		_, _ = io.Copy(s.screen, s.tty)
	}()
	c.t.Cleanup(func() {
		cancel()
		_ = s.cmd.Wait()
		_ = s.tty.Close()
		<-s.read
		c.add("the terminal of "+strings.Join(args, " "), s.screen.all())
	})
	return s
}

// sees waits until the screen shows that, after what was seen before.
func (s *typed) sees(text string) {
	s.c.t.Helper()
	eventually(s.c.t, "the terminal shows "+text+" and not\n"+string(s.screen.tail()), func() bool {
		_, after, ok := strings.Cut(s.screen.since(), text)
		if ok {
			s.screen.seen(len(after))
		}
		return ok
	})
}

// seen makes since return what follows all but the last bytes.
func (b *buffer) seen(last int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.marked = b.b.Len() - last
}

// types answers a prompt.
func (s *typed) types(prompt, text string) {
	s.c.t.Helper()
	s.sees(prompt)
	if _, err := io.WriteString(s.tty, text); err != nil {
		s.c.t.Fatal(err)
	}
}

// ends waits for the end of the command, and returns how it ended.
func (s *typed) ends() error {
	err := s.cmd.Wait()
	<-s.read
	return err
}

// provider is an authorization server on this machine.
type provider struct {
	*httptest.Server
	c         *caddy
	account   string // whose tokens it gives
	pending   atomic.Int32
	polled    atomic.Int32
	challenge atomic.Value
	code      string
}

func newProvider(c *caddy, account string) *provider {
	p := &provider{c: c, account: c.account(account), code: c.canary()}
	p.Server = httptest.NewServer(http.HandlerFunc(p.serve))
	c.t.Cleanup(p.Close)
	return p
}

func (p *provider) serve(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	answer := func(status int, body map[string]any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}
	switch r.URL.Path {
	case "/tenant/.well-known/openid-configuration":
		answer(200, map[string]any{
			"issuer": p.URL + "/tenant", "token_endpoint": p.URL + "/token", "authorization_endpoint": p.URL + "/authorize",
			"device_authorization_endpoint": p.URL + "/device",
		})
	case "/device":
		answer(200, map[string]any{
			"device_code": p.code, "user_code": "WDJB-MJHT", "verification_uri": p.URL + "/activate", "expires_in": 600, "interval": 1,
		})
	case "/authorize":
		p.challenge.Store(r.Form.Get("code_challenge"))
		back := url.Values{"code": {p.code}, "state": {r.Form.Get("state")}}
		http.Redirect(w, r, r.Form.Get("redirect_uri")+"?"+back.Encode(), http.StatusFound)
	case "/token":
		p.polled.Add(1)
		sum := sha256.Sum256([]byte(r.PostForm.Get("code_verifier")))
		switch challenge := p.challenge.Load(); {
		case r.PostForm.Get("device_code") != p.code && r.PostForm.Get("code") != p.code:
			answer(400, map[string]any{"error": "invalid_grant"})
		case challenge != nil && challenge != base64.RawURLEncoding.EncodeToString(sum[:]):
			answer(400, map[string]any{"error": "invalid_grant"})
		case p.pending.Load() > 0:
			p.pending.Add(-1)
			answer(400, map[string]any{"error": "authorization_pending"})
		default:
			answer(200, map[string]any{"access_token": p.account, "refresh_token": p.c.canary(), "token_type": "Bearer", "expires_in": 3600})
		}
	default:
		http.NotFound(w, r)
	}
}

func TestLogin_withADevice(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home")
	c.start(config{members: c.vaulted()})
	p := newProvider(c, "work")
	p.pending.Store(1)
	s := c.sit("login", "api", "work", "--issuer", p.URL+"/tenant", "--client-id", "app", "--scope", "offline_access")
	s.sees(p.URL + "/activate")
	s.sees("WDJB-MJHT")
	s.sees("\r| Waiting for the login")
	s.sees("\r/ Waiting for the login")
	s.sees("\r" + strings.Repeat(" ", len("| Waiting for the login")) + "\r")
	s.sees("api/work is in the vault")
	if err := s.ends(); err != nil {
		t.Error(err)
	}
	served(t, c.get("/"), "work")
}

func TestLogin_withABrowser(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home")
	c.start(config{members: c.vaulted()})
	p := newProvider(c, "work")
	s := c.sit("login", "api", "work", "--issuer", p.URL+"/tenant", "--client-id", "app", "--flow", "code", "--redirect", "http://127.0.0.1:"+freePort(t)+"/auth/callback")
	s.sees("Waiting for the login")
	address := regexp.MustCompile(`http\S+/authorize\?\S+`).Find(s.screen.all())
	res, err := http.Get(string(address))
	if err != nil {
		t.Fatal(err)
	}
	page, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	c.add("the page in the browser", page)
	if res.StatusCode != 200 || !strings.Contains(string(page), "The answer has arrived") {
		t.Errorf("the browser shows %d %s", res.StatusCode, page)
	}
	s.sees("api/work is in the vault")
	if err := s.ends(); err != nil {
		t.Error(err)
	}
	served(t, c.get("/"), "work")
}

func TestLogin_isGivenUp(t *testing.T) {
	t.Parallel()
	for _, flow := range []string{"device", "code"} {
		for how, give := range map[string]func(s *typed) error{
			"with Ctrl-C": func(s *typed) error { _, err := io.WriteString(s.tty, "\x03"); return err },
			"by SIGTERM":  func(s *typed) error { return s.cmd.Process.Signal(syscall.SIGTERM) },
		} {
			t.Run(flow+" "+how, func(t *testing.T) {
				t.Parallel()
				c := newCaddy(t, "work", "home")
				c.start(config{members: c.vaulted()})
				p := newProvider(c, "work")
				p.pending.Store(1 << 30)
				s := c.sit("login", "api", "work", "--issuer", p.URL+"/tenant", "--client-id", "app", "--flow", flow)
				s.sees("Waiting for the login")
				if err := give(s); err != nil {
					t.Fatal(err)
				}
				s.sees("Error: given up; nothing was stored")
				if exit := (*exec.ExitError)(nil); !errors.As(s.ends(), &exit) || exit.ExitCode() != 1 {
					t.Errorf("it ends with %v", exit)
				}
				c.is("work", "missing")
			})
		}
	}
}

func TestLogin_asksNobodyInVain(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, config{}, "work")
	p := newProvider(c, "work")
	out, err := c.pooled("", "login", "api", "work", "--issuer", p.URL+"/tenant", "--client-id", "app")
	if err == nil || !strings.Contains(out, "the member's secret is given in the config") {
		t.Errorf("an inline member: %v, %s", err, out)
	}
	out, err = c.pooled("", "login", "api", "home", "--issuer", "http://127.0.0.1:"+freePort(t), "--client-id", "app")
	if err == nil || !strings.Contains(out, "--issuer: no answer from http://127.0.0.1:") {
		t.Errorf("a dead issuer: %v, %s", err, out)
	}
	if n := p.polled.Load(); n != 0 {
		t.Errorf("the provider was asked %d times", n)
	}
	// A credential may come before its pool.
	out, err = c.pooled("", "login", "later", "one", "--issuer", p.URL+"/tenant", "--client-id", "app")
	if err != nil || !strings.Contains(out, "Waiting for the login…\n") || strings.Contains(out, "\r") || !strings.Contains(out, "no pool of the running config has that member yet") {
		t.Errorf("%v, %q", err, out)
	}
}

func TestAdd_asksForALogin(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home")
	c.start(config{members: c.vaulted()})
	access := c.account("work")
	s := c.sit("add", "api", "work", "--kind", "oauth")
	s.types("Access token (not shown): ", "\r")
	s.sees("That is not taken: it is needed. Once more, please.")
	s.types("Access token (not shown): ", "wrong\x15"+access+"y\x7f\r")
	s.types("Refresh token, empty for none (not shown): ", c.canary()+"\r")
	s.types("empty if not known: ", "tomorrow\r")
	s.sees("That is not taken: expires_at: it must be a time such as")
	s.types("empty if not known: ", "8h\r")
	s.types("Token URL, where it is refreshed: ", "http://id.example.com/token\r")
	s.sees("That is not taken: token_url is not https")
	s.types("Token URL, where it is refreshed: ", "https://id.example.com/token\r")
	s.types("Client id: ", "app\r")
	s.types("Client secret, empty for none (not shown): ", c.canary()+"\r")
	s.types("empty for params: ", "header\r")
	s.types("Scopes, with spaces between, empty if not known: ", "a b\r")
	s.types("empty for no more: ", "plan=team\r")
	s.types("empty for no more: ", "\r")
	s.sees("api/work is in the vault")
	if err := s.ends(); err != nil {
		t.Error(err)
	}
	served(t, c.get("/"), "work")
	if out, err := c.pooled("", "list"); err != nil || !strings.Contains(out, "plan") || !strings.Contains(out, "(in 7h59m") && !strings.Contains(out, "(in 8h") {
		t.Errorf("%v, %s", err, out)
	}
}

// A terminal's own lines are cut at 4,096 bytes.
func TestAdd_takesALongSecretAtAPrompt(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home")
	c.start(config{members: c.vaulted()})
	long := newCanary()
	c.watch(long)
	secret := strings.Repeat("x", 10000) + long.core
	c.upstream.mu.Lock()
	c.upstream.accounts[secret] = "work"
	c.upstream.mu.Unlock()
	s := c.sit("add", "api", "work")
	s.types("Secret: ", secret+"\r")
	s.sees("api/work is in the vault")
	if err := s.ends(); err != nil {
		t.Error(err)
	}
	served(t, c.get("/"), "work")
	s = c.sit("add", "api", "home")
	s.types("Secret: ", "half\x03")
	s.sees("given up; nothing was stored")
	if err := s.ends(); err == nil {
		t.Error("it succeeds")
	}
	c.is("home", "missing")
}

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for what has to happen.
const patience = 20 * time.Second

// caddy is a Caddy with a pool named api before a mock upstream. Everything
// that it writes and answers is evidence.
type caddy struct {
	t *testing.T
	*evidence
	upstream *upstream

	accounts []string          // in the order of the pool
	secrets  map[string]string // of the accounts
	phantom  string            // the client's token
	provider string            // of the pool, in place of what a config says of it
	env      []string
	dir      string
	storage  string
	port     string // of the site
	address  string // of the admin API, as Caddy writes it
	adminURL string
	client   *http.Client

	cmd      *exec.Cmd
	exited   chan struct{}
	log      *buffer
	reloaded bool // another config was loaded
	loaded   *load
	until    time.Time // the first account is benched
}

// config is what differs between the tests' Caddyfiles; each is lines that are
// put in at its place.
type config struct {
	global  string // global options
	server  string // of the global option servers
	app     string // of the global option credential_pool
	members string // in place of the accounts with their secrets inline
	pool    string // of the pool
	door    string // of the directive, besides the client
	handler string // of the site, in place of the directive with the upstream
	sites   string // further sites
	quiet   bool   // log at the default level, not at debug
}

// newCaddy prepares a Caddy for accounts of these names; it does not start it.
func newCaddy(t *testing.T, accounts ...string) *caddy {
	t.Helper()
	c := &caddy{
		t: t, evidence: newEvidence(t), upstream: newUpstream(t),
		accounts: accounts, secrets: make(map[string]string),
		phantom: "phantom-" + newCanary().core,
		dir:     t.TempDir(), port: freePort(t), address: "127.0.0.1:" + freePort(t),
		client: &http.Client{
			Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 100},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Timeout:       time.Minute,
		},
		log: new(buffer),
	}
	c.storage = c.path("storage")
	c.adminURL = "http://" + c.address
	c.env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + c.dir,
		"XDG_DATA_HOME=" + c.path("data"), "XDG_CONFIG_HOME=" + c.path("config"),
		"PHANTOM=" + c.phantom,
	}
	for _, name := range accounts {
		c.secrets[name] = c.account(name)
		c.setenv("KEY_"+name, c.secrets[name])
	}
	c.loaded = c.newLoad()
	t.Cleanup(c.end)
	return c
}

// listenOnASocket puts the admin API on a unix socket.
func (c *caddy) listenOnASocket() {
	c.t.Helper()
	dir := must(os.MkdirTemp("", "e2e")) // the path of a socket has to be short
	c.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "admin.sock")
	c.address, c.adminURL = "unix/"+socket, "http://127.0.0.1:0"
	c.client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == "127.0.0.1:0" {
			network, addr = "unix", socket
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
}

// startCaddy starts a Caddy for accounts of these names.
func startCaddy(t *testing.T, cfg config, accounts ...string) *caddy {
	t.Helper()
	c := newCaddy(t, accounts...)
	c.start(cfg)
	return c
}

// account makes an account's secret, and tells the upstream.
func (c *caddy) account(name string) string {
	secret := c.canary()
	c.upstream.mu.Lock()
	defer c.upstream.mu.Unlock()
	c.upstream.accounts[secret] = name
	return secret
}

func (c *caddy) setenv(name, value string) { c.env = append(c.env, name+"="+value) }

func (c *caddy) path(name string) string { return filepath.Join(c.dir, name) }

func (c *caddy) url(path string) string { return "http://127.0.0.1:" + c.port + path }

// caddyfile writes the config out.
func (c *caddy) caddyfile(cfg config) string {
	if cfg.members == "" {
		for _, name := range c.accounts {
			cfg.members += fmt.Sprintf("\t\t\tmember %s {env.KEY_%s}\n", name, name)
		}
	}
	if !cfg.quiet {
		cfg.global += "\n\tdebug"
	}
	if c.provider != "" {
		cfg.pool = "provider " + c.provider
	}
	if cfg.handler == "" {
		cfg.handler = fmt.Sprintf("credential_pool api %s {\n\t\tclient agent {env.PHANTOM}\n%s\n\t}", c.upstream.URL, cfg.door)
	}
	return fmt.Sprintf(`{
	admin %s
	storage file_system %s
	auto_https off
	servers {
		protocols h1 h2c
%s
	}
%s
	credential_pool {
%s
		pool api {
%s
%s
		}
		%s
	}
}

http://127.0.0.1:%s {
	%s
}
%s
%s
`, c.address, c.storage,
		cfg.server, cfg.global, cfg.app, cfg.members, cfg.pool, c.loaded.pool(), c.port, cfg.handler, cfg.sites, c.loaded.site())
}

// secondForm is the directive without an upstream, and a reverse_proxy.
func (c *caddy) secondForm() string {
	return "credential_pool api {\n\t\tclient agent {env.PHANTOM}\n\t}\n\treverse_proxy " + c.upstream.URL
}

// start runs Caddy and waits until it serves.
func (c *caddy) start(cfg config) {
	c.t.Helper()
	c.launch(c.caddyfile(cfg))
	served := func() bool { return strings.Contains(c.log.since(), "serving initial configuration") }
	for deadline := time.Now().Add(patience); !served(); time.Sleep(5 * time.Millisecond) {
		select {
		case <-c.exited:
			c.cmd = nil
			c.t.Fatalf("Caddy did not start:\n%s", c.log.tail())
		default:
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("Caddy does not start:\n%s", c.log.tail())
		}
	}
	c.loaded.start(c)
}

func (c *caddy) launch(caddyfile string) {
	c.t.Helper()
	if err := os.WriteFile(c.path("Caddyfile"), []byte(caddyfile), 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.log.mark()
	c.cmd = exec.Command(binary, "run", "--config", c.path("Caddyfile"), "--adapter", "caddyfile")
	c.cmd.Dir, c.cmd.Env, c.cmd.Stdout, c.cmd.Stderr = c.dir, c.env, c.log, c.log
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		_ = cmd.Wait()
		close(exited)
	}(c.cmd, c.exited)
}

// stop ends Caddy as an init system does; kill does it without warning.
func (c *caddy) stop() { c.signal(syscall.SIGTERM) }
func (c *caddy) kill() { c.signal(syscall.SIGKILL) }

func (c *caddy) signal(sig os.Signal) {
	c.t.Helper()
	if c.loaded != nil {
		c.loaded.ending.Store(true)
		defer c.loaded.end()
	}
	_ = c.cmd.Process.Signal(sig)
	select {
	case <-c.exited:
	case <-time.After(patience):
		_ = c.cmd.Process.Kill()
		<-c.exited
		c.t.Errorf("Caddy did not end:\n%s", c.log.tail())
	}
	c.cmd = nil
	c.client.CloseIdleConnections()
}

// load gives the running Caddy another config, and returns what it said if it
// refused.
func (c *caddy) load(cfg config) error { return c.loadText(c.caddyfile(cfg)) }

func (c *caddy) loadText(caddyfile string) error {
	c.t.Helper()
	c.reloaded = true
	req := must(http.NewRequest(http.MethodPost, c.adminURL+"/load", strings.NewReader(caddyfile)))
	req.Header.Set("Content-Type", "text/caddyfile")
	if a := c.do(req); a.status != http.StatusOK {
		return errors.New(a.body)
	}
	return nil
}

// end gathers what is to be searched for secrets, and ends Caddy.
func (c *caddy) end() {
	if c.cmd != nil {
		for _, path := range []string{"/config/", "/metrics", "/credential_pool/pools", "/credential_pool/credentials", "/credential_pool/notices"} {
			c.admin(http.MethodGet, path, "")
		}
		c.stop()
	}
	c.loaded.check(c.t, c.reloaded)
	c.add("the log", c.log.all())
	for _, sign := range []string{"DATA RACE", "panic: ", "panic serving", "fatal error: "} {
		if at := strings.Index(string(c.log.all()), sign); at >= 0 {
			c.t.Errorf("the log says:\n%.4000s", c.log.all()[at:])
		}
	}
	err := filepath.WalkDir(c.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() { // a client may leave links and sockets
			return err
		}
		content, err := os.ReadFile(path)
		c.add("the file "+strings.TrimPrefix(path, c.dir), content)
		return err
	})
	if err != nil {
		c.t.Error(err)
	}
	for _, h := range c.upstream.seen() {
		sent := fmt.Sprint(h.path, h.header)
		if h.account == "?" || strings.Contains(sent, c.phantom) {
			c.t.Errorf("the upstream got what is no account's: %s %s", h.method, h.path)
		}
		for secret, account := range c.upstream.accounts {
			if account != h.account && strings.Contains(sent, secret) {
				c.t.Errorf("the upstream got %s's secret beside %s's: %s %s", account, h.account, h.method, h.path)
			}
		}
	}
	if c.t.Failed() && testing.Verbose() {
		c.t.Logf("the log ends:\n%s", c.log.tail())
	}
}

// answer is what a client got.
type answer struct {
	status  int
	header  http.Header
	body    string
	trailer http.Header
}

// request makes a request as the client, with headers given as name and value.
func (c *caddy) request(method, path, body string, header ...string) *http.Request {
	c.t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req := must(http.NewRequest(method, c.url(path), r))
	req.Header.Set("Authorization", "Bearer "+c.phantom)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return req
}

// do makes the request and reads the whole answer. Each load replaces Caddy's
// servers, and the old ones may cut a connection that they have only just
// taken; then it is made again.
func (c *caddy) do(req *http.Request) answer {
	c.t.Helper()
	a, err := c.try(req)
	for range 3 {
		cut := errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
		if !cut || !c.reloaded {
			break
		}
		if req.GetBody != nil {
			req.Body = must(req.GetBody())
		}
		a, err = c.try(req)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return a
}

func (c *caddy) try(req *http.Request) (answer, error) {
	res, err := c.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	a := answer{res.StatusCode, res.Header, string(body), res.Trailer}
	c.sawAnswer("the answer to "+req.Method+" "+req.URL.Path, a)
	return a, err
}

func (c *caddy) sawAnswer(place string, a answer) {
	c.add(place, fmt.Appendf(nil, "%v %v %s", a.header, a.trailer, a.body))
}

// get makes a GET request as the client.
func (c *caddy) get(path string) answer {
	c.t.Helper()
	return c.do(c.request(http.MethodGet, path, ""))
}

// admin makes a request of the admin API.
func (c *caddy) admin(method, path, body string) answer {
	c.t.Helper()
	req := must(http.NewRequest(method, c.adminURL+path, strings.NewReader(body)))
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	return c.do(req)
}

// want makes a request of the admin API that must be answered with that status,
// and decodes the answer.
func (c *caddy) want(code int, method, path, body string, into any) answer {
	c.t.Helper()
	a := c.admin(method, path, body)
	if a.status != code {
		c.t.Fatalf("%s %s: got %d, want %d: %s", method, path, a.status, code, a.body)
	}
	if into != nil {
		if err := json.Unmarshal([]byte(a.body), into); err != nil {
			c.t.Fatalf("%s %s: %v in %s", method, path, err, a.body)
		}
	}
	return a
}

// member is a member in the answers of the admin API.
type member struct {
	Name     string    `json:"name"`
	Active   bool      `json:"active"`
	Position int       `json:"position"`
	State    string    `json:"state"`
	Reason   string    `json:"reason"`
	Until    time.Time `json:"until"`
	Failures int       `json:"failures"`
	Kind     string    `json:"kind"`
}

// member returns a member of the pool as it is now.
func (c *caddy) member(name string) member {
	c.t.Helper()
	var pool struct{ Members []member }
	c.want(http.StatusOK, http.MethodGet, "/credential_pool/pools/api", "", &pool)
	for _, m := range pool.Members {
		if m.Name == name {
			return m
		}
	}
	c.t.Fatalf("no member %s", name)
	return member{}
}

// active returns the name of the active member.
func (c *caddy) active() string {
	c.t.Helper()
	var pool struct{ Active string }
	c.want(http.StatusOK, http.MethodGet, "/credential_pool/pools/api", "", &pool)
	return pool.Active
}

// is fails the test unless the member is in that state.
func (c *caddy) is(name, state string) {
	c.t.Helper()
	if m := c.member(name); m.State != state {
		c.t.Errorf("%s is %s (%s), want %s", name, m.State, m.Reason, state)
	}
}

// notice is a notice in the answers of the admin API and in webhooks.
type notice struct {
	ID      string    `json:"id"`
	Time    time.Time `json:"time"`
	Kind    string    `json:"kind"`
	Pool    string    `json:"pool"`
	From    string    `json:"from"`
	To      string    `json:"to"`
	Reason  string    `json:"reason"`
	Meaning string    `json:"meaning"`
	Message string    `json:"message"`
}

// notices returns all notices in short, the oldest first.
func (c *caddy) notices() []string {
	c.t.Helper()
	var list struct{ Notices []notice }
	c.want(http.StatusOK, http.MethodGet, "/credential_pool/notices", "", &list)
	told := []string{}
	for i := range list.Notices {
		n := list.Notices[len(list.Notices)-1-i]
		told = append(told, fmt.Sprintf("%s %s>%s %s", n.Kind, n.From, n.To, n.Reason))
	}
	return told
}

// metric returns the value of a metric, given with its labels, as in
// `retries_total{pool="api"}`.
func (c *caddy) metric(name string) string {
	c.t.Helper()
	for line := range strings.Lines(c.admin(http.MethodGet, "/metrics", "").body) {
		if value, ok := strings.CutPrefix(line, "caddy_credential_pool_"+name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// command runs a command of the binary against the running Caddy.
func (c *caddy) command(stdin string, args ...string) (output string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir, cmd.Env, cmd.Stdin = c.dir, c.env, strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	c.add("the output of "+strings.Join(args, " "), out)
	return string(out), err
}

// pooled runs a command of the plugin.
func (c *caddy) pooled(stdin string, args ...string) (output string, err error) {
	args = append([]string{"credential-pool"}, args...)
	return c.command(stdin, append(args, "--address", c.address)...)
}

// eventually waits until it is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it did not come about in %s: %s", patience, what)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// equal fails the test unless what was got is what was wanted.
func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("%s: got %s, want %s", what, g, w)
	}
}

// served fails the test unless the answer is a 200 from that account.
func served(t *testing.T, a answer, by string) {
	t.Helper()
	if a.status != http.StatusOK || a.body != "served by "+by {
		t.Errorf("got %d %q, want a 200 that %s served", a.status, a.body, by)
	}
}

var nextPort atomic.Int32

func init() { nextPort.Store(10000 + rand.Int32N(10000)) }

// freePort returns a port that no other test gets. It lies below those that
// the kernel gives to outgoing connections.
func freePort(t *testing.T) string {
	t.Helper()
	for range 1000 {
		port := fmt.Sprint(nextPort.Add(1))
		if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return ""
}

// buffer is what a process writes.
type buffer struct {
	mu     sync.Mutex
	b      bytes.Buffer
	marked int
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) all() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.b.Bytes())
}

// mark makes since return what is written from now on.
func (b *buffer) mark() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.marked = b.b.Len()
}

func (b *buffer) since() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.b.Bytes()[b.marked:])
}

func (b *buffer) tail() []byte {
	all := b.all()
	return all[max(0, len(all)-6000):]
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// findCaddy returns the binary under test: the one that CREDENTIAL_POOL_CADDY
// names, or one that it builds in dir.
func findCaddy(ctx context.Context, dir string) (string, error) {
	if binary := os.Getenv("CREDENTIAL_POOL_CADDY"); binary != "" {
		return binary, nil
	}
	binary := filepath.Join(dir, "caddy")
	build := exec.CommandContext(ctx, "go", "-C", "../build", "run", ".", "-output", binary) // #nosec G204 -- a path of our own
	build.WaitDelay = patience
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building Caddy: %w\n%s", err, out)
	}
	return binary, nil
}

// caddy is a running Caddy.
type caddy struct {
	setup   *setup
	address string // of the site
	admin   string // URL of the admin API
	dir     string

	cmd    *exec.Cmd
	exited chan struct{}
}

// startCaddy runs a setup in a folder of its own below dir.
func startCaddy(ctx context.Context, binary, dir string, s *setup, upstream string) (*caddy, error) {
	dir, err := os.MkdirTemp(dir, "caddy-")
	if err != nil {
		return nil, err
	}
	c := &caddy{setup: s, dir: dir}
	admin, err := freeAddress()
	if err != nil {
		return nil, err
	}
	if c.address, err = freeAddress(); err != nil {
		return nil, err
	}
	c.admin = "http://" + admin
	_, port, err := net.SplitHostPort(c.address)
	if err != nil {
		return nil, err
	}
	config := s.caddyfile(admin, port, c.path("storage"), upstream)
	if err := os.WriteFile(c.path("Caddyfile"), []byte(config), 0o600); err != nil {
		return nil, err
	}
	if err := c.start(ctx, binary); err != nil {
		return nil, err
	}
	if err := c.putCredentials(ctx); err != nil {
		c.stop()
		return nil, fmt.Errorf("putting credentials (%s): %w", s.name, err)
	}
	return c, nil
}

// start runs Caddy and waits until it serves.
func (c *caddy) start(ctx context.Context, binary string) error {
	err := c.launch(binary)
	if err != nil {
		return fmt.Errorf("starting Caddy (%s): %w", c.setup.name, err)
	}
	if err := c.ready(ctx); err != nil {
		c.stop()
		return fmt.Errorf("starting Caddy (%s): %w\n%s", c.setup.name, err, c.log())
	}
	return nil
}

// restart replaces the process by a fresh one with the same storage.
func (c *caddy) restart(ctx context.Context, binary string) error {
	c.stop()
	return c.start(ctx, binary)
}

func (c *caddy) path(name string) string { return filepath.Join(c.dir, name) }

func (c *caddy) launch(binary string) error {
	log, err := os.Create(c.path("log"))
	if err != nil {
		return err
	}
	defer log.Close()
	c.cmd = exec.Command(binary, "run", "--config", c.path("Caddyfile"), "--adapter", "caddyfile") // #nosec G204 -- paths of our own
	c.cmd.Dir, c.cmd.Stdout, c.cmd.Stderr = c.dir, log, log
	c.cmd.Env = []string{"HOME=" + c.dir, "XDG_DATA_HOME=" + c.path("data"), "XDG_CONFIG_HOME=" + c.path("config")}
	if err := c.cmd.Start(); err != nil {
		return err
	}
	c.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		_ = cmd.Wait()
		close(exited)
	}(c.cmd, c.exited)
	return nil
}

// ready waits until the admin API and the site answer.
func (c *caddy) ready(ctx context.Context) error {
	for deadline := time.Now().Add(patience); ; {
		conn, err := net.Dial("tcp", c.address)
		if err == nil {
			_ = conn.Close()
			if err = c.call(ctx, http.MethodGet, "/config/apps/http/servers/srv0/listen", nil, nil); err == nil {
				return nil
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("it does not serve: %w", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.exited:
			return errors.New("it ended")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// putCredentials fills the vault: all members of the first pool, which serves,
// and one of each other.
func (c *caddy) putCredentials(ctx context.Context) error {
	for i := range c.setup.pools {
		members := c.setup.members
		if i > 0 {
			members = 1
		}
		for k := range members {
			path := "/credential_pool/credentials/" + poolName(i) + "/" + memberName(k)
			credential := map[string]string{"kind": "static", "secret": secret(k)}
			if err := c.call(ctx, http.MethodPut, path, credential, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// active returns the member that the first pool hands out.
func (c *caddy) active(ctx context.Context) (int, error) {
	var pool struct {
		Members []struct{ Active bool }
	}
	if err := c.call(ctx, http.MethodGet, "/credential_pool/pools/"+poolName(0), nil, &pool); err != nil {
		return 0, err
	}
	for i, m := range pool.Members {
		if m.Active {
			return i, nil
		}
	}
	return 0, errors.New("no member is active")
}

// recover ends whatever keeps a member of the first pool from serving.
func (c *caddy) recover(ctx context.Context, member int) error {
	return c.call(ctx, http.MethodPost, "/credential_pool/pools/"+poolName(0)+"/members/"+memberName(member)+"/recover", nil, nil)
}

// processor returns the processor time that Caddy has used so far; 0 where that
// can't be known.
func (c *caddy) processor() (time.Duration, error) {
	used, err := cpuTime(c.cmd.Process.Pid)
	if errors.Is(err, errNoProc) {
		return 0, nil
	}
	return used, err
}

// allocated is what Caddy has allocated so far, by Go's own count. Unlike time,
// that does not waver.
type allocated struct{ Mallocs, TotalAlloc uint64 }

func (c *caddy) allocated(ctx context.Context) (allocated, error) {
	var vars struct {
		Memstats allocated `json:"memstats"`
	}
	err := c.call(ctx, http.MethodGet, "/debug/vars", nil, &vars)
	return vars.Memstats, err
}

// call makes a request of the admin API, with JSON in and out.
func (c *caddy) call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.admin+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: status %d: %s", method, path, res.StatusCode, answer)
	}
	if err == nil && out != nil {
		err = json.Unmarshal(answer, out)
	}
	return err
}

// stop ends Caddy, if it runs.
func (c *caddy) stop() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.exited:
	case <-time.After(patience):
		_ = c.cmd.Process.Kill()
		<-c.exited
	}
}

// log returns the end of what Caddy has written.
func (c *caddy) log() []byte {
	content, _ := os.ReadFile(c.path("log")) // it is evidence at best
	return content[max(0, len(content)-4000):]
}

// freeAddress returns an address that nobody listens on. Its port lies below
// those that the kernel gives to outgoing connections.
func freeAddress() (string, error) {
	var err error
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000)) // #nosec G404 -- no secret
		l, listenErr := net.Listen("tcp", address)
		if listenErr == nil {
			return address, l.Close()
		}
		err = listenErr
	}
	return "", fmt.Errorf("finding a free port: %w", err)
}

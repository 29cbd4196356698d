package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// program is a client that is a process of its own. It has a home that is
// evidence, as all that it writes is, and no way out of this machine.
type program struct {
	c    *caddy
	home string
	env  []string
}

func (c *caddy) program(env ...string) program {
	c.t.Helper()
	p := program{c: c, home: c.path("client")}
	for _, dir := range []string{"tmp", "work"} {
		if err := os.MkdirAll(filepath.Join(p.home, dir), 0o700); err != nil {
			c.t.Fatal(err)
		}
	}
	nowhere := "http://127.0.0.1:" + freePort(c.t)
	p.env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + p.home, "TMPDIR=" + filepath.Join(p.home, "tmp"), "LANG=C.UTF-8",
		"HTTP_PROXY=" + nowhere, "HTTPS_PROXY=" + nowhere, "ALL_PROXY=" + nowhere, "NO_PROXY=127.0.0.1",
		"http_proxy=" + nowhere, "https_proxy=" + nowhere, "all_proxy=" + nowhere, "no_proxy=127.0.0.1",
	}, env...)
	return p
}

// file writes a file in the program's home.
func (p program) file(name, content string) {
	p.c.t.Helper()
	path := filepath.Join(p.home, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		p.c.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		p.c.t.Fatal(err)
	}
}

// run runs the program to its end, with whatever it started, and returns what
// it wrote to its standard output, less the white space around it.
func (p program) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = filepath.Join(p.home, "work"), p.env, &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	end := func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Cancel, cmd.WaitDelay = end, time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	_ = end() // what it left behind
	p.c.add("the output of "+filepath.Base(name), stdout.Bytes())
	p.c.add("the errors of "+filepath.Base(name), stderr.Bytes())
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", filepath.Base(name), err, &stdout, &stderr)
	}
	return strings.TrimSpace(stdout.String())
}

// leaveOut skips the test for want of a client, but not where all clients have
// been installed: there it fails.
func leaveOut(t *testing.T, because string) {
	t.Helper()
	if os.Getenv("CREDENTIAL_POOL_NPM") != "" {
		t.Fatalf("CREDENTIAL_POOL_NPM is set, so that every client has to be there, but %s", because)
	}
	t.Skipf("%s: left out, because %s", t.Name(), because)
}

// onPath returns the path of a program that the system has.
func onPath(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		leaveOut(t, "there is no "+name+" here")
	}
	return path
}

// fromNPM returns the path of a file in the folder node_modules of
// CREDENTIAL_POOL_NPM.
func fromNPM(t *testing.T, file string) string {
	t.Helper()
	dir := os.Getenv("CREDENTIAL_POOL_NPM")
	if dir == "" {
		leaveOut(t, "CREDENTIAL_POOL_NPM names no folder with the clients from npm; in internal/e2e, run "+
			"npm ci --ignore-scripts --prefix testdata/clients && CREDENTIAL_POOL_NPM=$PWD/testdata/clients go test ./...")
	}
	path := filepath.Join(dir, "node_modules", file)
	if _, err := os.Stat(path); err != nil {
		leaveOut(t, err.Error())
	}
	return path
}

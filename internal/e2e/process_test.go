package e2e

import (
	"debug/buildinfo"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
)

// needProc leaves the test out where the system does not tell about processes.
func needProc(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("left out: there is no /proc that tells the memory of a process")
	}
}

// peak returns the most memory that the process has had, in bytes.
func (c *caddy) peak() int64 { return c.memory("VmHWM:") }

// resident returns the memory that the process has, in bytes.
func (c *caddy) resident() int64 { return c.memory("VmRSS:") }

func (c *caddy) memory(kind string) int64 {
	c.t.Helper()
	for line := range strings.Lines(string(must(os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))))) {
		if kib, ok := strings.CutPrefix(line, kind); ok {
			return must(strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(kib), " kB"), 10, 64)) << 10
		}
	}
	c.t.Fatalf("%s is not known", kind)
	return 0
}

// files returns how many files and connections the process has open.
func (c *caddy) files() int {
	c.t.Helper()
	return len(must(os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.cmd.Process.Pid))))
}

// goroutines returns how many the process has, once unused connections are
// closed.
func (c *caddy) goroutines() int {
	c.t.Helper()
	c.client.CloseIdleConnections()
	var profile string
	c.loaded.rest(func() { profile = c.admin(http.MethodGet, "/debug/pprof/goroutine?debug=1", "").body })
	var n int
	if _, err := fmt.Sscanf(profile, "goroutine profile: total %d", &n); err != nil {
		c.t.Fatal(err)
	}
	return n
}

// vitals are what must not grow.
type vitals struct {
	goroutines, files int
	resident          int64
}

func (v vitals) String() string {
	return fmt.Sprintf("%d goroutines, %d files, %d MiB", v.goroutines, v.files, v.resident>>20)
}

// vitals returns what the process has once it is at rest: connections that may
// be kept are closed, and nothing changes any more.
func (c *caddy) vitals() (v vitals) {
	c.t.Helper()
	c.t.Logf("%d files and connections with those that are kept", c.files())
	c.upstream.CloseClientConnections()
	same := 0
	eventually(c.t, "the process is at rest", func() bool {
		now := vitals{goroutines: c.goroutines(), files: c.files()}
		if same++; now != v {
			v, same = now, 0
		}
		return same == 20
	})
	v.resident = c.resident()
	return v
}

// overhead is by how much the binary needs more memory than usual: the race
// detector keeps a record of every access.
func overhead(t *testing.T) int64 {
	t.Helper()
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range info.Settings {
		if s.Key == "-race" && s.Value == "true" {
			return 5
		}
	}
	return 1
}

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// lose takes the storage away, with a file in its place, until it is brought
// back.
func (c *caddy) lose() (bringBack func()) {
	c.t.Helper()
	away := c.path("away")
	if err := os.Rename(c.storage, away); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(c.storage, nil, 0o600); err != nil {
		c.t.Fatal(err)
	}
	return func() {
		if err := os.Remove(c.storage); err != nil {
			c.t.Fatal(err)
		}
		if err := os.Rename(away, c.storage); err != nil {
			c.t.Fatal(err)
		}
	}
}

// lines returns the lines of the log since the last start, at the level of a
// warning or above, that are about the text.
func (c *caddy) lines(text string) []string {
	lines := []string{}
	for line := range strings.Lines(c.log.since()) {
		if strings.Contains(line, text) && (strings.Contains(line, `"level":"warn"`) || strings.Contains(line, `"level":"error"`)) {
			lines = append(lines, line)
		}
	}
	return lines
}

func TestFault_storageIsGoneInMidRun(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home", "spare")
	cfg := config{members: c.vaulted(), app: "sync_interval 200ms"}
	c.start(cfg)
	for _, name := range c.accounts {
		c.put(name)
	}
	for episode := range 3 {
		c.upstream.answer("work", nil)
		c.want(200, http.MethodPost, "/credential_pool/pools/api/members/work/recover", "", nil)
		if c.active() != "work" {
			c.want(200, http.MethodPost, "/credential_pool/pools/api/rotate", `{"to":"work","park_for":"1s"}`, nil)
		}
		c.want(200, http.MethodPost, "/credential_pool/pools/api/members/home/recover", "", nil)
		served(t, c.get("/"), "work")
		eventually(t, "nothing is left to save", func() bool { return !strings.Contains(c.savedState(), "cooling_until") })
		c.log.mark()

		bringBack := c.lose()
		c.bench() // a failover, from memory
		eventually(t, "an alert that the state can't be saved", func() bool { return c.logged(cantSave) == 1 })
		eventually(t, "a word on each credential", func() bool { return len(c.lines(`"credential":"api/`)) == 3 })
		if a := c.tryPut("work", fmt.Sprint("work, lost ", episode)); a.status < 500 || !strings.Contains(a.body, "not a directory") {
			t.Errorf("a put: %d %s", a.status, a.body)
		}
		never(t, 2*time.Second, "a request is not served, or the log repeats itself", func() bool {
			return c.get("/").body != "served by home" || c.logged(cantSave) != 1 || len(c.lines(`"credential":"api/`)) != 3
		})
		for _, name := range []string{"home", "spare"} {
			c.is(name, "ready")
		}
		bringBack()
		eventually(t, "the bench is saved", func() bool { return strings.Contains(c.savedState(), "cooling_until") })
		eventually(t, "the log says so", func() bool { return c.logged(savedAgain) == 1 })
		c.benched("once the storage is back")
	}
	c.kill()
	c.start(cfg)
	c.benched("after a restart")
}

func TestFault_storageIsGoneAtStart(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home", "spare")
	cfg := config{
		app:     "sync_interval 200ms",
		members: "member work {env.KEY_work}\nmember home {env.KEY_home}\nmember spare",
	}
	c.start(cfg)
	c.put("spare")
	for _, name := range []string{"home", "spare"} {
		c.want(200, http.MethodPost, "/credential_pool/pools/api/members/"+name+"/park", `{"for":"1h"}`, nil)
	}
	c.stop()

	bringBack := c.lose()
	c.start(cfg)
	c.is("spare", "missing")
	if reason := c.member("spare").Reason; !strings.Contains(reason, "not a directory") {
		t.Errorf("the reason is %q", reason)
	}
	c.bench() // what stands in the config serves
	eventually(t, "an alert that the state can't be saved", func() bool { return c.logged(cantSave) == 1 })
	never(t, 2*time.Second, "a request is not served, or the log repeats itself", func() bool {
		return c.get("/").body != "served by home" || c.logged(cantSave) != 1 || len(c.lines(`"credential":"api/spare"`)) != 1
	})
	if a := c.admin(http.MethodGet, "/credential_pool/credentials", ""); a.status < 500 || !strings.Contains(a.body, "not a directory") {
		t.Errorf("the list of credentials: %d %s", a.status, a.body)
	}
	bringBack()
	eventually(t, "spare is there, and what was saved about it", func() bool { return c.member("spare").State == "parked" })
	eventually(t, "the state is saved", func() bool { return strings.Contains(c.savedState(), "cooling_until") })
	c.is("work", "cooling")
	c.is("home", "parked") // so it is for one whose secret is in the config
	c.kill()
	c.start(cfg)
	c.is("work", "cooling")
	c.is("home", "parked")
	c.is("spare", "parked")
}

// A disk that is not mounted leaves an empty folder, or none. That is not the
// same as credentials that somebody has removed.
func TestFault_storageIsNotMounted(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home")
	c.start(config{members: c.vaulted(), app: "sync_interval 200ms"})
	for _, name := range c.accounts {
		c.put(name)
	}
	served(t, c.get("/"), "work")
	away := c.path("away")
	if err := os.Rename(c.storage, away); err != nil {
		t.Fatal(err)
	}
	never(t, 2*time.Second, "a request is not served", func() bool { return c.get("/").body != "served by work" })
	if a := c.tryPut("home", "home, put beside the storage"); a.status < 400 {
		t.Errorf("a put for which another identity is made: %d %s", a.status, a.body)
	}
	if err := os.RemoveAll(c.storage); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(away, c.storage); err != nil {
		t.Fatal(err)
	}
	equal(t, "a put", c.tryPut("home", "home, put again").status, 200)
	c.is("work", "ready")
	c.is("home", "ready")
}

// A record that is a pipe makes whoever reads it wait.
func TestFault_storageHangsInARead(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home")
	c.start(config{members: c.vaulted(), app: "sync_interval 200ms"})
	for _, name := range c.accounts {
		c.put(name)
	}
	served(t, c.get("/"), "work")
	before := c.goroutines()
	record := filepath.Join(c.storage, "credential_pool/credentials/api/home.age")
	content := must(os.ReadFile(record))
	if err := os.Remove(record); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(record, 0o600); err != nil {
		t.Fatal(err)
	}
	never(t, 25*time.Second, "a request is not served, or the log repeats itself", func() bool {
		return c.get("/").body != "served by work" || len(c.lines("can't be looked at")) > 1
	})
	equal(t, "warnings", len(c.lines("can't be looked at")), 1)
	if now := c.goroutines(); now > before+5 {
		t.Errorf("%d goroutines, %d before", now, before)
	}
	pipe := must(os.OpenFile(record, os.O_WRONLY, 0))
	if err := os.WriteFile(record+".new", content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(record+".new", record); err != nil {
		t.Fatal(err)
	}
	_, _ = pipe.Write(content)
	_ = pipe.Close()
	equal(t, "a put", c.tryPut("home", "home, put again").status, 200)
	c.is("home", "ready")
}

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The lines of the log that tell when the state can't be saved, and can again.
const (
	cantSave   = "the state of the pool can't be saved"
	savedAgain = "the state of the pool is saved again"
)

// logged returns how many lines of the log since the mark, which is at the last
// start, are about the pool and hold the text.
func (c *caddy) logged(text string) (n int) {
	for line := range strings.Lines(c.log.since()) {
		if strings.Contains(line, text) && strings.Contains(line, `"pool":"api"`) {
			n++
		}
	}
	return n
}

// secretOf returns the secret of an account, which is made if there is none.
func (c *caddy) secretOf(account string) string {
	c.upstream.mu.Lock()
	for secret, name := range c.upstream.accounts {
		if name == account {
			c.upstream.mu.Unlock()
			return secret
		}
	}
	c.upstream.mu.Unlock()
	return c.account(account)
}

// putRequest is a put of another account's secret for the member.
func (c *caddy) putRequest(member, account string) *http.Request {
	c.t.Helper()
	return must(http.NewRequest(http.MethodPut, c.adminURL+"/credential_pool/credentials/api/"+member,
		strings.NewReader(fmt.Sprintf(`{"kind":"static","secret":%q}`, c.secretOf(account)))))
}

// tryPut makes such a put, which need not succeed.
func (c *caddy) tryPut(member, account string) answer {
	c.t.Helper()
	return c.do(c.putRequest(member, account))
}

// never fails the test if it becomes so within that time.
func never(t *testing.T, within time.Duration, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if so() {
			t.Fatalf("it came about: %s", what)
		}
	}
}

func TestFault_diskFull(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t)
	c := newCaddy(t, "work", "home")
	c.storage = disk
	cfg := config{members: c.vaulted()}
	c.start(cfg)
	c.put("work")
	c.put("home")
	c.bench()
	eventually(t, "the bench is saved", func() bool { return strings.Contains(c.savedState(), "cooling_until") })
	state, records := c.savedState(), c.records()

	giveBack := fill(t, disk)
	c.want(200, http.MethodPost, "/credential_pool/pools/api/members/home/park", `{"for":"1h"}`, nil)
	eventually(t, "an alert that the state can't be saved", func() bool { return c.logged(cantSave) > 0 })
	if a := c.tryPut("home", "home, put on a full disk"); a.status < 500 || !strings.Contains(a.body, "no space left") {
		t.Errorf("a put on a full disk: %d %s", a.status, a.body)
	}
	never(t, 2*time.Second, "a second alert", func() bool { return c.logged(cantSave) > 1 })
	served(t, c.get("/"), "home") // with the old secret
	equal(t, "the records are as they were", c.records() == records, true)
	equal(t, "the saved state", c.savedState(), state)

	giveBack()
	eventually(t, "the state is saved", func() bool { return strings.Contains(c.savedState(), "parked_until") })
	eventually(t, "the log says so", func() bool { return c.logged(savedAgain) == 1 })
	equal(t, "a put", c.tryPut("home", "home, put once there is space").status, 200)
	served(t, c.get("/"), "home, put once there is space")
	equal(t, "what failed writes have left", leftovers(t, disk), "[]")
}

// leftovers are the files of a storage that are nobody's.
func leftovers(t *testing.T, storage string) []string {
	t.Helper()
	left := []string{}
	for _, dir := range []string{"credentials/api", "state", "."} {
		for _, entry := range must(os.ReadDir(filepath.Join(storage, "credential_pool", dir))) {
			switch ext := filepath.Ext(entry.Name()); {
			case entry.IsDir(), ext == ".age", ext == ".json", entry.Name() == "identity.txt":
			default:
				left = append(left, filepath.Join(dir, entry.Name()))
			}
		}
	}
	return left
}

func TestFault_diskFullAtTheFirstPut(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t)
	c := newCaddy(t, "work", "home")
	c.storage = disk
	giveBack := fill(t, disk)
	cfg := config{members: "member work\nmember home {env.KEY_home}"}
	c.start(cfg) // it can start, and serve with what is in the config
	served(t, c.get("/"), "home")
	a := c.tryPut("work", "work, put on a full disk")
	if a.status < 500 || !strings.Contains(a.body, "no space left") {
		t.Errorf("a put on a full disk: %d %s", a.status, a.body)
	}
	c.is("work", "missing")
	giveBack()
	c.put("work")
	c.is("work", "ready")
	c.stop()
	c.start(cfg)
	c.is("work", "ready")
	equal(t, "what failed writes have left", leftovers(t, disk), "[]")
}

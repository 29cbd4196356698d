package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// A storage stops in the middle of a write of the vault and of one of the
// state, for longer than anybody waits for it, and then goes on.
func TestFault_storageFreezesInMidWrite(t *testing.T) {
	t.Parallel()
	disk := freezable(t)
	c := newCaddy(t, "work", "home", "spare")
	c.storage = disk
	cfg := config{members: c.vaulted(), app: "sync_interval 200ms"}
	c.start(cfg)
	for _, name := range c.accounts {
		c.put(name)
	}
	c.bench()
	eventually(t, "the bench is saved", func() bool { return strings.Contains(c.savedState(), "cooling_until") })

	thaw := freeze(t, disk)
	began := time.Now()
	answers := make(chan answer, 2)
	for _, account := range []string{"home, late", "home, late too"} {
		go func() {
			a, _ := c.try(c.putRequest("home", account))
			answers <- a
		}()
	}
	c.want(200, http.MethodPost, "/credential_pool/pools/api/members/spare/park", `{"for":"1h"}`, nil)
	eventually(t, "an alert that the state can't be saved", func() bool { return c.logged(cantSave) == 1 })
	for range 2 {
		a := <-answers // they are given up before the storage goes on
		if a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, "storage did not answer") {
			t.Errorf("a put into a storage that hangs: %d %s", a.status, a.body)
		}
	}
	never(t, time.Until(began.Add(15*time.Second)), "a request is not served, or another alert is logged", func() bool {
		return c.get("/").body != "served by home" || c.logged(cantSave) != 1 || len(c.lines("can't be looked at")) != 0
	})
	thaw()

	// Of the two puts that were said to have failed, the first had reached the
	// storage and may still come to its end. The second must not: it would
	// overwrite what the operator has put since.
	equal(t, "a put once the storage goes on", c.tryPut("home", "home, put last").status, 200)
	eventually(t, "the state is saved", func() bool { return strings.Contains(c.savedState(), "parked_until") })
	never(t, 2*time.Second, "the late put comes after the last one", func() bool { return c.get("/").body != "served by home, put last" })
	equal(t, "alerts", []int{c.logged(cantSave), c.logged(savedAgain)}, "[1 1]")
	c.kill()
	c.start(cfg)
	c.is("work", "cooling")
	c.is("spare", "parked")
	served(t, c.get("/"), "home, put last")
	equal(t, "what late writes have left", leftovers(t, disk), "[]")
}

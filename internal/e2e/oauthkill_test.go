package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// lostIn is until when a login that was lost has shown it after a kill: the lock
// of the killed process has to grow old, and then its intent.
const lostIn = 60 * time.Second

// settled waits until a kill has no consequences any more: no login is due, or
// waits for what another process may have begun.
func (c *caddy) settled(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(lostIn); ; time.Sleep(100 * time.Millisecond) {
		open := []string{}
		for _, account := range c.accounts {
			if r := c.record(account); r.Lost == "" && (r.Intent || time.Until(r.Ends) < 5*time.Minute) {
				open = append(open, account)
			}
		}
		if len(open) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s neither refreshed nor lost %s after the kill", open, lostIn)
		}
	}
}

// mustLogIn fails the test unless the account says that it needs a login: in the
// status, in a notice's line in the log, which outlives the process that told it,
// and in the list of credentials.
func (c *caddy) mustLogIn(t *testing.T, account string) {
	t.Helper()
	if m := c.member(account); m.State != "missing" || m.Reason != "log in again (invalid_grant)" {
		t.Errorf("%s is %s (%s), and does not say that it needs a login", account, m.State, m.Reason)
	}
	if notice := `\"` + account + `\" must log in again (invalid_grant)`; !strings.Contains(string(c.log.all()), notice) {
		t.Errorf("the log does not say %s", notice)
	}
	for _, command := range []string{"status", "list"} {
		out, err := c.pooled("", command)
		said := false
		for line := range strings.Lines(out) {
			said = said || (strings.Contains(line, account) && strings.Contains(line, "log in again"))
		}
		if err != nil || !said {
			t.Errorf("%s does not say that %s needs a login: %v\n%s", command, account, err, out)
		}
	}
}

func TestFault_killedBetweenGrantAndStore(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home")
	cfg := config{members: c.vaulted()}
	c.start(cfg)
	s := newAuthServer(t, c)
	s.put(c, time.Now().Add(time.Hour), "home")
	held := newGate(t)
	s.send(held.held)
	s.put(c, time.Now().Add(-time.Minute), "work")
	held.wait(t, 1)
	c.kill()

	s.send(send200)
	c.start(cfg)
	c.is("home", "ready")
	served(t, c.get("/"), "home")
	c.settled(t)
	eventually(t, "the pool knows", func() bool { return c.member("work").State == "missing" })
	c.mustLogIn(t, "work")
	if told := c.notices(); !slices.Contains(told, "refresh_failed work> invalid_grant") {
		t.Errorf("told %q", told)
	}
	served(t, c.get("/"), "home")
	s.saw(t, 1, 1)
	s.put(c, time.Now().Add(time.Hour), "work")
	c.is("work", "ready")
	c.want(200, http.MethodPost, "/credential_pool/pools/api/rotate", `{"to":"work"}`, nil)
	served(t, c.get("/"), "work")
}

// Many logins are refreshed, and Caddy is killed in the midst of it, at random,
// again and again. What a kill costs is known from the vault as it leaves it: a
// login whose newest refresh token is not there. No other one may be lost, and
// none in silence.
func TestFault_killedWhileItRefreshes(t *testing.T) {
	t.Parallel()
	const each = 20 // logins in a round
	rounds := 10
	if enduring() {
		rounds = 50
	}
	chance := rand.New(rand.NewPCG(seeded(t), 0))
	var accounts []string
	for i := range rounds * each {
		accounts = append(accounts, fmt.Sprint("login-", i))
	}
	c := newCaddy(t, accounts...)
	cfg := config{members: c.vaulted(), app: looked, quiet: true}
	c.start(cfg)
	s := newAuthServer(t, c)
	delays := make([]time.Duration, 0, 1000)
	for range cap(delays) {
		delays = append(delays, time.Duration(chance.Int64N(int64(100*time.Millisecond))))
	}
	s.send(func(w http.ResponseWriter, r *http.Request, answer map[string]any) {
		time.Sleep(delays[len(s.grants())%len(delays)])
		send200(w, r, answer)
	})
	s.put(c, time.Now().Add(time.Hour), accounts...)
	c.settled(t)

	cost := make(map[string]bool) // logins whose tokens were granted and never stored
	for round := range rounds {
		for _, account := range accounts[round*each : (round+1)*each] {
			c.age(account, 4*time.Minute)
		}
		time.Sleep(time.Duration(chance.Int64N(int64(1500 * time.Millisecond)))) // the tick is each second
		c.kill()
		for _, account := range accounts {
			if !s.isNewest(c.record(account).Refresh) {
				cost[account] = true
			}
		}
		c.start(cfg)
	}
	c.settled(t)

	reuses := make(map[string]int)
	for _, g := range s.grants() {
		if g.reused {
			reuses[g.account]++
		}
	}
	for _, account := range accounts {
		switch {
		case cost[account]:
			// A further kill may have hit the process that had just been told.
			if n := reuses[account]; n < 1 || n > 2 {
				t.Errorf("the used token of %s was used %d times more", account, n)
			}
			c.mustLogIn(t, account)
		case reuses[account] != 0:
			t.Errorf("the refresh token of %s was used again, although its successor was stored", account)
		default:
			c.want(200, http.MethodPost, "/credential_pool/pools/api/rotate", fmt.Sprintf(`{"to":%q}`, account), nil)
			served(t, c.get("/"), account)
		}
	}
	t.Logf("%d refreshes asked for, %d kills, %d logins lost", len(s.grants()), rounds, len(cost))
}

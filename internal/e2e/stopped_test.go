package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// pair starts two Caddys on one storage with the same credentials in it.
func pair(t *testing.T, accounts ...string) (one, other *caddy) {
	t.Helper()
	one, other = newCaddy(t, accounts...), newCaddy(t, accounts...)
	identity := one.identity()
	other.watch(canary{strings.TrimPrefix(identity, "AGE-SECRET-KEY-1")})
	other.storage, other.upstream = one.storage, one.upstream
	for _, c := range []*caddy{one, other} {
		c.setenv("IDENTITY", identity)
		c.start(config{members: c.vaulted(), app: "vault {\nidentity {env.IDENTITY}\n}\nsync_interval 200ms"})
	}
	return one, other
}

// One of two Caddys on a storage stops in the midst of its puts while the other
// one's operator puts something newer. Of a put that was not answered when the
// other began, either may win: both are whole, and nothing tells which came
// first. What must not come back is anything from before. The file of the state
// is not part of this: as long as instances do not merge it, the last one to
// write wins.
func TestFault_writerThatIsStoppedOverwritesNothingNewer(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	chance := rand.New(rand.NewPCG(seed, 0))
	one, other := pair(t, "work")
	here, there := &scribe{c: one, member: "work"}, &scribe{c: other, member: "work", from: "elsewhere "}
	equal(t, "the first put", here.put(), true)
	for round := range 10 {
		moment := time.Duration(chance.Int64N(int64(30 * time.Millisecond)))
		stopped, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			for {
				select {
				case <-stopped:
					return
				default:
					if !here.put() {
						return
					}
				}
			}
		}()
		time.Sleep(moment)
		_ = one.cmd.Process.Signal(syscall.SIGSTOP)
		close(stopped) // no further put begins
		equal(t, "a put by the other one", there.put(), true)
		newest := there.stored
		served(t, other.get("/"), newest)
		_ = one.cmd.Process.Signal(syscall.SIGCONT)
		<-ended
		may := []string{newest, here.stored}
		var got [2]string
		eventually(t, fmt.Sprintf("in round %d both serve one of %q, not %q (seed %d)", round, may, got, seed), func() bool {
			for i, c := range []*caddy{one, other} {
				got[i] = strings.TrimPrefix(c.get("/").body, "served by ")
			}
			return got[0] == got[1] && (got[0] == may[0] || got[0] == may[1])
		})
	}
}

// A Caddy that was only idle while it was stopped writes nothing of its own
// accord.
func TestFault_idleCaddyThatWasStoppedOverwritesNothing(t *testing.T) {
	t.Parallel()
	one, other := pair(t, "work", "home")
	one.put("work")
	one.put("home")
	eventually(t, "the other one sees it", func() bool { return other.member("home").State == "ready" })
	_ = one.cmd.Process.Signal(syscall.SIGSTOP)
	equal(t, "a put by the other one", other.tryPut("work", "work, newer").status, 200)
	other.want(http.StatusNoContent, http.MethodDelete, "/credential_pool/credentials/api/home", "", nil)
	records := other.records()
	_ = one.cmd.Process.Signal(syscall.SIGCONT)
	eventually(t, "it follows", func() bool {
		return one.get("/").body == "served by work, newer" && one.member("home").State == "missing"
	})
	equal(t, "the records are the other one's", other.records() == records, true)
}

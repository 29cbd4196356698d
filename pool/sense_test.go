package pool_test

import (
	"errors"
	"testing"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

func TestRepeated_benchesForTheBaseAtMost(t *testing.T) {
	for _, key := range []string{"", "model:opus"} {
		b := newBed(t, "a")
		scope := map[bool]pool.Scope{true: pool.ScopeMember, false: pool.ScopeModel}[key == ""]
		for _, c := range []struct{ wait, want time.Duration }{
			{0, time.Minute},
			{0, time.Minute}, // not doubled
			{time.Hour, time.Minute},
			{time.Second, time.Second},
		} {
			b.acquireFor(key).Report(b.now, pool.Verdict{
				Meaning: pool.RateLimited, Scope: scope, Key: key, Wait: c.wait, Reason: "429", Repeated: true,
			})
			if got := b.Outlook(b.now, key).Until.Sub(b.now); got != c.want {
				t.Errorf("%q, %v: benched for %v, want %v", key, c.wait, got, c.want)
			}
			b.now = b.now.Add(c.want)
		}
		b.failFor(b.acquire(), key, 0) // which does not count on from them
		if key != "" {
			b.wantScopes("a", "model:opus 1m0s")
		}
	}
}

func TestRepeated_neverShortensAndIsTold(t *testing.T) {
	b := newBed(t, "a", "b", "c")
	late := b.acquire()
	b.fail(b.acquire(), time.Hour)
	v := pool.Verdict{Meaning: pool.RateLimited, Wait: 2 * time.Hour, Reason: "429", Repeated: true}
	late.Report(b.now, v)
	b.wantState("a", pool.StateCooling, time.Hour)
	b.acquire().Report(b.now, v)
	b.wantState("b", pool.StateCooling, time.Minute)
	if e := b.events; len(e) != 2 || e[0].Repeated || !e[1].Repeated {
		t.Errorf("events %+v", e)
	}
	b.acquire().Report(b.now, v)
	if e := b.events; len(e) != 3 || e[2].Kind != pool.Exhausted || !e[2].Repeated {
		t.Errorf("events %+v", e)
	}
}

// served says that the request was served, and that the quota is used up now.
func served(wait time.Duration) pool.Verdict {
	return pool.Verdict{Meaning: pool.QuotaExhausted, Wait: wait, Reason: "200", Served: true}
}

func TestServed_benchesForTheNextRequest(t *testing.T) {
	b := newBed(t, "a", "b")
	b.acquire().Report(b.now, served(time.Minute))
	b.wantState("a", pool.StateCooling, time.Minute)
	b.wantActive("b")
	b.wantEvents(pool.Failover)
}

func TestServed_isASuccessBeforeItBenches(t *testing.T) {
	b := newBed(t, "a")
	for range 3 {
		b.acquire().Report(b.now, served(0))
		b.wantState("a", pool.StateCooling, time.Hour) // the first one each time
		b.now = b.now.Add(time.Hour)
	}
	b.fail(b.acquire(), 48*time.Hour)
	old := b.acquire()
	b.acquire().Report(b.now, served(time.Minute)) // the least bad one: what benched it is over
	b.wantState("a", pool.StateCooling, time.Minute)
	old.Report(b.now, served(time.Second)) // and of this bench it knows nothing
	b.wantState("a", pool.StateCooling, time.Minute)
}

func TestServed_ofOneModelLeavesOthersAlone(t *testing.T) {
	b := newBed(t, "a", "b")
	v := served(time.Hour)
	v.Scope, v.Key = pool.ScopeModel, "model:opus"
	b.acquireFor("model:claude-opus").Report(b.now, v)
	b.wantActive("a")
	b.wantServes("model:claude-opus", "b")
}

func TestLongBench_isTestedInTurnAndOncePerQuarterOfAnHour(t *testing.T) {
	b := newBed(t, "a", "b", "c", "d")
	for _, wait := range []time.Duration{3 * time.Hour, 2 * time.Hour, 20 * time.Minute, 4 * time.Hour} {
		b.fail(b.acquire(), wait)
	}
	wantTested := func(members ...string) {
		t.Helper()
		for _, want := range members {
			if err := b.Check(b.now, ""); !errors.Is(err, pool.ErrExhausted) { // which takes nobody's turn
				t.Fatal(err)
			}
			if out := b.Outlook(b.now, ""); out.First != "c" { // whoever is tested
				t.Fatalf("first back %s", out.First)
			}
			if l := b.acquire(); l.Member() != want || l.Usable() {
				t.Fatalf("tests %s (usable: %v), want %s", l.Member(), l.Usable(), want)
			}
		}
	}
	wantTested("c", "b", "a") // those soonest back first
	b.now = b.now.Add(10 * time.Minute)
	wantTested("d", "c", "c") // c is the one soonest back
	b.now = b.now.Add(5 * time.Minute)
	wantTested("b", "a", "c") // c has less than that to go, and d was tested 5 min ago
	b.now = b.now.Add(4 * time.Minute)
	wantTested("c")
}

func TestLongBench_thatWasWrongEndsWithTheTest(t *testing.T) {
	b := newBed(t, "a", "b")
	b.fail(b.acquire(), 48*time.Hour)
	b.fail(b.acquire(), 72*time.Hour)
	b.fail(b.acquire(), 0) // a still is out
	b.succeed(b.acquire()) // b is not
	b.wantActive("b")      // and serves
	b.wantState("a", pool.StateCooling, 48*time.Hour)
	b.wantEvents(pool.Failover, pool.Exhausted, pool.Recovered)
}

func TestLongBench_ofALostLoginIsTestedLast(t *testing.T) {
	b := newBed(t, "a", "b")
	b.acquire().Report(b.now, pool.Verdict{Meaning: pool.AuthFailed, Wait: time.Hour, Reason: "401"})
	b.fail(b.acquire(), 10*time.Minute)
	for range 3 {
		if l := b.acquire(); l.Member() != "b" {
			t.Fatalf("tests %s", l.Member())
		}
	}
	b.SetMissing("b", "removed")
	if l := b.acquire(); l.Member() != "a" {
		t.Fatalf("tests %s", l.Member())
	}
}

func TestLongBench_forAKeyIsTestedByRequestsWithIt(t *testing.T) {
	b := newBed(t, "a", "b")
	for _, wait := range []time.Duration{2 * time.Hour, 3 * time.Hour} {
		b.failFor(b.acquireFor("model:opus"), "model:opus", wait)
	}
	for _, want := range []string{"a", "b", "a"} {
		b.wantActive("a")
		if l := b.acquireFor("model:opus"); l.Member() != want {
			t.Fatalf("tests %s, want %s", l.Member(), want)
		}
	}
	b.now = b.now.Add(15 * time.Minute)
	b.acquireFor("model:opus")
	b.events = nil
	b.succeed(b.acquireFor("model:opus"))
	b.wantScopes("b")
	b.wantServes("model:opus", "b")
	if len(b.events) != 1 || b.events[0].Kind != pool.Recovered || b.events[0].Key != "model:opus" {
		t.Errorf("events %+v", b.events)
	}
}

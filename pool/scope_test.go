package pool_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

func TestScope_coversTheRequestsThatItNames(t *testing.T) {
	for _, c := range []struct {
		bench, request string
		want           bool
	}{
		{"model:opus", "model:claude-opus-4-1", true},
		{"model:opus", "model:claude-sonnet-4", false},
		{"model:opus", "model:opus", true},
		{"model:opus", "opus", false},
		{"model:opus", "resource:opus", false},
		{"model=gpt-4o", "model:gpt-4o", true},
		{"model=gpt-4o", "model:gpt-4o-mini", false},
		{"resource:search", "resource:search", true},
		{"resource:search", "resource:search_code", false},
		{"resource:search", "model:search", false},
		{"model:opus", "", false},
		{"resource:search", "", false},
	} {
		b := newBed(t, "a", "b")
		b.failFor(b.acquire(), c.bench, time.Hour)
		if got := b.acquireFor(c.request).Member() == "b"; got != c.want {
			t.Errorf("a bench for %q covers %q: %v", c.bench, c.request, got)
		}
	}
}

func TestScope_aBenchForOneKeyIsNobodyElsesMatter(t *testing.T) {
	b := newBed(t, "a", "b")
	b.failFor(b.acquireFor("model:claude-opus"), "model:opus", time.Hour)
	e := b.events[0]
	b.wantEvents(pool.Failover)
	if e.From != "a" || e.To != "b" || e.Key != "model:opus" || e.Until.Sub(b.now) != time.Hour {
		t.Errorf("event %+v", e)
	}
	b.wantServes("model:claude-opus", "b")
	b.wantServes("model:claude-sonnet", "a")
	b.wantActive("a")
	b.wantState("a", pool.StateReady, 0)
	b.wantScopes("a", "model:opus 1h0m0s")
	b.now = b.now.Add(time.Hour)
	b.wantServes("model:claude-opus", "a") // the first usable one from the active one onward
	b.wantScopes("a")
	b.wantEvents()
}

func TestScope_whatTheRequestAskedForIsThatModelAlone(t *testing.T) {
	b := newBed(t, "a", "b")
	b.failFor(b.acquireFor(pool.ModelKey("GPT-4o")), "model", time.Hour)
	b.wantScopes("a", "model=gpt-4o 1h0m0s")
	b.wantServes("model:gpt-4o", "b")
	b.wantServes("model:gpt-4o-mini", "a")
}

func TestScope_isTheWholeMemberIfTheModelIsNotKnown(t *testing.T) {
	for _, request := range []string{"", "resource:search", "model:", "model:a b", "model:" + strings.Repeat("x", 200), "model:\x1b[31m"} {
		b := newBed(t, "a", "b")
		b.failFor(b.acquireFor(request), "model", time.Hour)
		b.wantState("a", pool.StateCooling, time.Hour)
		b.wantScopes("a")
		b.wantActive("b")
	}
}

func TestScope_aKeyOfAnotherScopeMeansNothing(t *testing.T) {
	b := newBed(t, "a", "b")
	b.acquire().Report(b.now, pool.Verdict{Meaning: pool.RateLimited, Scope: pool.ScopeMember, Key: "model:opus", Wait: time.Hour})
	b.wantState("a", pool.StateCooling, time.Hour)
}

func TestScope_failuresInARowAreCountedByKey(t *testing.T) {
	b := newBed(t, "a")
	for _, wait := range []string{"1m0s", "2m0s", "4m0s"} {
		b.failFor(b.acquireFor("model:opus"), "model:opus", 0)
		b.wantScopes("a", "model:opus "+wait)
		b.now = b.now.Add(4 * time.Minute)
	}
	b.fail(b.acquire(), 0) // the first one of the whole member
	b.wantState("a", pool.StateCooling, time.Minute)
	b.now = b.now.Add(time.Minute)
	b.failFor(b.acquireFor("model:sonnet"), "model:sonnet", 0)
	b.wantScopes("a", "model:sonnet 1m0s")
}

func TestScope_twentyInFlightFailAtOnce(t *testing.T) {
	b := newBed(t, "a", "b")
	var leases []pool.Lease
	for range 20 {
		leases = append(leases, b.acquireFor("model:opus"))
	}
	for _, l := range leases {
		b.failFor(l, "model:opus", 0)
	}
	b.wantEvents(pool.Failover)
	b.wantScopes("a", "model:opus 1m0s")
	b.wantScopes("b")
	b.failFor(leases[0], "model:opus", 2*time.Minute) // by evidence it is lengthened
	b.wantScopes("a", "model:opus 2m0s")
	b.failFor(leases[0], "model:opus", time.Second) // and never shortened
	b.wantScopes("a", "model:opus 2m0s")
	if f := b.Status(b.now).Members[0].Scopes[0].Failures; f != 1 {
		t.Errorf("%d failures counted", f)
	}
}

func TestScope_aSuccessEndsTheBenchesThatCoverIt(t *testing.T) {
	b := newBed(t, "a")
	old := b.acquireFor("model:claude-opus")
	b.failFor(b.acquire(), "model:opus", time.Hour)
	b.failFor(b.acquire(), "resource:search", time.Hour)
	b.succeed(old) // it knows nothing of the bench
	b.succeed(b.acquire())
	b.succeed(b.acquireFor("model:claude-sonnet"))
	b.wantScopes("a", "model:opus 1h0m0s", "resource:search 1h0m0s")
	b.succeed(b.acquireFor("model:claude-opus"))
	b.wantScopes("a", "resource:search 1h0m0s")
}

func TestScope_anOldLeaseDoesNotBenchAgainAfterASuccess(t *testing.T) {
	b := newBed(t, "a")
	old := b.acquireFor("model:opus")
	b.failFor(b.acquireFor("model:opus"), "model:opus", time.Hour)
	b.succeed(b.acquireFor("model:opus"))
	b.failFor(old, "model:opus", 0)
	b.wantScopes("a")
}

func TestScope_exhaustionIsToldForTheKey(t *testing.T) {
	b := newBed(t, "a", "b")
	for _, wait := range []time.Duration{time.Minute, 2 * time.Minute} {
		b.failFor(b.acquireFor("model:claude-opus"), "model:opus", wait)
	}
	e := b.events[1]
	if e.Kind != pool.Exhausted || e.Key != "model:opus" || e.From != "b" || e.To != "" || e.First != "a" || e.Until.Sub(b.now) != time.Minute {
		t.Errorf("event %+v", e)
	}
	for _, key := range []string{"model:claude-opus", "model:claude-opus-4-1"} {
		if l := b.acquireFor(key); l.Usable() || l.Member() != "a" {
			t.Errorf("%s goes to %s, usable %v", key, l.Member(), l.Usable())
		}
		if err := b.Check(b.now, key); !errors.Is(err, pool.ErrExhausted) {
			t.Errorf("%s: %v", key, err)
		}
		if out := b.Outlook(b.now, key); out.First != "a" || out.Until.Sub(b.now) != time.Minute {
			t.Errorf("%s: %+v", key, out)
		}
		if l, ok := b.AcquireOther(b.now, key, nil); ok {
			t.Errorf("%s goes to %s", key, l.Member())
		}
	}
	b.wantActive("a") // for all others
	b.wantEvents(pool.Failover, pool.Exhausted)
	b.now = b.now.Add(time.Minute)
	b.wantServes("model:claude-opus", "a")
	if e := b.events[0]; e.Kind != pool.Recovered || e.Key != "model:opus" || e.To != "a" {
		t.Errorf("event %+v", e)
	}
}

func TestScope_exhaustionByTwoKeysIsOneModels(t *testing.T) {
	b := newBed(t, "a", "b")
	b.failFor(b.acquireFor("model:claude-opus"), "model:claude", time.Hour)
	b.failFor(b.acquireFor("model:claude-opus"), "model:opus", time.Hour)
	if e := b.events[1]; e.Kind != pool.Exhausted || e.Key != "model=claude-opus" {
		t.Errorf("event %+v", e)
	}
	b.wantServes("model:claude-sonnet", "b")
}

func TestScope_exhaustionOfThePoolIsNotToldAgainByKey(t *testing.T) {
	b := newBed(t, "a", "b")
	b.failFor(b.acquireFor("model:opus"), "model:opus", time.Hour)
	b.fail(b.acquire(), time.Minute)
	b.fail(b.acquire(), time.Minute)
	b.acquireFor("model:opus")
	b.wantEvents(pool.Failover, pool.Failover, pool.Exhausted)
	if l := b.acquireFor("model:opus"); l.Member() != "b" { // a is out for longer
		t.Errorf("goes to %s", l.Member())
	}
}

// The member that serves a key can be lost as a whole.
func TestScope_exhaustionIsToldToTheRequestThatMeetsIt(t *testing.T) {
	b := newBed(t, "a", "b")
	b.failFor(b.acquireFor("model:opus"), "model:opus", time.Hour)
	other := b.acquireFor("model:opus")
	b.fail(other, time.Minute)
	b.wantEvents(pool.Failover)
	for range 3 {
		b.acquireFor("model:opus")
	}
	b.wantEvents(pool.Exhausted)
	b.now = b.now.Add(time.Minute)
	b.wantServes("model:opus", "b")
	b.wantEvents(pool.Recovered)
}

func TestScope_madeUpKeysDoNotPileUp(t *testing.T) {
	b := newBed(t, "a")
	for i := range 1000 {
		b.failFor(b.acquireFor(fmt.Sprint("model:made-up-", i)), "model", time.Second)
		b.now = b.now.Add(2 * time.Second)
	}
	if d, _ := b.state.Document(b.now); len(d.Records[0].Scopes) != 32 || len(d.ExhaustedKeys) > 100 {
		t.Errorf("%d keys, exhausted: %d", len(d.Records[0].Scopes), len(d.ExhaustedKeys))
	}
}

func TestScope_anOldLeaseDoesNotBenchWhatWasForgotten(t *testing.T) {
	b := newBed(t, "a")
	old := b.acquireFor("model:opus")
	b.failFor(b.acquireFor("model:opus"), "model:opus", time.Second)
	b.now = b.now.Add(time.Minute)
	for i := range 32 {
		b.failFor(b.acquire(), fmt.Sprint("model:", i, "x"), time.Second)
	}
	b.now = b.now.Add(time.Minute)
	b.failFor(old, "model:opus", 0)
	b.wantScopes("a")
	b.failFor(old, "model:opus", time.Minute) // by evidence
	b.wantScopes("a", "model:opus 1m0s")
}

func TestScope_madeUpKeysOfAnExhaustedPoolDoNotPileUp(t *testing.T) {
	b := newBed(t, "a", "b")
	b.failFor(b.acquire(), "model:claude", time.Hour)
	b.failFor(b.acquireFor("model:claude-opus"), "model:opus", time.Hour)
	for i := range 1000 {
		b.acquireFor(fmt.Sprint("model:claude-opus-", i))
	}
	if d, _ := b.state.Document(b.now); len(d.ExhaustedKeys) != 100 || len(b.events) != 101 {
		t.Errorf("%d keys, %d events", len(d.ExhaustedKeys), len(b.events))
	}
}

func TestScope_aRecoveryStartsNewEpisodesOfItsKeyOnly(t *testing.T) {
	b := newBed(t, "a", "b")
	b.fail(b.acquire(), time.Second)
	b.now = b.now.Add(2 * time.Second)
	for range 2 {
		b.failFor(b.acquireFor("model:opus"), "model:opus", time.Second)
	}
	b.now = b.now.Add(2 * time.Second)
	b.fail(b.acquire(), time.Second)
	b.wantEvents(pool.Failover, pool.Failover, pool.Exhausted, pool.Recovered, pool.Failover)
	b.now = b.now.Add(2 * time.Second)
	b.fail(b.acquire(), time.Second)
	b.wantEvents() // from a to b, as told a moment ago
}

func TestScope_oneKeyTooManyIsTheWholeMember(t *testing.T) {
	b := newBed(t, "a", "b")
	for i := range 32 {
		b.failFor(b.acquire(), fmt.Sprint("model:", i, "x"), time.Hour)
	}
	b.wantState("a", pool.StateReady, 0)
	b.failFor(b.acquire(), "model:31x", 2*time.Hour) // known
	b.wantState("a", pool.StateReady, 0)
	b.failFor(b.acquire(), "model:more", time.Minute)
	b.wantState("a", pool.StateCooling, time.Minute)
	b.wantActive("b")
	b.now = b.now.Add(time.Hour)
	_, _ = b.Rotate(b.now, "a", 0)
	b.failFor(b.acquire(), "model:more", time.Minute) // there is room again
	b.wantState("a", pool.StateReady, 0)
}

func TestScope_recoverEndsItToo(t *testing.T) {
	b := newBed(t, "a", "b")
	b.failFor(b.acquire(), "model:opus", time.Hour)
	if m, err := b.Recover(b.now, "a"); err != nil || len(m.Scopes) != 0 {
		t.Fatalf("%+v, %v", m, err)
	}
	b.wantServes("model:opus", "a")
	b.wantEvents(pool.Failover, pool.MemberRecovered)
	b.failFor(b.acquireFor("model:opus"), "model:opus", 0)
	b.wantScopes("a", "model:opus 1m0s") // the first one in a row
}

func TestScope_aReplacedSecretStartsClean(t *testing.T) {
	b := newBed(t, "a")
	late := b.acquireFor("model:opus")
	b.failFor(b.acquireFor("model:opus"), "model:opus", time.Hour)
	b.SetCredential("a", "another")
	b.wantServes("model:opus", "a")
	b.failFor(late, "model:opus", time.Hour)
	b.wantScopes("a")
	b.wantEvents(pool.Exhausted, pool.Recovered)
}

func TestScope_aParkedMemberIsARefugeForAKey(t *testing.T) {
	b := newBed(t, "a", "b", "c")
	b.acquire()
	_, _ = b.Park(b.now, "b", time.Hour, "")
	b.failFor(b.acquire(), "model:opus", time.Hour)
	b.wantServes("model:opus", "c") // ready ones first
	b.failFor(b.acquireFor("model:opus"), "model:opus", time.Hour)
	b.wantServes("model:opus", "b")
}

func TestScope_survivesARestart(t *testing.T) {
	b := newBed(t, "a", "b")
	for _, wait := range []time.Duration{time.Hour, 2 * time.Hour} {
		b.failFor(b.acquireFor("model:opus"), "model:opus", wait)
	}
	d, _ := b.state.Document(b.now)
	after := newBed(t, "a", "b")
	after.state.Restore(d, after.now, 90*time.Minute)
	after.wantScopes("a", "model:opus 1h0m0s")
	after.wantScopes("b", "model:opus 1h30m0s")
	after.acquireFor("model:opus")
	after.wantEvents() // it was told before the restart
	after.now = after.now.Add(time.Hour)
	after.wantServes("model:opus", "a")
	after.wantEvents(pool.Recovered)
	after.failFor(after.acquireFor("model:opus"), "model:opus", 0)
	after.wantScopes("a", "model:opus 2m0s") // the second one in a row
}

func TestScope_oddKeysOfADocumentAreLeftOut(t *testing.T) {
	b := newBed(t, "a")
	saved := pool.DocumentRecord{Member: "a", Identity: "id-of-a"}
	keys := []string{"", "model", "model:", "=x", "MODEL:X", "model:a\nb", "model:" + strings.Repeat("x", 1000)}
	for i := range 50 {
		keys = append(keys, fmt.Sprint("model:", i))
	}
	for _, key := range keys {
		saved.Scopes = append(saved.Scopes, pool.DocumentScope{Key: key, CoolingUntil: b.now.Add(time.Hour), Meaning: pool.RateLimited})
	}
	b.state.Restore(pool.Document{Version: 1, Records: []pool.DocumentRecord{saved}, ExhaustedKeys: keys}, b.now, 0)
	m := b.Status(b.now).Members[0]
	if len(m.Scopes) != 32 || m.Scopes[0].Key != "model:0" || m.State != pool.StateReady {
		t.Errorf("%d keys: %+v", len(m.Scopes), m)
	}
}

func TestScope_isSafeForConcurrentUse(t *testing.T) {
	b := newBed(t, "a", "b", "c")
	keys := []string{"", "model:claude-opus", "model:gpt-5", "resource:search"}
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			now := b.now
			for i := range 500 {
				now = now.Add(time.Second)
				key := keys[(worker+i)%len(keys)]
				l, err := b.Acquire(now, key)
				if err != nil {
					t.Error(err)
					return
				}
				switch i % 5 {
				case 0:
					b.failFor(l, "model:opus", 0)
				case 1:
					b.failFor(l, "model", time.Minute)
				case 2:
					_, _ = b.Recover(now, l.Member())
					b.Status(now)
				default:
					b.succeed(l)
				}
			}
		})
	}
	wg.Wait()
}

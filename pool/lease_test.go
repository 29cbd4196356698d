package pool_test

import (
	"sync"
	"testing"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

func TestReport_aLateFailureOfTheSameOldAttemptCoolsNobodyElse(t *testing.T) {
	b := newBed(t, "a", "b")
	old := b.acquire()
	b.fail(b.acquire(), time.Minute)
	b.wantActive("b")
	for _, wait := range []time.Duration{0, time.Second, time.Hour} {
		b.fail(old, wait)
		b.wantActive("b")
	}
	b.wantState("b", pool.StateReady, 0)
	b.wantState("a", pool.StateCooling, time.Hour)
	b.wantEvents(pool.Failover)
}

func TestReport_aLateFailureSetsABenchThatHasEndedOnlyByEvidence(t *testing.T) {
	b := newBed(t, "a", "b")
	old := b.acquire()
	b.fail(b.acquire(), time.Minute)
	b.now = b.now.Add(time.Minute)
	b.fail(old, 0)
	b.wantState("a", pool.StateReady, 0)
	b.fail(old, 10*time.Second)
	b.wantState("a", pool.StateCooling, 10*time.Second)
	if f := b.Status(b.now).Members[0].Failures; f != 1 {
		t.Errorf("%d failures counted, want 1", f)
	}
}

func TestReport_ofTheLeastBadLengthensByEvidenceWithoutCounting(t *testing.T) {
	b := newBed(t, "a")
	b.fail(b.acquire(), 0)
	l := b.acquire()
	b.fail(l, 0)
	b.wantState("a", pool.StateCooling, time.Minute)
	b.fail(l, time.Hour)
	b.wantState("a", pool.StateCooling, time.Hour)
	if f := b.Status(b.now).Members[0].Failures; f != 1 {
		t.Errorf("%d failures counted, want 1", f)
	}
	b.wantEvents(pool.Exhausted)
}

func TestReport_ofASuccessEndsTheRowOfFailures(t *testing.T) {
	b := newBed(t, "a")
	b.fail(b.acquire(), 0)
	b.now = b.now.Add(time.Minute)
	b.succeed(b.acquire())
	b.fail(b.acquire(), 0)
	b.wantState("a", pool.StateCooling, time.Minute) // not doubled
}

func TestReport_ofAMemberThatIsNotActiveMovesNothing(t *testing.T) {
	b := newBed(t, "a", "b", "c")
	other, ok := b.AcquireOther(b.now, "", []pool.Lease{b.acquire()})
	if !ok || other.Member() != "b" {
		t.Fatalf("the other one: %v, %+v", ok, other)
	}
	b.fail(other, time.Minute)
	b.wantState("b", pool.StateCooling, time.Minute)
	b.wantActive("a")
	b.wantEvents()
}

func TestReport_withoutEvidenceBenchesByTheKindOfCooldown(t *testing.T) {
	for meaning, want := range map[pool.Meaning][]time.Duration{
		pool.RateLimited:    {time.Minute, 2 * time.Minute},
		pool.AuthFailed:     {5 * time.Minute, 10 * time.Minute},
		pool.QuotaExhausted: {time.Hour, 2 * time.Hour},
	} {
		t.Run(string(meaning), func(t *testing.T) {
			b := newBed(t, "a")
			for _, d := range want {
				b.acquire().Report(b.now, pool.Verdict{Meaning: meaning})
				b.wantState("a", pool.StateCooling, d)
				b.now = b.now.Add(d)
			}
			for range 20 {
				b.acquire().Report(b.now, pool.Verdict{Meaning: meaning})
				b.now = b.Status(b.now).Members[0].Until
			}
			b.acquire().Report(b.now, pool.Verdict{Meaning: meaning})
			b.wantState("a", pool.StateCooling, pool.DefaultCooldown(meaning).Cap)
		})
	}
}

func TestReport_benchesByTheConfiguredCooldown(t *testing.T) {
	b := newBed(t, "a")
	b.Pool = pool.New(pool.Config{
		Members:     []string{"a"},
		Cooldowns:   map[pool.Meaning]pool.Cooldown{pool.RateLimited: {Base: 7 * time.Second, Cap: 10 * time.Second}},
		MaxCooldown: time.Hour,
	}, b.state)
	b.SetCredential("a", "id")
	for _, want := range []time.Duration{7 * time.Second, 10 * time.Second, 10 * time.Second} {
		b.fail(b.acquire(), 0)
		b.wantState("a", pool.StateCooling, want)
		b.now = b.now.Add(want)
	}
	b.fail(b.acquire(), 2*time.Hour)
	b.wantState("a", pool.StateCooling, time.Hour)
}

func TestIdentity_aMemberRemovedAndPutBackStartsClean(t *testing.T) {
	b := newBed(t, "a")
	late := b.acquire()
	b.fail(b.acquire(), time.Hour)
	b.SetMissing("a", "removed")
	b.fail(late, 2*time.Hour)
	b.SetCredential("a", "another")
	b.wantState("a", pool.StateReady, 0)
	b.fail(late, 2*time.Hour)
	b.succeed(late)
	b.wantActive("a")
	b.fail(b.acquire(), 0)
	b.wantState("a", pool.StateCooling, time.Minute) // the first failure of the new one
}

func TestIdentity_replacedCredentialsDoNotPileUp(t *testing.T) {
	b := newBed(t, "a", "b")
	for i := range 500 {
		b.SetMissing("a", "removed")
		b.SetCredential("a", "id-"+time.Duration(i).String())
		l := b.acquire()
		b.fail(l, 0)
		b.now = b.now.Add(time.Hour)
	}
	if d, _ := b.state.Document(b.now); len(d.Records) > 8 {
		t.Errorf("%d records of two members", len(d.Records))
	}
}

func TestAcquire_aRejectedMemberIsTheLeastBadOnlyIfAllAre(t *testing.T) {
	for _, first := range []string{"rejected", "limited"} {
		b := newBed(t, "a", "b")
		for i := range 2 {
			v := pool.Verdict{Meaning: pool.RateLimited, Wait: time.Hour, Reason: "429"}
			if (i == 0) == (first == "rejected") {
				v = pool.Verdict{Meaning: pool.AuthFailed, Wait: time.Minute, Reason: "401"}
			}
			b.acquire().Report(b.now, v)
		}
		want := map[string]string{"rejected": "b", "limited": "a"}[first]
		if l := b.acquire(); l.Usable() || l.Member() != want {
			t.Errorf("%s first: serves %s, want %s", first, l.Member(), want)
		}
	}
}

func TestAcquireOther_passesOverThoseTried(t *testing.T) {
	b := newBed(t, "a", "b", "c")
	first := b.acquire()
	tried := []pool.Lease{first}
	b.fail(first, time.Minute)
	for _, want := range []string{"b", "c"} {
		l, ok := b.AcquireOther(b.now, "", tried)
		if !ok || l.Member() != want {
			t.Fatalf("another: %v %+v, want %s", ok, l, want)
		}
		tried = append(tried, l)
	}
	if _, ok := b.AcquireOther(b.now, "", tried); ok {
		t.Error("a member was handed out twice")
	}
	b.SetCredential("c", "another")
	if l, ok := b.AcquireOther(b.now, "", tried); !ok || l.Identity() != "another" {
		t.Error("a replaced credential was taken for the one that was tried")
	}
}

func TestAcquireOther_neverHandsOutACoolingOne(t *testing.T) {
	b := newBed(t, "a", "b")
	b.fail(b.acquire(), time.Minute)
	b.fail(b.acquire(), time.Minute)
	if l, ok := b.AcquireOther(b.now, "", nil); ok {
		t.Errorf("handed out %s", l.Member())
	}
}

func TestPool_isSafeForConcurrentUse(t *testing.T) {
	b := newBed(t, "a", "b", "c")
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			now := b.now
			for i := range 300 {
				now = now.Add(time.Second)
				l, err := b.Acquire(now, "")
				if err != nil {
					continue
				}
				switch (worker + i) % 8 {
				case 0:
					l.Report(now, pool.Verdict{Meaning: pool.RateLimited, Reason: "429"})
				case 1:
					_, _ = b.Rotate(now, "", time.Second)
				case 2:
					_, _ = b.Recover(now, l.Member())
				case 3:
					b.SetMissing("c", "removed")
				case 4:
					b.SetCredential("c", "id-of-c")
				case 5:
					_, _ = b.Park(now, "b", time.Second, "")
					_, _ = b.state.Document(now)
				case 6:
					_, _ = b.AcquireOther(now, "", []pool.Lease{l})
					b.Outlook(now, "")
				default:
					l.Report(now, pool.Verdict{Meaning: pool.OK})
				}
			}
		})
	}
	wg.Wait()
	for _, e := range b.events {
		if e.Kind == pool.Failover && e.From == e.To {
			t.Errorf("%+v", e)
		}
	}
}

func TestPool_manyInFlightFailConcurrentlyAndCountOnce(t *testing.T) {
	b := newBed(t, "a", "b")
	leases := make([]pool.Lease, 20) // all taken before the first fails
	for i := range leases {
		leases[i] = b.acquire()
	}
	var wg sync.WaitGroup
	for _, l := range leases {
		wg.Go(func() { b.fail(l, 0) })
	}
	wg.Wait()
	b.wantEvents(pool.Failover)
	b.wantState("a", pool.StateCooling, time.Minute)
	b.wantState("b", pool.StateReady, 0)
}

func TestPool_leaseOfAMemberThatWasNotChosen(t *testing.T) {
	b := newBed(t, "a", "b")
	identity := b.acquire().Identity() + "-of-another"
	for _, name := range []string{"a", "b", "c"} {
		if _, ok := b.AcquireMember(b.now, name, identity); ok {
			t.Errorf("there is a lease on %s for another's credential", name)
		}
	}
	if _, ok := b.AcquireMember(b.now, "b", ""); ok {
		t.Error("there is a lease for no credential")
	}
	l, ok := b.AcquireMember(b.now, "b", "id-of-b")
	if !ok || l.Member() != "b" {
		t.Fatalf("%+v, %t", l, ok)
	}
	b.fail(l, 0)
	b.wantEvents()
	b.wantState("a", pool.StateReady, 0)
	b.wantState("b", pool.StateCooling, time.Minute)
	if l := b.acquire(); l.Member() != "a" {
		t.Errorf("the active member is %s", l.Member())
	}
	b.SetMissing("b", "gone")
	if _, ok := b.AcquireMember(b.now, "b", "id-of-b"); ok {
		t.Error("there is a lease on a member that is missing")
	}
}

package pool_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

// bed is a pool with a clock that a test moves.
type bed struct {
	*pool.Pool
	t      testing.TB
	state  *pool.State
	now    time.Time
	events []pool.Event
}

func newBed(t testing.TB, members ...string) *bed {
	b := newBedFor(members)
	b.t = t
	return b
}

func newBedFor(members []string) *bed {
	b := &bed{now: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)}
	b.state = pool.NewState("test", func(e pool.Event) { b.events = append(b.events, e) })
	b.configure(members...)
	return b
}

// configure replaces the pool's configuration.
func (b *bed) configure(members ...string) {
	if b.Pool != nil {
		b.Retire()
	}
	b.Pool = pool.New(pool.Config{Members: members}, b.state)
	for _, m := range members {
		b.SetCredential(m, "id-of-"+m)
	}
}

func (b *bed) acquire() pool.Lease {
	b.t.Helper()
	return b.acquireFor("")
}

func (b *bed) acquireFor(key string) pool.Lease {
	b.t.Helper()
	l, err := b.Acquire(b.now, key)
	if err != nil {
		b.t.Fatal(err)
	}
	return l
}

func (b *bed) fail(l pool.Lease, wait time.Duration) {
	l.Report(b.now, pool.Verdict{Meaning: pool.RateLimited, Wait: wait, Reason: "429"})
}

// failFor says on a lease that a key is out.
func (b *bed) failFor(l pool.Lease, key string, wait time.Duration) {
	l.Report(b.now, pool.Verdict{Meaning: pool.RateLimited, Scope: pool.ScopeModel, Key: key, Wait: wait, Reason: "429"})
}

func (b *bed) succeed(l pool.Lease) { l.Report(b.now, pool.Verdict{Meaning: pool.OK}) }

func (b *bed) wantActive(member string) {
	b.t.Helper()
	if l := b.acquire(); l.Member() != member || !l.Usable() {
		b.t.Fatalf("serves %s (usable: %v), want %s", l.Member(), l.Usable(), member)
	}
}

// wantServes checks who serves requests with a key.
func (b *bed) wantServes(key, member string) {
	b.t.Helper()
	if l := b.acquireFor(key); l.Member() != member || !l.Usable() {
		b.t.Fatalf("%q goes to %s (usable: %v), want %s", key, l.Member(), l.Usable(), member)
	}
}

// wantScopes checks what a member is benched for, as "key wait".
func (b *bed) wantScopes(member string, want ...string) {
	b.t.Helper()
	for _, m := range b.Status(b.now).Members {
		if m.Name != member {
			continue
		}
		var got []string
		for _, s := range m.Scopes {
			got = append(got, fmt.Sprint(s.Key, " ", s.Until.Sub(b.now)))
		}
		if !slices.Equal(got, want) {
			b.t.Fatalf("%s is out for %v, want %v", member, got, want)
		}
	}
}

func (b *bed) wantState(member string, state pool.MemberState, until time.Duration) {
	b.t.Helper()
	for _, m := range b.Status(b.now).Members {
		if m.Name != member {
			continue
		}
		if m.State != state || (until > 0 && m.Until.Sub(b.now) != until) {
			b.t.Fatalf("%s is %s for %v, want %s for %v", member, m.State, m.Until.Sub(b.now), state, until)
		}
		return
	}
	b.t.Fatalf("there is no member %s", member)
}

// wantEvents takes the kinds of the events since the last call.
func (b *bed) wantEvents(kinds ...pool.EventKind) {
	b.t.Helper()
	var got []pool.EventKind
	for _, e := range b.events {
		got = append(got, e.Kind)
	}
	if !slices.Equal(got, kinds) {
		b.t.Fatalf("events %v, want %v", got, kinds)
	}
	b.events = nil
}

func TestPool_isSticky(t *testing.T) {
	b := newBed(t, "a", "b")
	b.fail(b.acquire(), time.Minute)
	b.wantActive("b")
	b.now = b.now.Add(time.Hour)
	b.wantActive("b") // a is ready again, and does not take over
	b.wantEvents(pool.Failover)
}

func TestPool_goesForwardAndWrapsRound(t *testing.T) {
	b := newBed(t, "a", "b", "c")
	b.fail(b.acquire(), time.Minute)
	b.wantActive("b")
	b.fail(b.acquire(), time.Hour)
	b.wantActive("c")
	b.now = b.now.Add(2 * time.Minute)
	b.fail(b.acquire(), time.Hour)
	b.wantActive("a") // from c on, wrapping round
}

func TestPool_switchIsVisibleToTheNextAcquire(t *testing.T) {
	b := newBed(t, "a", "b")
	l := b.acquire()
	b.fail(l, 0)
	b.wantActive("b")
}

func TestPool_twentyInFlightFailAtOnce(t *testing.T) {
	b := newBed(t, "a", "b")
	var leases []pool.Lease
	for range 20 {
		leases = append(leases, b.acquire())
	}
	for _, l := range leases {
		b.fail(l, 0)
	}
	b.wantEvents(pool.Failover)
	b.wantState("a", pool.StateCooling, time.Minute)
	b.wantState("b", pool.StateReady, 0)
	if f := b.Status(b.now).Members[0].Failures; f != 1 {
		t.Errorf("%d failures counted", f)
	}
}

func TestPool_aShorterBenchDoesNotShorten(t *testing.T) {
	b := newBed(t, "a", "b")
	first, late := b.acquire(), b.acquire()
	b.fail(first, 300*time.Second)
	b.fail(late, 60*time.Second)
	b.wantState("a", pool.StateCooling, 300*time.Second)
	b.fail(late, 400*time.Second)
	b.wantState("a", pool.StateCooling, 400*time.Second)
}

func TestPool_benchesDoubleUpToTheCap(t *testing.T) {
	b := newBed(t, "a")
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
		b.fail(b.acquire(), 0)
		b.wantState("a", pool.StateCooling, want*time.Minute)
		b.now = b.now.Add(want * time.Minute)
	}
	b.succeed(b.acquire())
	b.fail(b.acquire(), 0)
	b.wantState("a", pool.StateCooling, time.Minute)
}

func TestPool_evidenceIsBounded(t *testing.T) {
	b := newBed(t, "a", "b")
	b.fail(b.acquire(), time.Millisecond)
	b.wantState("a", pool.StateCooling, time.Second)
	b.fail(b.acquire(), 365*24*time.Hour)
	b.wantState("b", pool.StateCooling, pool.DefaultMaxCooldown)
}

func TestPool_benchesNobodyForOtherMeanings(t *testing.T) {
	b := newBed(t, "a", "b")
	for _, m := range []pool.Meaning{pool.OK, pool.Overloaded, pool.RequestError, ""} {
		b.acquire().Report(b.now, pool.Verdict{Meaning: m, Wait: time.Hour})
		b.wantActive("a")
	}
	b.wantEvents()
}

func TestExhaustion_isToldOnceAndHonestly(t *testing.T) {
	b := newBed(t, "a", "b")
	b.fail(b.acquire(), time.Minute)
	b.fail(b.acquire(), 2*time.Minute)
	e := b.events[1]
	if e.Kind != pool.Exhausted || e.From != "b" || e.To != "" || e.First != "a" || e.Until.Sub(b.now) != time.Minute {
		t.Fatalf("event %+v", e)
	}
	for range 6 { // retries against an exhausted pool
		l := b.acquire()
		if l.Usable() || l.Member() != "a" {
			t.Fatalf("serves %s, usable %v", l.Member(), l.Usable())
		}
		b.fail(l, 0)
	}
	b.wantEvents(pool.Failover, pool.Exhausted)
	b.wantState("a", pool.StateCooling, time.Minute) // no evidence, no longer bench
	b.now = b.now.Add(time.Minute)
	b.wantActive("a")
	b.wantEvents(pool.Recovered)
}

func TestExhaustion_endsWithASuccessOfTheLeastBad(t *testing.T) {
	b := newBed(t, "a", "b")
	b.fail(b.acquire(), time.Minute)
	b.fail(b.acquire(), 2*time.Minute)
	b.succeed(b.acquire())
	b.wantEvents(pool.Failover, pool.Exhausted, pool.Recovered)
	b.wantActive("a")
	b.wantState("a", pool.StateReady, 0)
}

func TestExhaustion_authFailedIsWorst(t *testing.T) {
	b := newBed(t, "a", "b")
	b.acquire().Report(b.now, pool.Verdict{Meaning: pool.AuthFailed, Wait: time.Second, Reason: "401"})
	b.fail(b.acquire(), time.Hour)
	if l := b.acquire(); l.Member() != "b" {
		t.Errorf("serves %s", l.Member())
	}
	if out := b.Outlook(b.now, ""); out.NeedsOperator || out.First != "b" {
		t.Errorf("outlook %+v", out)
	}
}

func TestSuccess_ofALeaseFromBeforeTheBenchClearsNothing(t *testing.T) {
	b := newBed(t, "a", "b")
	old := b.acquire()
	b.fail(b.acquire(), time.Minute)
	b.succeed(old)
	b.wantState("a", pool.StateCooling, time.Minute)
}

func TestPark_theActiveMemberMovesThePointerOnlyToAReadyOne(t *testing.T) {
	b := newBed(t, "a", "b")
	b.acquire()
	if _, err := b.Park(b.now, "a", time.Hour, "lunch"); err != nil {
		t.Fatal(err)
	}
	b.wantActive("b")
	b.wantEvents(pool.Parked)
	if _, err := b.Park(b.now, "b", time.Minute, ""); err != nil {
		t.Fatal(err)
	}
	b.wantActive("b") // nobody is ready, so it stays
	b.now = b.now.Add(2 * time.Hour)
	b.wantActive("b")
}

func TestPark_aParkedMemberIsARefuge(t *testing.T) {
	b := newBed(t, "a", "b")
	_, _ = b.Park(b.now, "b", time.Hour, "")
	b.events = nil
	b.fail(b.acquire(), time.Minute)
	b.wantEvents(pool.Failover)
	b.wantActive("b")
	b.wantState("b", pool.StateParked, time.Hour) // its park stays on record
	b.fail(b.acquire(), time.Minute)
	b.wantEvents(pool.Exhausted) // one that fails too is no refuge
	b.wantState("b", pool.StateCooling, time.Minute)
}

func TestRotate(t *testing.T) {
	b := newBed(t, "a", "b", "c")
	b.acquire()
	rot, err := b.Rotate(b.now, "", 0)
	if err != nil || rot.From != "a" || rot.To != "b" || rot.ParkedUntil.Sub(b.now) != pool.DefaultParkFor {
		t.Fatalf("%+v, %v", rot, err)
	}
	b.wantActive("b")
	if rot, err = b.Rotate(b.now, "b", 0); err != nil || rot.From != rot.To {
		t.Fatalf("to the active one: %+v, %v", rot, err)
	}
	b.wantEvents(pool.Rotated)
	if rot, err = b.Rotate(b.now, "a", 0); err != nil || rot.To != "a" {
		t.Fatalf("to a parked one: %+v, %v", rot, err)
	}
	b.wantState("a", pool.StateReady, 0)
	for name, to := range map[string]string{"unknown": "x", "cooling": "c", "missing": "b"} {
		b.SetMissing("b", "test")
		l, _ := b.AcquireOther(b.now, "", []pool.Lease{b.acquire()})
		if l != (pool.Lease{}) {
			b.fail(l, time.Hour)
		}
		_, err := b.Rotate(b.now, to, 0)
		if want := map[bool]error{true: pool.ErrUnknownMember, false: pool.ErrConflict}[to == "x"]; !errors.Is(err, want) {
			t.Errorf("to an %s one: %v", name, err)
		}
	}
}

func TestRotate_neverBackToTheOneRotatedAwayFrom(t *testing.T) {
	b := newBed(t, "a")
	b.acquire()
	if _, err := b.Rotate(b.now, "", 0); !errors.Is(err, pool.ErrConflict) {
		t.Fatal(err)
	}
	b.wantState("a", pool.StateReady, 0) // and nothing was changed
}

func TestRecover_clearsAll(t *testing.T) {
	b := newBed(t, "a", "b")
	b.fail(b.acquire(), time.Hour)
	_, _ = b.Park(b.now, "a", time.Hour, "")
	m, err := b.Recover(b.now, "a")
	if err != nil || m.State != pool.StateReady || m.Failures != 0 {
		t.Fatalf("%+v, %v", m, err)
	}
	b.wantActive("b")
	b.SetMissing("a", "test")
	if _, err := b.Recover(b.now, "a"); !errors.Is(err, pool.ErrConflict) {
		t.Errorf("a missing one: %v", err)
	}
}

func TestIdentity_aReplacedSecretStartsClean(t *testing.T) {
	b := newBed(t, "a")
	late := b.acquire()
	b.fail(b.acquire(), time.Hour)
	b.SetCredential("a", "another")
	b.wantActive("a")
	b.fail(late, time.Hour) // about the old one
	b.wantActive("a")
}

func TestIdentity_survivesABriefAbsence(t *testing.T) {
	b := newBed(t, "a", "b")
	b.fail(b.acquire(), time.Hour)
	b.SetMissing("a", "the storage is away")
	b.SetCredential("a", "id-of-a")
	b.wantState("a", pool.StateCooling, time.Hour)
}

func TestMissing_theActiveMemberIsLeftAndTold(t *testing.T) {
	b := newBed(t, "a", "b")
	b.wantActive("a")
	b.SetMissing("a", "removed")
	b.wantActive("b")
	b.wantEvents(pool.CredentialMissing)
	b.SetMissing("b", "removed")
	for range 3 {
		if _, err := b.Acquire(b.now, ""); !errors.Is(err, pool.ErrAllMissing) {
			t.Fatal(err)
		}
		b.now = b.now.Add(time.Hour)
	}
	b.wantEvents(pool.CredentialMissing) // never exhausted, and told once
}

func TestNotices_theSameOneIsCountedForAWhile(t *testing.T) {
	b := newBed(t, "a", "b")
	flap := func() {
		b.fail(b.acquire(), time.Second) // a
		b.now = b.now.Add(2 * time.Second)
		b.fail(b.acquire(), time.Second) // b
		b.now = b.now.Add(2 * time.Second)
	}
	flap()
	flap()
	b.wantEvents(pool.Failover, pool.Failover)
	b.now = b.now.Add(time.Minute)
	b.fail(b.acquire(), time.Second)
	if got := b.events[0].Suppressed; got != 2 {
		t.Errorf("%d suppressed, want 2", got)
	}
}

func TestReload_aRetiredPoolLeavesThePointerAlone(t *testing.T) {
	b := newBed(t, "a", "b")
	old := b.acquire()
	b.configure("a", "b")
	b.fail(old, time.Minute)
	b.wantEvents()
	b.wantActive("b") // the new one draws the conclusion
	b.wantEvents(pool.Failover)
}

func TestDocument_aBenchSurvivesARestart(t *testing.T) {
	b := newBed(t, "a", "b")
	b.fail(b.acquire(), time.Hour)
	_, _ = b.Park(b.now, "b", time.Minute, "lunch")
	d, _ := b.state.Document(b.now)
	data, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	after := newBed(t, "a", "b")
	if d, err = pool.ParseDocument(data); err != nil {
		t.Fatal(err)
	}
	after.state.Restore(d, after.now, 30*time.Minute)
	after.wantState("a", pool.StateCooling, 30*time.Minute) // bounded by what this config allows
	after.wantState("b", pool.StateParked, time.Minute)
	after.wantActive("b")
}

func FuzzParseDocument(f *testing.F) {
	f.Add([]byte(`{"version":1,"active":"a","records":[{"member":"a","identity":"x","cooling_until":"2099-01-01T00:00:00Z"}]}`))
	f.Add([]byte(`{"version":1,"exhausted_keys":["model:x"],"records":[{"member":"a","identity":"id-of-a","scopes":[{"key":"model:x","cooling_until":"2099-01-01T00:00:00Z"}]}]}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := pool.ParseDocument(data)
		if err != nil {
			return
		}
		b := newBed(t, "a", "b")
		b.state.Restore(d, b.now, time.Hour)
		for _, m := range b.Status(b.now).Members {
			if m.Until.Sub(b.now) > time.Hour {
				t.Errorf("%s until %v", m.Name, m.Until)
			}
			if len(m.Scopes) > 32 {
				t.Errorf("%s is out for %d keys", m.Name, len(m.Scopes))
			}
			for _, s := range m.Scopes {
				if s.Until.Sub(b.now) > time.Hour {
					t.Errorf("%s until %v for %s", m.Name, s.Until, s.Key)
				}
			}
		}
	})
}

package pool_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

func TestParseDocument_saysWhatIsWrong(t *testing.T) {
	if _, err := pool.ParseDocument([]byte(`{"version":2}`)); !errors.Is(err, pool.ErrNewerDocument) {
		t.Errorf("a newer one: %v", err)
	}
	for _, torn := range []string{``, `{"version":1,"rec`, `{}`, `[]`, `{"version":-1}`} {
		if _, err := pool.ParseDocument([]byte(torn)); err == nil || errors.Is(err, pool.ErrNewerDocument) {
			t.Errorf("%q: %v", torn, err)
		}
	}
}

func TestDocument_pointerAndExhaustionSurviveARestart(t *testing.T) {
	b := newBed(t, "a", "b", "c")
	for _, wait := range []time.Duration{time.Hour, 2 * time.Hour, 3 * time.Hour} {
		b.fail(b.acquire(), wait)
	}
	d, _ := b.state.Document(b.now)
	after := newBed(t, "a", "b", "c")
	after.state.Restore(d, after.now, 0)
	after.acquire()
	after.wantEvents() // it was told before the restart
	after.now = after.now.Add(time.Hour)
	after.wantActive("a") // forward from c, where the pointer stood
	after.wantEvents(pool.Recovered)
}

func TestDocument_restoreAddsToWhatIsKnown(t *testing.T) {
	b := newBed(t, "a", "b")
	b.fail(b.acquire(), time.Minute)
	b.wantActive("b")
	b.state.Restore(pool.Document{
		Version: 1,
		Active:  "a",
		Records: []pool.DocumentRecord{
			{Member: "a", Identity: "id-of-a", CoolingUntil: b.now.Add(time.Second), Meaning: pool.RateLimited},
			{Member: "b", Identity: "another", CoolingUntil: b.now.Add(time.Hour), Meaning: pool.RateLimited},
			{Member: "", Identity: "", CoolingUntil: b.now.Add(time.Hour)},
		},
	}, b.now, 0)
	b.wantState("a", pool.StateCooling, time.Minute) // the longer one
	b.wantActive("b")                                // the pointer stays, and the bench of another credential is not b's
}

func TestDocument_aRestoredBenchIsNotEndedByAnOlderLease(t *testing.T) {
	b := newBed(t, "a", "b")
	old := b.acquire()
	b.state.Restore(pool.Document{Version: 1, Records: []pool.DocumentRecord{
		{Member: "a", Identity: "id-of-a", CoolingUntil: b.now.Add(time.Hour), Meaning: pool.RateLimited, Failures: 1},
	}}, b.now, 0)
	b.succeed(old)
	b.wantState("a", pool.StateCooling, time.Hour)
}

func TestDocument_timesThatAreFarOffAreBounded(t *testing.T) {
	b := newBed(t, "a", "b", "c")
	b.state.Restore(pool.Document{Version: 1, Records: []pool.DocumentRecord{
		{Member: "a", Identity: "id-of-a", CoolingUntil: b.now.Add(10000 * time.Hour), Meaning: pool.RateLimited},
		{Member: "b", Identity: "id-of-b", ParkedUntil: b.now.Add(1000 * time.Hour)},
		{Member: "c", Identity: "id-of-c", ParkedUntil: b.now.Add(10000 * time.Hour)},
	}}, b.now, time.Hour)
	b.wantState("a", pool.StateCooling, time.Hour)
	b.wantState("b", pool.StateParked, 1000*time.Hour) // as the operator said
	b.wantState("c", pool.StateParked, pool.MaxPark)
}

func TestDocument_oddFailureCountsStillBench(t *testing.T) {
	for _, failures := range []int{-1, math.MaxInt} {
		b := newBed(t, "a")
		b.state.Restore(pool.Document{Version: 1, Records: []pool.DocumentRecord{
			{Member: "a", Identity: "id-of-a", Failures: failures},
		}}, b.now, 0)
		for range 2 {
			b.fail(b.acquire(), 0)
			b.now = b.now.Add(time.Hour)
		}
		if f := b.Status(b.now).Members[0].Failures; f < 1 {
			t.Errorf("%d failures in a row after two more than %d", f, failures)
		}
	}
}

func TestDocument_leavesOutWhatNoLongerMatters(t *testing.T) {
	b := newBed(t, "a", "b")
	_, _ = b.Park(b.now, "b", time.Minute, "")
	b.fail(b.acquire(), time.Minute)
	b.now = b.now.Add(time.Hour)
	b.fail(b.acquire(), time.Second) // b
	b.now = b.now.Add(time.Hour)
	b.succeed(b.acquire()) // a
	d, _ := b.state.Document(b.now)
	if len(d.Records) != 1 || d.Records[0].Member != "b" || d.Records[0].Failures != 1 {
		t.Errorf("records %+v", d.Records)
	}
}

func TestState_revisionMovesWithWhatIsWorthSaving(t *testing.T) {
	b := newBed(t, "a", "b")
	b.acquire()
	before := b.state.Revision()
	b.succeed(b.acquire())
	b.Status(b.now)
	if got := b.state.Revision(); got != before {
		t.Errorf("revision moved by %d though nothing changed", got-before)
	}
	b.fail(b.acquire(), 0)
	if _, saved := b.state.Document(b.now); saved == before || saved != b.state.Revision() {
		t.Errorf("revision %d, before %d, now %d", saved, before, b.state.Revision())
	}
}

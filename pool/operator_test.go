package pool_test

import (
	"errors"
	"testing"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

func TestRotate_advancesAndStays(t *testing.T) {
	b := newBed(t, "a", "b", "c")
	b.acquire()
	if _, err := b.Rotate(b.now, "", time.Minute); err != nil {
		t.Fatal(err)
	}
	b.wantActive("b")
	b.wantState("a", pool.StateParked, time.Minute)
	b.now = b.now.Add(time.Hour)
	b.wantActive("b") // a's park is over, and a does not take over
	b.wantEvents(pool.Rotated)
}

func TestRotate_takesTheParkedMemberSoonestBackIfNobodyIsReady(t *testing.T) {
	b := newBed(t, "a", "b", "c")
	b.acquire()
	_, _ = b.Park(b.now, "b", time.Hour, "")
	_, _ = b.Park(b.now, "c", time.Minute, "")
	rot, err := b.Rotate(b.now, "", time.Second)
	if err != nil || rot.To != "c" {
		t.Fatalf("%+v, %v", rot, err)
	}
	b.wantState("c", pool.StateParked, time.Minute) // its park stays on record
	b.wantActive("c")
	// a is the one soonest back, and c, rotated away from, never the refuge.
	if rot, err = b.Rotate(b.now, "", time.Second); err != nil || rot.To != "a" {
		t.Fatalf("%+v, %v", rot, err)
	}
}

func TestRotate_leavesALongerParkAlone(t *testing.T) {
	b := newBed(t, "a", "b")
	b.acquire()
	_, _ = b.Park(b.now, "b", time.Hour, "")
	_, _ = b.Park(b.now, "a", time.Hour, "") // stays active, since nobody is ready
	rot, err := b.Rotate(b.now, "", time.Minute)
	if err != nil || rot.From != "a" || rot.ParkedUntil.Sub(b.now) != time.Hour {
		t.Fatalf("%+v, %v", rot, err)
	}
}

func TestRotate_ofAnExhaustedPoolIsAConflict(t *testing.T) {
	b := newBed(t, "a", "b")
	b.fail(b.acquire(), time.Minute)
	b.fail(b.acquire(), time.Minute)
	b.events = nil
	for _, to := range []string{"", "a"} {
		if _, err := b.Rotate(b.now, to, 0); !errors.Is(err, pool.ErrConflict) {
			t.Errorf("to %q: %v", to, err)
		}
	}
	b.wantState("a", pool.StateCooling, time.Minute)
	b.wantEvents()
}

func TestPark_andCoolingAreTwoDeadlines(t *testing.T) {
	b := newBed(t, "a", "b")
	l := b.acquire()
	_, _ = b.Park(b.now, "a", time.Hour, "lunch")
	_, _ = b.Park(b.now, "a", time.Minute, "short") // does not shorten
	b.wantState("a", pool.StateParked, time.Hour)
	b.fail(l, 10*time.Minute)
	b.wantState("a", pool.StateCooling, 10*time.Minute)
	b.now = b.now.Add(10 * time.Minute)
	b.wantState("a", pool.StateParked, 50*time.Minute)
	if r := b.Status(b.now).Members[0].Reason; r != "lunch" {
		t.Errorf("reason %q", r)
	}
}

func TestPark_ofAMemberThatIsNotActiveMovesNothing(t *testing.T) {
	b := newBed(t, "a", "b")
	b.acquire()
	m, err := b.Park(b.now, "b", 0, "")
	if err != nil || m.State != pool.StateParked || m.Until.Sub(b.now) != pool.DefaultParkFor {
		t.Fatalf("%+v, %v", m, err)
	}
	b.wantActive("a")
	b.wantEvents(pool.Parked)
}

func TestPark_aRefugeKeepsTheSeatWhenAnotherRecovers(t *testing.T) {
	b := newBed(t, "a", "b")
	b.acquire()
	_, _ = b.Park(b.now, "b", time.Hour, "")
	b.fail(b.acquire(), time.Minute)
	b.wantActive("b")
	b.now = b.now.Add(2 * time.Minute)
	b.wantState("a", pool.StateReady, 0)
	b.wantActive("b")
}

func TestPark_andRecoverNameWhatIsWrong(t *testing.T) {
	b := newBed(t, "a")
	b.SetMissing("a", "removed")
	for name, want := range map[string]error{"x": pool.ErrUnknownMember, "a": pool.ErrConflict} {
		if _, err := b.Park(b.now, name, 0, ""); !errors.Is(err, want) {
			t.Errorf("park %s: %v", name, err)
		}
		if _, err := b.Recover(b.now, name); !errors.Is(err, want) {
			t.Errorf("recover %s: %v", name, err)
		}
	}
	b.wantState("a", pool.StateMissing, 0)
}

func TestRecover_bringsAnExhaustedPoolBack(t *testing.T) {
	b := newBed(t, "a", "b")
	b.fail(b.acquire(), time.Hour)
	b.fail(b.acquire(), time.Hour)
	if _, err := b.Recover(b.now, "a"); err != nil {
		t.Fatal(err)
	}
	b.wantEvents(pool.Failover, pool.Exhausted, pool.MemberRecovered, pool.Recovered)
	b.wantActive("a")
}

func TestRecover_ofACleanMemberIsNotTold(t *testing.T) {
	b := newBed(t, "a")
	b.acquire()
	if _, err := b.Recover(b.now, "a"); err != nil {
		t.Fatal(err)
	}
	b.wantEvents()
}

func TestNotices_anOperatorsActionStartsNewEpisodes(t *testing.T) {
	b := newBed(t, "a", "b")
	b.fail(b.acquire(), time.Minute)
	b.wantEvents(pool.Failover)
	_, _ = b.Recover(b.now, "a")
	_, _ = b.Rotate(b.now, "a", 0)
	b.wantEvents(pool.MemberRecovered, pool.Rotated)
	b.fail(b.acquire(), time.Minute)
	b.wantEvents(pool.Failover) // the same one within the window
}

func TestExhaustion_armsAgainWhenAMemberIsBack(t *testing.T) {
	b := newBed(t, "a")
	for range 3 {
		b.fail(b.acquire(), time.Second)
		b.now = b.now.Add(pool.DefaultNoticeWindow)
		b.wantActive("a")
		b.wantEvents(pool.Exhausted, pool.Recovered)
	}
}

// An account that is limited in one place of the API and served in another.
func TestExhaustion_thatComesAndGoesWithEveryRequestIsNotToldEachTime(t *testing.T) {
	b := newBed(t, "a")
	for range 20 {
		b.fail(b.acquire(), time.Minute)
		b.succeed(b.acquire())
	}
	b.wantEvents(pool.Exhausted, pool.Recovered, pool.Exhausted, pool.Recovered)
	b.fail(b.acquire(), time.Hour)
	b.acquire()
	b.wantEvents() // told a moment ago
	b.now = b.now.Add(pool.DefaultNoticeWindow)
	b.acquire()
	e := b.events[0]
	b.wantEvents(pool.Exhausted) // it has lasted
	if e.Suppressed != 37 {      // 18 pairs, and the exhaustion that lasts
		t.Errorf("%d suppressed", e.Suppressed)
	}
	b.acquire()
	b.wantEvents()
	b.now = b.now.Add(time.Hour)
	b.acquire()
	b.wantEvents(pool.Recovered)
}

func TestExhaustion_recoveryIsNoticedByStatus(t *testing.T) {
	b := newBed(t, "a", "b")
	b.fail(b.acquire(), time.Minute)
	b.fail(b.acquire(), time.Hour)
	b.now = b.now.Add(time.Minute)
	if st := b.Status(b.now); st.Active != "a" {
		t.Errorf("active %s", st.Active)
	}
	b.wantEvents(pool.Failover, pool.Exhausted, pool.Recovered)
}

func TestOutlook_needsTheOperatorIfNobodyComesBackByWaiting(t *testing.T) {
	b := newBed(t, "a", "b")
	b.acquire().Report(b.now, pool.Verdict{Meaning: pool.AuthFailed, Reason: "401"})
	b.SetMissing("b", "removed")
	if out := b.Outlook(b.now, ""); !out.NeedsOperator || out.First != "a" || out.Until.Sub(b.now) != 5*time.Minute {
		t.Errorf("%+v", out)
	}
	b.SetMissing("a", "removed")
	if out := b.Outlook(b.now, ""); !out.NeedsOperator || out.First != "" {
		t.Errorf("%+v", out)
	}
}

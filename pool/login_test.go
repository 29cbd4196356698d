package pool

import (
	"testing"
	"time"
)

func TestPool_newTokensEndABenchForTheOldOnesAndKeepTheRow(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for meaning, want := range map[Meaning]MemberState{AuthFailed: StateReady, RateLimited: StateCooling} {
		p := New(Config{Members: []string{"a", "b"}}, NewState("p", nil))
		p.SetCredential("a", "login")
		lease, err := p.Acquire(now, "")
		if err != nil {
			t.Fatal(err)
		}
		lease.Report(now, Verdict{Meaning: meaning, Reason: "401"})
		p.Renewed(now.Add(time.Second), "a")
		p.Renewed(now.Add(time.Second), "nobody")
		if st := p.Status(now.Add(time.Second)).Members[0]; st.State != want || st.Failures != 1 {
			t.Errorf("%s: the member is %s after %d failures", meaning, st.State, st.Failures)
		}
	}
}

func TestPool_tellsOfLogins(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var told []Event
	p := New(Config{Members: []string{"a"}}, NewState("p", func(e Event) { told = append(told, e) }))
	p.Refreshed(now, "a", now.Add(time.Hour))
	p.Refreshed(now, "a", now.Add(time.Hour)) // another refresh
	p.RefreshFailed(now, "a", "503", Overloaded)
	p.RefreshFailed(now, "a", "503", Overloaded) // the same trouble
	p.RefreshFailed(now, "a", "invalid_grant", AuthFailed)
	want := []Event{
		{Kind: Refreshed, Time: now, Pool: "p", From: "a", Until: now.Add(time.Hour)},
		{Kind: Refreshed, Time: now, Pool: "p", From: "a", Until: now.Add(time.Hour)},
		{Kind: RefreshFailed, Time: now, Pool: "p", From: "a", Reason: "503", Meaning: Overloaded},
		{Kind: RefreshFailed, Time: now, Pool: "p", From: "a", Reason: "invalid_grant", Meaning: AuthFailed, Suppressed: 1},
	}
	if len(told) != len(want) {
		t.Fatalf("told %+v", told)
	}
	for i := range want {
		if told[i] != want[i] {
			t.Errorf("told %+v\nwant %+v", told[i], want[i])
		}
	}
}

package caddymodule

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

var noon = time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)

func TestNotice_message(t *testing.T) {
	for _, tc := range []struct {
		name  string
		event pool.Event
		want  string
	}{
		{
			"failover, rate limit",
			pool.Event{Kind: pool.Failover, From: "work", To: "home", Reason: "429", Meaning: pool.RateLimited, Until: noon.Add(time.Minute)},
			`Pool "openai" failed over from "work" to "home" after rate limit (429).`,
		},
		{
			"failover, quota",
			pool.Event{Kind: pool.Failover, From: "work", To: "home", Reason: "403", Meaning: pool.QuotaExhausted},
			`Pool "openai" failed over from "work" to "home" after exhausted quota (403).`,
		},
		{
			"failover, credential",
			pool.Event{Kind: pool.Failover, From: "work", To: "home", Reason: "401", Meaning: pool.AuthFailed},
			`Pool "openai" failed over from "work" to "home" after rejected credential (401).`,
		},
		{
			"failover, nothing known about the cause",
			pool.Event{Kind: pool.Failover, From: "work", To: "home"},
			`Pool "openai" failed over from "work" to "home".`,
		},
		{
			"exhausted",
			pool.Event{Kind: pool.Exhausted, From: "work", First: "home", Until: noon.Add(4*time.Minute + 10*time.Second), Reason: "429", Meaning: pool.RateLimited},
			`Pool "openai" exhausted: every member is cooling down, first back "home" at 12:04:10 UTC (429).`,
		},
		{
			"exhausted until another day, rounded up",
			pool.Event{Kind: pool.Exhausted, From: "work", First: "home", Until: noon.Add(12*time.Hour - time.Millisecond), Reason: "429"},
			`Pool "openai" exhausted: every member is cooling down, first back "home" at 2026-03-15 00:00:00 UTC (429).`,
		},
		{
			"exhausted, told in another zone",
			pool.Event{Kind: pool.Exhausted, From: "work", First: "home", Until: noon.Add(time.Hour).In(time.FixedZone("", -11*3600))},
			`Pool "openai" exhausted: every member is cooling down, first back "home" at 13:00:00 UTC.`,
		},
		{
			"exhausted, with a member that has no credential",
			pool.Event{Kind: pool.Exhausted, From: "work", First: "home", Until: noon.Add(time.Hour), Reason: "429", Missing: 1},
			`Pool "openai" exhausted: every member is cooling down or has no usable credential, first back "home" at 13:00:00 UTC (429).`,
		},
		{
			"recovered",
			pool.Event{Kind: pool.Recovered, To: "home"},
			`Pool "openai" recovered: "home" serves again.`,
		},
		{
			"rotated",
			pool.Event{Kind: pool.Rotated, From: "work", To: "home", Reason: "operator", Until: noon.Add(5 * time.Minute)},
			`Pool "openai" rotated from "work" to "home" by the operator, "work" is parked until 12:05:00 UTC.`,
		},
		{
			"rotated, nobody was active",
			pool.Event{Kind: pool.Rotated, To: "home", Reason: "operator"},
			`Pool "openai" rotated to "home" by the operator.`,
		},
		{
			"parked",
			pool.Event{Kind: pool.Parked, From: "work", Until: noon.Add(time.Hour)},
			`Pool "openai": "work" is parked until 13:00:00 UTC.`,
		},
		{
			"parked while active",
			pool.Event{Kind: pool.Parked, From: "work", To: "home", Until: noon.Add(time.Hour), Reason: "saving it for tonight"},
			`Pool "openai": "work" is parked until 13:00:00 UTC, "home" serves now (saving it for tonight).`,
		},
		{
			"member recovered",
			pool.Event{Kind: pool.MemberRecovered, From: "work", Reason: "operator"},
			`Pool "openai": "work" recovered by the operator.`,
		},
		{
			"credential missing",
			pool.Event{Kind: pool.CredentialMissing, From: "work", To: "home", Reason: "no credential in the vault"},
			`Pool "openai" has no usable credential for its active member "work", "home" serves now (no credential in the vault).`,
		},
		{
			"credential missing, nobody else",
			pool.Event{Kind: pool.CredentialMissing, From: "work"},
			`Pool "openai" has no usable credential for its active member "work".`,
		},
		{
			"refreshed",
			pool.Event{Kind: pool.Refreshed, From: "work", Until: noon.Add(time.Hour)},
			`Pool "openai": the login of "work" was refreshed, its token lasts until 13:00:00 UTC.`,
		},
		{
			"login lost",
			pool.Event{Kind: pool.RefreshFailed, From: "work", Reason: "invalid_grant", Meaning: pool.AuthFailed},
			`Pool "openai": "work" must log in again (invalid_grant).`,
		},
		{
			"not refreshed yet",
			pool.Event{Kind: pool.RefreshFailed, From: "work", Reason: "503", Meaning: pool.Overloaded},
			`Pool "openai": the login of "work" can't be refreshed at the moment (503); it is tried again.`,
		},
		{
			"one held back",
			pool.Event{Kind: pool.Recovered, To: "home", Suppressed: 1},
			`Pool "openai" recovered: "home" serves again. 1 similar notice was not repeated.`,
		},
		{
			"several held back",
			pool.Event{Kind: pool.Recovered, To: "home", Suppressed: 3},
			`Pool "openai" recovered: "home" serves again. 3 similar notices were not repeated.`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.event.Pool, tc.event.Time = "openai", noon
			if got := newNotice(tc.event, "i").Message; got != tc.want {
				t.Errorf("message\n got %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestNotice_everyKindIsToldAndAudited(t *testing.T) {
	bare := len(message(pool.Event{Kind: "unknown"}))
	for _, kind := range pool.EventKinds {
		if len(message(pool.Event{Kind: kind})) <= bare {
			t.Errorf("%s has no message", kind)
		}
		if auditActions[kind] == "" {
			t.Errorf("%s has no audit action", kind)
		}
	}
}

func TestNotice_json(t *testing.T) {
	zone := time.FixedZone("", 7200)
	n := newNotice(pool.Event{
		Kind: pool.Failover, Time: noon.Add(1234567).In(zone), Pool: "openai", From: "work", To: "home",
		Reason: "429", Meaning: pool.RateLimited, Until: noon.Add(time.Minute).In(zone), Suppressed: 2,
	}, "caddy-1")
	n.ID = "notice_x"
	assertJSON(t, n, `{"id":"notice_x","time":"2026-03-14T12:00:00.001Z","kind":"failover","pool":"openai",`+
		`"from":"work","to":"home","reason":"429","meaning":"rate_limited","until":"2026-03-14T12:01:00Z",`+
		`"suppressed":2,"instance":"caddy-1",`+
		`"message":"Pool \"openai\" failed over from \"work\" to \"home\" after rate limit (429). 2 similar notices were not repeated."}`)
}

func TestNotice_jsonAlwaysSaysWhoServesInstead(t *testing.T) {
	n := newNotice(pool.Event{Kind: pool.Exhausted, Time: noon, Pool: "openai"}, "")
	n.ID = "notice_x"
	assertJSON(t, n, `{"id":"notice_x","time":"2026-03-14T12:00:00Z","kind":"exhausted","pool":"openai","to":"",`+
		`"message":"Pool \"openai\" exhausted: every member is cooling down."}`)
}

func assertJSON(t *testing.T, v any, want string) {
	t.Helper()
	got, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("json\n got %s\nwant %s", got, want)
	}
}

func TestNotice_idsAreUniqueAndSortByTime(t *testing.T) {
	ids := make([]string, 1000)
	for i := range ids {
		ids[i] = newNoticeID(noon.Add(time.Duration(i) * time.Millisecond))
	}
	if !slices.IsSorted(ids) {
		t.Error("ids don't sort by time")
	}
	if a, b := newNoticeID(noon), newNoticeID(noon); a == b {
		t.Errorf("two notices have the id %s", a)
	}
}

func TestNoticeLog_keepsTheNewest(t *testing.T) {
	l := newNoticeLog()
	if got := l.recent(0); got == nil || len(got) != 0 {
		t.Errorf("an empty log returns %v", got)
	}
	for i := range noticesKept + 5 {
		l.put(pool.Event{Kind: pool.Recovered, Time: noon, Pool: fmt.Sprint("p", i)})
		if i == 1 {
			if got := poolsOf(l.recent(10)); !slices.Equal(got, []string{"p1", "p0"}) {
				t.Errorf("recent returns %v, not the newest first", got)
			}
		}
	}
	all := poolsOf(l.recent(0))
	if len(all) != noticesKept || all[0] != "p1004" || all[len(all)-1] != "p5" {
		t.Errorf("the log has %d notices, %s to %s; want %d, p1004 to p5", len(all), all[0], all[len(all)-1], noticesKept)
	}
	if got := poolsOf(l.recent(2)); !slices.Equal(got, []string{"p1004", "p1003"}) {
		t.Errorf("recent(2) returns %v", got)
	}
}

func TestNoticeLog_withoutDispatcherDropsTheOldestPending(t *testing.T) {
	dropped := counters.notices.WithLabelValues(string(pool.Recovered), outcomeDropped)
	before := testutil.ToFloat64(dropped)
	l := newNoticeLog()
	for i := range noticesPending + 3 {
		l.put(pool.Event{Kind: pool.Recovered, Time: noon, Pool: fmt.Sprint("p", i)}) // must not block
	}
	if got := testutil.ToFloat64(dropped) - before; got != 3 {
		t.Errorf("%v drops counted, want 3", got)
	}
	if n := <-l.pending; n.Pool != "p3" {
		t.Errorf("the oldest pending notice is of %s, want p3", n.Pool)
	}
}

func TestNoticeLog_isSafeForConcurrentUse(t *testing.T) {
	l := newNoticeLog()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 500 {
				l.put(pool.Event{Kind: pool.Parked, Time: noon, Pool: "p"})
				l.recent(3)
			}
		})
	}
	wg.Wait()
	if got := len(l.recent(0)); got != noticesKept {
		t.Errorf("%d notices kept", got)
	}
}

func poolsOf(notices []Notice) []string {
	names := make([]string, len(notices))
	for i, n := range notices {
		names[i] = n.Pool
	}
	return names
}

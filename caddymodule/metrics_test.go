package caddymodule

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

// fixedStatuses is a source of statuses that don't change.
type fixedStatuses []pool.Status

func (s fixedStatuses) poolStatuses(time.Time) []pool.Status { return s }

func TestMetrics_surviveReloads(t *testing.T) {
	name := freshPool()
	m := newPoolMetrics(name, []string{"work", "home"})
	m.observe(1, pool.RateLimited)
	counters.event(pool.Event{Kind: pool.Failover, Pool: name, Meaning: pool.RateLimited})

	before := prometheus.NewPedanticRegistry()
	mustRegister(t, before, nil)
	again := newPoolMetrics(name, []string{"home", "work"}) // the next configuration has another order
	again.observe(0, pool.RateLimited)
	again.retried()
	counters.event(pool.Event{Kind: pool.Exhausted, Pool: name})
	after := prometheus.NewPedanticRegistry()
	mustRegister(t, after, nil)

	want := map[string]float64{
		`caddy_credential_pool_requests_total home rate_limited`: 2,
		`caddy_credential_pool_requests_total work rate_limited`: 0,
		`caddy_credential_pool_retries_total`:                    1,
		`caddy_credential_pool_failovers_total rate_limited`:     1,
		`caddy_credential_pool_exhausted_total`:                  1,
	}
	got := gatherPool(t, after, name)
	for series, value := range want {
		if v, ok := got[series]; !ok || v != value {
			t.Errorf("%s is %v (%t), want %v", series, v, ok, value)
		}
	}
	if gatherPool(t, before, name)[`caddy_credential_pool_retries_total`] != 1 {
		t.Error("the older registry does not show the same counters")
	}
}

func TestMetrics_mayBeRegisteredTwice(t *testing.T) {
	r := prometheus.NewRegistry()
	mustRegister(t, r, nil)
	mustRegister(t, r, nil)
}

func TestMetrics_conflictIsAnError(t *testing.T) {
	r := prometheus.NewRegistry()
	r.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "caddy_credential_pool_retries_total", Help: "Foreign."}))
	if err := registerMetrics(r, fixedStatuses(nil)); err == nil {
		t.Error("a foreign metric of the same name is no error")
	}
}

func TestMetrics_passTheLinter(t *testing.T) {
	newPoolMetrics("metrics-lint", []string{"work"}).retried()
	counters.event(pool.Event{Kind: pool.Failover, Pool: "metrics-lint", Meaning: pool.AuthFailed})
	counters.event(pool.Event{Kind: pool.Exhausted, Pool: "metrics-lint"})
	counters.notice(pool.Parked, outcomeTold)
	counters.refreshes.WithLabelValues("metrics-lint", "work", refreshDone).Inc()
	r := prometheus.NewPedanticRegistry()
	mustRegister(t, r, fixedStatuses{{Name: "metrics-lint", Members: []pool.MemberStatus{{Name: "work"}}}})
	problems, err := testutil.GatherAndLint(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestMetrics_membersAreReadWhenScraped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		back := time.Now().Add(90 * time.Second)
		r := prometheus.NewPedanticRegistry()
		mustRegister(t, r, fixedStatuses{{Name: "p", Members: []pool.MemberStatus{
			{Name: "r", State: pool.StateReady},
			{Name: "c", State: pool.StateCooling, Until: back},
			{Name: "k", State: pool.StateParked, Until: back.Add(time.Hour)},
			{Name: "m", State: pool.StateMissing},
		}}})
		time.Sleep(30 * time.Second)
		want := `
# HELP caddy_credential_pool_member_ready 1 if the member is ready: neither cooling, parked nor without a usable credential; else 0.
# TYPE caddy_credential_pool_member_ready gauge
caddy_credential_pool_member_ready{member="c",pool="p"} 0
caddy_credential_pool_member_ready{member="k",pool="p"} 0
caddy_credential_pool_member_ready{member="m",pool="p"} 0
caddy_credential_pool_member_ready{member="r",pool="p"} 1
# HELP caddy_credential_pool_member_until_seconds Seconds until the member's cooling or park ends; 0 if it has none.
# TYPE caddy_credential_pool_member_until_seconds gauge
caddy_credential_pool_member_until_seconds{member="c",pool="p"} 60
caddy_credential_pool_member_until_seconds{member="k",pool="p"} 3660
caddy_credential_pool_member_until_seconds{member="m",pool="p"} 0
caddy_credential_pool_member_until_seconds{member="r",pool="p"} 0
`
		err := testutil.GatherAndCompare(r, strings.NewReader(want),
			"caddy_credential_pool_member_ready", "caddy_credential_pool_member_until_seconds")
		if err != nil {
			t.Error(err)
		}
	})
}

func TestPoolMetrics_everyMeaningHasItsCounter(t *testing.T) {
	name := freshPool()
	m := newPoolMetrics(name, []string{"work"})
	meanings := []pool.Meaning{pool.OK, pool.RateLimited, pool.QuotaExhausted, pool.AuthFailed, pool.Overloaded, pool.RequestError}
	for i, meaning := range meanings {
		for range i + 1 {
			m.observe(0, meaning)
		}
	}
	m.observe(0, "") // says nothing
	for i, meaning := range meanings {
		if got := testutil.ToFloat64(counters.requests.WithLabelValues(name, "work", string(meaning))); got != float64(i+1) {
			t.Errorf("%s counted %v times, want %d", meaning, got, i+1)
		}
	}
}

func TestPoolMetrics_nilCountsNothing(t *testing.T) {
	var m *poolMetrics
	m.observe(3, pool.OK)
	m.retried()
}

func TestPoolMetrics_allocateNothing(t *testing.T) {
	m := newPoolMetrics("metrics-alloc", []string{"work"})
	if n := testing.AllocsPerRun(100, func() { m.observe(0, pool.OK); m.retried() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// freshPool returns a name whose counters are all 0, since these outlive tests.
func freshPool() string { return fmt.Sprint("metrics-", time.Now().UnixNano()) }

func mustRegister(t *testing.T, r prometheus.Registerer, source statusSource) {
	t.Helper()
	if source == nil {
		source = fixedStatuses(nil)
	}
	if err := registerMetrics(r, source); err != nil {
		t.Fatal(err)
	}
}

// gatherPool returns the values of a pool's counters by name, member and meaning.
func gatherPool(t *testing.T, r prometheus.Gatherer, poolName string) map[string]float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			series, ours := []string{f.GetName()}, false
			for _, l := range m.GetLabel() {
				if l.GetName() == "pool" {
					ours = l.GetValue() == poolName
				}
			}
			for _, label := range []string{"member", "meaning"} {
				for _, l := range m.GetLabel() {
					if l.GetName() == label {
						series = append(series, l.GetValue())
					}
				}
			}
			if ours {
				values[strings.Join(series, " ")] = m.GetCounter().GetValue()
			}
		}
	}
	return values
}

package caddymodule

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

// What becomes of a notice, as the outcome label of notices_total.
const (
	// outcomeTold: logged, audited and emitted as a Caddy event.
	outcomeTold = "told"
	// outcomeDelivered: a notifier's receiver took it.
	outcomeDelivered = "delivered"
	// outcomeRetried: an attempt to deliver it failed and will be repeated.
	outcomeRetried = "retried"
	// outcomeFailed: a notifier gave up on it.
	outcomeFailed = "failed"
	// outcomeDropped: a queue was full, or Caddy stopped before it was sent.
	outcomeDropped = "dropped"
)

// How a refresh of a login has ended, as the outcome label of refreshes_total.
const (
	// refreshDone: there are new tokens, and they are stored.
	refreshDone = "refreshed"
	// refreshFailed: it will be tried again.
	refreshFailed = "failed"
	// refreshLost: only a new login helps.
	refreshLost = "lost"
)

// counters live with the process and are registered again with each
// configuration's registry, so that they survive reloads.
var counters = newCounterSet()

// counterSet is every counter of the plugin. All labels are bounded by the
// configuration: none comes from a client or an upstream.
type counterSet struct {
	requests, retries, failovers, exhausted, refreshes, notices *prometheus.CounterVec
}

func newCounterSet() *counterSet {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "caddy",
			Subsystem: "credential_pool",
			Name:      name,
			Help:      help,
		}, labels)
	}
	return &counterSet{
		requests: counter("requests_total",
			"Attempts that an upstream answered, by the member that made them and what the answer meant.",
			"pool", "member", "meaning"),
		retries: counter("retries_total",
			"Attempts that repeated a request with another member.",
			"pool"),
		failovers: counter("failovers_total",
			"Failovers to another member, by what the answer that caused them meant. The same failover within the notice window counts once.",
			"pool", "meaning"),
		exhausted: counter("exhausted_total",
			"How often no member was left to fail over to. The same within the notice window counts once.",
			"pool"),
		refreshes: counter("refreshes_total",
			"Refreshes of logins by how they ended: refreshed, failed (it will be tried again), or lost (the account must log in again).",
			"pool", "member", "outcome"),
		notices: counter("notices_total",
			"Notices by kind and by what became of them: told (logged and emitted as an event), and for each notifier delivered, retried (an attempt failed), failed (given up) or dropped.",
			"kind", "outcome"),
	}
}

// event counts what happened to a pool.
func (c *counterSet) event(e pool.Event) {
	switch e.Kind {
	case pool.Failover:
		c.failovers.WithLabelValues(e.Pool, string(e.Meaning)).Inc()
	case pool.Exhausted:
		c.exhausted.WithLabelValues(e.Pool).Inc()
	case pool.Recovered, pool.Rotated, pool.Parked, pool.MemberRecovered, pool.CredentialMissing, pool.Refreshed, pool.RefreshFailed:
		// these are counted as notices only
	}
}

// notice counts what became of a notice.
func (c *counterSet) notice(kind pool.EventKind, outcome string) {
	c.notices.WithLabelValues(string(kind), outcome).Inc()
}

// poolMetrics are the counters of one pool, looked up once, so that counting
// takes no lock and allocates nothing. A nil one counts nothing.
type poolMetrics struct {
	members []memberMetrics
	retries prometheus.Counter
}

// memberMetrics are a member's counters, by what the answer meant.
type memberMetrics struct {
	ok, rateLimited, quotaExhausted, authFailed, overloaded, requestError prometheus.Counter
}

// newPoolMetrics looks up the counters of a pool whose members have these
// names, in the pool's order.
func newPoolMetrics(poolName string, members []string) *poolMetrics {
	m := &poolMetrics{
		members: make([]memberMetrics, len(members)),
		retries: counters.retries.WithLabelValues(poolName),
	}
	for i, member := range members {
		of := func(meaning pool.Meaning) prometheus.Counter {
			return counters.requests.WithLabelValues(poolName, member, string(meaning))
		}
		m.members[i] = memberMetrics{
			ok:             of(pool.OK),
			rateLimited:    of(pool.RateLimited),
			quotaExhausted: of(pool.QuotaExhausted),
			authFailed:     of(pool.AuthFailed),
			overloaded:     of(pool.Overloaded),
			requestError:   of(pool.RequestError),
		}
	}
	return m
}

// observe counts an answer to an attempt by the member at that position.
func (m *poolMetrics) observe(position int, meaning pool.Meaning) {
	if m == nil {
		return
	}
	m.members[position].observe(meaning)
}

// retried counts a repeated attempt.
func (m *poolMetrics) retried() {
	if m == nil {
		return
	}
	m.retries.Inc()
}

func (m *memberMetrics) observe(meaning pool.Meaning) {
	switch meaning {
	case pool.OK:
		m.ok.Inc()
	case pool.RateLimited:
		m.rateLimited.Inc()
	case pool.QuotaExhausted:
		m.quotaExhausted.Inc()
	case pool.AuthFailed:
		m.authFailed.Inc()
	case pool.Overloaded:
		m.overloaded.Inc()
	case pool.RequestError:
		m.requestError.Inc()
	}
}

// statusSource tells how the pools of a configuration are.
type statusSource interface {
	poolStatuses(now time.Time) []pool.Status
}

// memberCollector reads the state of the members when it is asked, so that no
// gauge goes stale when a cooldown lapses by itself.
type memberCollector struct{ source statusSource }

var (
	memberReady = prometheus.NewDesc("caddy_credential_pool_member_ready",
		"1 if the member is ready: neither cooling, parked nor without a usable credential; else 0.",
		[]string{"pool", "member"}, nil)
	memberUntil = prometheus.NewDesc("caddy_credential_pool_member_until_seconds",
		"Seconds until the member's cooling or park ends; 0 if it has none.",
		[]string{"pool", "member"}, nil)
)

// Describe implements prometheus.Collector.
func (c memberCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- memberReady
	ch <- memberUntil
}

// Collect implements prometheus.Collector.
func (c memberCollector) Collect(ch chan<- prometheus.Metric) {
	now := time.Now()
	for _, p := range c.source.poolStatuses(now) {
		for _, m := range p.Members {
			ready, until := 0.0, 0.0
			if m.State == pool.StateReady {
				ready = 1
			}
			if m.Until.After(now) {
				until = m.Until.Sub(now).Seconds()
			}
			ch <- prometheus.MustNewConstMetric(memberReady, prometheus.GaugeValue, ready, p.Name, m.Name)
			ch <- prometheus.MustNewConstMetric(memberUntil, prometheus.GaugeValue, until, p.Name, m.Name)
		}
	}
}

// registerMetrics makes the metrics show in a configuration's registry. It may
// be called again for the same one.
func registerMetrics(registry prometheus.Registerer, source statusSource) error {
	for _, c := range []prometheus.Collector{
		counters.requests,
		counters.retries,
		counters.failovers,
		counters.exhausted,
		counters.refreshes,
		counters.notices,
		memberCollector{source},
	} {
		err := registry.Register(c)
		if _, again := errors.AsType[prometheus.AlreadyRegisteredError](err); err != nil && !again {
			return fmt.Errorf("registering metrics: %w", err)
		}
	}
	return nil
}

// Interface guard
var _ prometheus.Collector = memberCollector{}

package pool_test

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

// requestKeys are the keys of the requests that a machine makes.
var requestKeys = []string{"", "model:claude-opus", "model:claude-sonnet", "model:gpt-5", "resource:search"}

// covered are the requests that a bench for a key is about.
var covered = map[string][]string{
	"model:opus":          {"model:claude-opus"},
	"model:claude":        {"model:claude-opus", "model:claude-sonnet"},
	"model=claude-opus":   {"model:claude-opus"},
	"model=claude-sonnet": {"model:claude-sonnet"},
	"model=gpt-5":         {"model:gpt-5"},
	"resource:search":     {"resource:search"},
}

type modelCredential struct{ member, identity string }

// modelRecord is what is known about a credential.
type modelRecord struct {
	parked  time.Time
	benches []modelBench // the first one is the whole member's
}

type modelBench struct {
	key             string
	cooling, tested time.Time
	meaning         pool.Meaning
	reason          string
	failures        int
	stamp           int
}

func (b *modelBench) end() {
	*b = modelBench{key: b.key, tested: b.tested, stamp: b.stamp}
}

type modelLease struct {
	pool.Lease
	credential    modelCredential
	key           string
	usable, ready bool
	taken         int // the stamp at that time
}

func (m *machine) credential(name string) modelCredential {
	return modelCredential{name, m.identity[name]}
}

// record returns what is known, which is nothing in most cases.
func (m *machine) record(c modelCredential) modelRecord {
	if r := m.records[c]; r != nil {
		return *r
	}
	return modelRecord{benches: make([]modelBench, 1)}
}

func (m *machine) writable(c modelCredential) *modelRecord {
	if m.records[c] == nil {
		r := m.record(c)
		m.records[c] = &r
	}
	return m.records[c]
}

func (m *machine) look(c modelCredential, key string) modelBench {
	for _, b := range m.record(c).benches {
		if b.key == key {
			return b
		}
	}
	return modelBench{key: key}
}

// set benches for that long from now, if that is longer.
func (m *machine) set(c modelCredential, key string, v pool.Verdict, d time.Duration, begins, counts bool) {
	r := m.writable(c)
	i := slices.IndexFunc(r.benches, func(b modelBench) bool { return b.key == key })
	if i < 0 {
		i = len(r.benches)
		r.benches = append(r.benches, modelBench{key: key})
	}
	b := &r.benches[i]
	if until := m.now.Add(d); until.After(b.cooling) {
		b.cooling = until
	}
	b.meaning, b.reason = v.Meaning, v.Reason
	if begins {
		m.stamp++
		b.stamp = m.stamp
	}
	if counts {
		b.failures++
	}
}

// end ends what a success on the lease has shown to be over.
func (m *machine) end(l modelLease) {
	if l.credential != m.credential(l.Member()) {
		return
	}
	benches := m.record(l.credential).benches
	for i := range benches {
		b := &benches[i]
		if b.stamp <= l.taken && (b.key == "" || slices.Contains(covered[b.key], l.key)) {
			b.end()
		}
	}
}

func (m *machine) isMissing(name string) bool { return m.identity[name] == "" }

func (m *machine) isParked(name string) bool {
	return m.now.Before(m.record(m.credential(name)).parked)
}

// holding returns what keeps the member longest from requests with that key.
func (m *machine) holding(name, key string) *modelBench {
	var longest *modelBench
	benches := m.record(m.credential(name)).benches
	for i := range benches {
		b := &benches[i]
		if m.now.Before(b.cooling) && (b.key == "" || slices.Contains(covered[b.key], key)) &&
			(longest == nil || b.cooling.After(longest.cooling)) {
			longest = b
		}
	}
	return longest
}

func (m *machine) isUsable(name, key string) bool {
	return name != "" && !m.isMissing(name) && m.holding(name, key) == nil
}

func (m *machine) isReady(name, key string) bool { return m.isUsable(name, key) && !m.isParked(name) }

// serves is the member that requests with that key go to, never one of those in
// not; empty if nobody is left.
func (m *machine) serves(key string, not ...string) string {
	if m.isUsable(m.active, key) && !slices.Contains(not, m.active) {
		return m.active
	}
	return m.next(key, not...)
}

// next is the one after the active member, never one of those in not.
func (m *machine) next(key string, not ...string) string {
	var refuge string
	at := slices.Index(m.names, m.active)
	for i := range m.names {
		name := m.names[(at+1+i)%len(m.names)]
		switch {
		case slices.Contains(not, name) || !m.isUsable(name, key):
		case m.isReady(name, key):
			return name
		case refuge == "" || m.record(m.credential(name)).parked.Before(m.record(m.credential(refuge)).parked):
			refuge = name
		}
	}
	return refuge
}

// settle moves the pointer off a member that can't serve.
func (m *machine) settle() {
	if m.isUsable(m.active, "") {
		return
	}
	if to := m.next(""); to != "" {
		m.active = to
	}
}

// isDue reports whether it is time to test a bench.
func (m *machine) isDue(b *modelBench) bool {
	return b.cooling.After(m.now.Add(15*time.Minute)) && !m.now.Before(b.tested.Add(15*time.Minute))
}

// lessBad reports whether the one attempt must rather go to a than to b.
func (m *machine) lessBad(a, b *modelBench) bool {
	lost := func(b *modelBench) bool { return b.meaning == pool.AuthFailed }
	switch {
	case lost(a) != lost(b):
		return lost(b)
	case m.isDue(a) && m.isDue(b) && !a.tested.Equal(b.tested):
		return a.tested.Before(b.tested)
	case m.isDue(a) != m.isDue(b):
		return m.isDue(a)
	default:
		return a.cooling.Before(b.cooling)
	}
}

// bench is how long a failure benches for.
func (m *machine) bench(v pool.Verdict, failures int) time.Duration {
	base, limit := time.Minute, 30*time.Minute
	switch v.Meaning {
	case pool.AuthFailed:
		base, limit = 5*time.Minute, 6*time.Hour
	case pool.QuotaExhausted:
		base, limit = time.Hour, 24*time.Hour
	}
	d := min(base<<min(failures-1, 10), limit)
	if v.Wait > 0 {
		d = min(max(v.Wait, time.Second), machineMaxCooldown)
	}
	if v.Repeated {
		d = min(d, base)
	}
	return d
}

func (m *machine) lapsed(r *modelRecord) bool {
	return !m.now.Before(r.parked) &&
		!slices.ContainsFunc(r.benches, func(b modelBench) bool { return m.now.Before(b.cooling) })
}

// prune forgets credentials that are gone once there are many.
func (m *machine) prune() {
	if len(m.records) <= 2*len(m.names) {
		return
	}
	maps.DeleteFunc(m.records, func(c modelCredential, r *modelRecord) bool {
		return c != m.credential(c.member) && m.lapsed(r)
	})
}

func (m *machine) parkModel(name string, d time.Duration) time.Time {
	r := m.writable(m.credential(name))
	if until := m.now.Add(d); until.After(r.parked) {
		r.parked = until
	}
	return r.parked
}

// restartModel forgets what is not saved.
func (m *machine) restartModel() {
	m.leases = nil
	for _, r := range m.records {
		r.benches = slices.DeleteFunc(r.benches, func(b modelBench) bool {
			return b.key != "" && b.failures == 0 && !m.now.Before(b.cooling)
		})
		for i := range r.benches {
			r.benches[i].tested, r.benches[i].stamp = time.Time{}, 0
		}
		slices.SortFunc(r.benches, func(a, b modelBench) int { return strings.Compare(a.key, b.key) })
	}
	maps.DeleteFunc(m.records, func(_ modelCredential, r *modelRecord) bool {
		return m.lapsed(r) && len(r.benches) == 1 && r.benches[0].failures == 0
	})
}

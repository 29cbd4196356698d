package pool_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

// TestPool_keepsItsRules does to a pool whatever can be done to one, in any
// order, and holds it against a model of its rules after each step.
func TestPool_keepsItsRules(t *testing.T) {
	for members := 1; members <= 4; members++ {
		t.Run(fmt.Sprint(members), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				m := newMachine(members)
				t.Repeat(map[string]func(*rapid.T){
					"":        m.check,
					"acquire": m.acquire,
					"other":   m.acquireOther,
					"succeed": m.succeed,
					"fail":    m.fail,
					"burst":   m.burst,
					"wait":    m.wait,
					"rotate":  m.rotate,
					"park":    m.park,
					"recover": m.recover,
					"missing": m.missing,
					"put":     m.put,
					"restart": m.restart,
				})
			})
		})
	}
}

const machineMaxCooldown = 24 * time.Hour

// machine is a pool and the model of it.
type machine struct {
	pool   *pool.Pool
	state  *pool.State
	now    time.Time
	events []pool.Event

	names    []string
	identity map[string]string // absent while missing
	last     map[string]string // the last identity that was not missing
	puts     int
	records  map[modelCredential]*modelRecord
	stamp    int // counts benches
	active   string
	out      map[string]bool      // told exhausted, by key
	outTold  map[string]time.Time // when it was last told
	leases   []modelLease
}

func newMachine(members int) *machine {
	m := &machine{
		now:      time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC),
		identity: make(map[string]string),
		last:     make(map[string]string),
		records:  make(map[modelCredential]*modelRecord),
		out:      make(map[string]bool),
		outTold:  make(map[string]time.Time),
	}
	for i := range members {
		m.names = append(m.names, string(rune('a'+i)))
	}
	m.start()
	for _, name := range m.names {
		m.give(name, "first")
	}
	return m
}

// start makes a new state and a pool over it, as a process does.
func (m *machine) start() {
	m.state = pool.NewState("test", func(e pool.Event) { m.events = append(m.events, e) })
	m.pool = pool.New(pool.Config{Members: m.names, MaxCooldown: machineMaxCooldown}, m.state)
}

func (m *machine) give(name, identity string) {
	if old, ok := m.identity[name]; ok && old != identity {
		delete(m.records, modelCredential{name, old})
	}
	m.identity[name], m.last[name] = identity, identity
	m.pool.SetCredential(name, identity)
}

// The actions.

func (m *machine) drawMember(t *rapid.T) string { return rapid.SampledFrom(m.names).Draw(t, "member") }

func drawRequest(t *rapid.T) string { return rapid.SampledFrom(requestKeys).Draw(t, "request") }

func (m *machine) hold(l pool.Lease, key string) {
	c := modelCredential{l.Member(), l.Identity()}
	m.leases = append(m.leases, modelLease{l, c, key, l.Usable(), m.isUsable(l.Member(), ""), m.stamp})
}

func (m *machine) acquire(t *rapid.T) {
	key := drawRequest(t)
	if l, ok := m.checkAcquire(t, key); ok {
		m.hold(l, key)
	}
}

// checkAcquire takes a lease, and reports whether there is one.
func (m *machine) checkAcquire(t *rapid.T, key string) (pool.Lease, bool) {
	m.settle()
	want := m.serves(key)
	if err := m.pool.Check(m.now, key); (err == nil) != (want != "") ||
		errors.Is(err, pool.ErrAllMissing) != (len(m.identity) == 0) {
		t.Fatalf("check: %v, %q serves", err, want)
	}
	l, err := m.pool.Acquire(m.now, key)
	if err != nil {
		if len(m.identity) > 0 {
			t.Fatalf("nothing to acquire: %v", err)
		}
		return l, false
	}
	name := l.Member()
	switch {
	case m.isMissing(name) || l.Identity() != m.identity[name]:
		t.Fatalf("handed out %s, which has no such credential", name)
	case l.Usable() != (want != ""):
		t.Fatalf("%s is called usable: %v, %q serves", name, l.Usable(), want)
	case l.Usable() && name != want:
		t.Fatalf("handed out %s for %q, not %s", name, key, want)
	case !l.Usable():
		m.checkLeastBad(t, name, key)
		m.checkTold(t, key)
	}
	return l, true
}

func (m *machine) checkLeastBad(t *rapid.T, name, key string) {
	b := m.holding(name, key)
	for _, other := range m.names {
		if m.isMissing(other) {
			continue
		}
		if m.lessBad(m.holding(other, key), b) {
			t.Fatalf("handed out %s for %q, though %s is less bad", name, key, other)
		}
	}
	if m.isDue(b) {
		b.tested = m.now
	}
}

// checkTold holds that the operator knows that nobody is left for the key.
func (m *machine) checkTold(t *rapid.T, key string) {
	m.checkEvents(t)
	if key == "" || m.out[""] || m.serves("") == "" {
		return
	}
	var last time.Time
	for bench, requests := range covered {
		if slices.Contains(requests, key) {
			if m.out[bench] {
				return
			}
			if at := m.outTold[bench]; at.After(last) {
				last = at
			}
		}
	}
	if m.now.Sub(last) >= 2*pool.DefaultNoticeWindow {
		t.Fatalf("nobody was told that the pool is exhausted for %q", key)
	}
}

func (m *machine) acquireOther(t *rapid.T) {
	m.settle()
	key := drawRequest(t)
	var tried []pool.Lease
	var names []string
	for _, l := range m.leases {
		if rapid.Bool().Draw(t, "tried") {
			tried = append(tried, l.Lease)
			if l.credential == m.credential(l.Member()) {
				names = append(names, l.Member())
			}
		}
	}
	want := m.serves(key, names...)
	l, ok := m.pool.AcquireOther(m.now, key, tried)
	if ok != (want != "") || (ok && l.Member() != want) {
		t.Fatalf("another one than %v: %v, want %q", names, ok, want)
	}
	if ok {
		m.hold(l, key)
	}
}

// takeLease draws a lease, old or new, and now and then gives it up.
func (m *machine) takeLease(t *rapid.T) modelLease {
	if len(m.leases) == 0 {
		t.Skip("no lease is held")
	}
	i := rapid.IntRange(0, len(m.leases)-1).Draw(t, "lease")
	l := m.leases[i]
	if len(m.leases) > 8 || rapid.Bool().Draw(t, "done") {
		m.leases = slices.Delete(m.leases, i, i+1)
	}
	return l
}

func (m *machine) succeed(t *rapid.T) {
	l := m.takeLease(t)
	m.settle()
	l.Report(m.now, pool.Verdict{Meaning: pool.OK})
	m.end(l)
	m.settle()
}

func (m *machine) fail(t *rapid.T) { m.failOne(t, m.takeLease(t)) }

// burst makes several attempts that fail one after the other. Without it few
// runs would see more than one member cooling.
func (m *machine) burst(t *rapid.T) {
	key := drawRequest(t)
	for range rapid.IntRange(1, 5).Draw(t, "attempts") {
		l, ok := m.checkAcquire(t, key)
		if !ok {
			return
		}
		m.hold(l, key)
		m.failOne(t, m.leases[len(m.leases)-1])
	}
}

func drawVerdict(t *rapid.T) pool.Verdict {
	v := pool.Verdict{
		Meaning: rapid.SampledFrom([]pool.Meaning{
			pool.RateLimited, pool.QuotaExhausted, pool.AuthFailed, pool.Overloaded, pool.RequestError,
		}).Draw(t, "meaning"),
		Wait: rapid.SampledFrom([]time.Duration{
			0, 0, -time.Hour, time.Millisecond, time.Minute, time.Hour, 48 * time.Hour,
		}).Draw(t, "wait"),
		Key:      rapid.SampledFrom([]string{"", "", "model:opus", "model:claude", "model", "resource:search"}).Draw(t, "key"),
		Reason:   rapid.SampledFrom([]string{"429", "401"}).Draw(t, "reason"),
		Repeated: rapid.IntRange(0, 3).Draw(t, "repeated") == 0,
		Served:   rapid.IntRange(0, 3).Draw(t, "served") == 0,
	}
	if v.Key != "" {
		v.Scope = pool.ScopeModel
	}
	return v
}

func (m *machine) failOne(t *rapid.T, l modelLease) {
	v := drawVerdict(t)
	l.Report(m.now, v)
	if !v.Meaning.Benches() {
		return
	}
	m.settle()
	if l.credential != m.credential(l.Member()) {
		return
	}
	if v.Served {
		m.end(l)
	}
	key, ready := v.Key, l.usable
	if name, ok := strings.CutPrefix(l.key, "model:"); key == "model" && ok {
		key = "model=" + name
	} else if key == "model" {
		key = ""
	}
	if key == "" {
		ready = l.ready
	}
	b := m.look(l.credential, key)
	switch cooling := m.now.Before(b.cooling); {
	case (ready || v.Served) && b.stamp <= l.taken && !cooling:
		m.prune()
		m.set(l.credential, key, v, m.bench(v, b.failures+1), true, !v.Repeated)
	case v.Wait > 0 && m.now.Add(m.bench(v, 1)).After(b.cooling):
		m.set(l.credential, key, v, m.bench(v, 1), !cooling, false)
	}
	m.settle()
}

func (m *machine) wait(t *rapid.T) {
	m.now = m.now.Add(rapid.SampledFrom([]time.Duration{
		time.Millisecond, time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, time.Hour, 26 * time.Hour,
	}).Draw(t, "for"))
	m.settle()
}

func (m *machine) rotate(t *rapid.T) {
	m.settle()
	to := rapid.SampledFrom(append([]string{"", "nobody"}, m.names...)).Draw(t, "to")
	from, told := m.active, len(m.events)
	target := to
	switch {
	case to == "":
		target = m.next("", from)
	case to != from && !m.isUsable(to, ""):
		target = ""
	}
	rot, err := m.pool.Rotate(m.now, to, time.Minute)
	switch {
	case (err != nil) != (target == ""):
		t.Fatalf("rotate from %q to %q: %v", from, to, err)
	case err != nil:
		return
	case rot.From != from || rot.To != target:
		t.Fatalf("rotated %+v, want from %q to %q", rot, from, target)
	case from == target:
		if len(m.events) > told && m.events[len(m.events)-1].Kind == pool.Rotated {
			t.Fatal("told a rotate that changed nothing")
		}
		return
	}
	if from != "" && !m.isMissing(from) {
		if until := m.parkModel(from, time.Minute); !rot.ParkedUntil.Equal(until) {
			t.Fatalf("%s parked until %v, want %v", from, rot.ParkedUntil, until)
		}
	}
	if r, ok := m.records[m.credential(target)]; ok && to != "" {
		r.parked = time.Time{}
	}
	m.active = target
}

func (m *machine) park(t *rapid.T) {
	m.settle()
	name := m.drawMember(t)
	d := rapid.SampledFrom([]time.Duration{time.Second, time.Minute, time.Hour}).Draw(t, "for")
	_, err := m.pool.Park(m.now, name, d, "lunch")
	if (err != nil) != m.isMissing(name) {
		t.Fatalf("park %s: %v", name, err)
	}
	if err != nil {
		return
	}
	m.parkModel(name, d)
	if name == m.active {
		if to := m.next(""); m.isReady(to, "") {
			m.active = to
		}
	}
}

func (m *machine) recover(t *rapid.T) {
	m.settle()
	name := m.drawMember(t)
	_, err := m.pool.Recover(m.now, name)
	if (err != nil) != m.isMissing(name) {
		t.Fatalf("recover %s: %v", name, err)
	}
	if r, ok := m.records[m.credential(name)]; ok && err == nil {
		r.parked = time.Time{}
		for i := range r.benches {
			r.benches[i].end()
		}
	}
	m.settle()
}

func (m *machine) missing(t *rapid.T) {
	name := m.drawMember(t)
	delete(m.identity, name)
	m.pool.SetMissing(name, "removed")
	m.settle()
}

func (m *machine) put(t *rapid.T) {
	name := m.drawMember(t)
	for _, n := range m.names {
		if m.isMissing(n) && rapid.Bool().Draw(t, "back") {
			name = n
		}
	}
	identity := m.last[name]
	if rapid.Bool().Draw(t, "another") {
		m.puts++
		identity = fmt.Sprint("put-", m.puts)
	}
	m.give(name, identity)
	m.settle()
}

// restart saves the state and goes on with a new one.
func (m *machine) restart(t *rapid.T) {
	d, _ := m.state.Document(m.now)
	data, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	if d, err = pool.ParseDocument(data); err != nil {
		t.Fatal(err)
	}
	m.start()
	m.state.Restore(d, m.now, machineMaxCooldown)
	for name, identity := range m.identity {
		m.pool.SetCredential(name, identity)
	}
	m.leases = nil
	m.restartModel()
}

// The invariants.

func (m *machine) check(t *rapid.T) {
	m.settle()
	st := m.pool.Status(m.now)
	if st.Active != m.active {
		t.Fatalf("active is %q, want %q", st.Active, m.active)
	}
	usable, cooling := 0, 0
	for _, got := range st.Members {
		r := m.record(m.credential(got.Name))
		want := pool.MemberStatus{State: pool.StateReady, Failures: r.benches[0].failures}
		switch {
		case m.isMissing(got.Name):
			want.State = pool.StateMissing
		case !m.isUsable(got.Name, ""):
			want.State, want.Until, want.Meaning = pool.StateCooling, r.benches[0].cooling, r.benches[0].meaning
			cooling++
		case m.isParked(got.Name):
			want.State, want.Until = pool.StateParked, r.parked
			usable++
		default:
			usable++
		}
		if got.State != want.State || !got.Until.Equal(want.Until) || got.Meaning != want.Meaning || got.Failures != want.Failures {
			t.Fatalf("member %+v, want %+v", got, want)
		}
		if got.Until.Sub(m.now) > machineMaxCooldown {
			t.Fatalf("%s is out for %v", got.Name, got.Until.Sub(m.now))
		}
		if got.Active != (got.Name == m.active) {
			t.Fatalf("member %+v, active is %s", got, m.active)
		}
		m.checkScopes(t, got)
	}
	for _, key := range requestKeys {
		m.checkAcquire(t, key)
	}
	m.checkEvents(t)
	if usable > 0 && m.out[""] {
		t.Fatal("nobody was told that the pool has recovered")
	}
	if usable == 0 && cooling > 0 && !m.out[""] && m.now.Sub(m.outTold[""]) >= 2*pool.DefaultNoticeWindow {
		t.Fatal("nobody was told that the pool is exhausted")
	}
	for bench, out := range m.out {
		if out && bench != "" && slices.ContainsFunc(covered[bench], func(key string) bool { return m.serves(key) != "" }) {
			t.Fatalf("nobody was told that the pool has recovered for %q", bench)
		}
	}
}

func (m *machine) checkScopes(t *rapid.T, got pool.MemberStatus) {
	var want []pool.ScopeStatus
	for _, b := range m.record(m.credential(got.Name)).benches[1:] {
		if m.now.Before(b.cooling) && !m.isMissing(got.Name) {
			want = append(want, pool.ScopeStatus{Key: b.key, Until: b.cooling, Reason: b.reason, Meaning: b.meaning, Failures: b.failures})
		}
	}
	slices.SortFunc(want, func(a, b pool.ScopeStatus) int { return strings.Compare(a.Key, b.Key) })
	if !slices.EqualFunc(got.Scopes, want, func(a, b pool.ScopeStatus) bool {
		sameTime := a.Until.Equal(b.Until)
		a.Until, b.Until = time.Time{}, time.Time{}
		return sameTime && a == b
	}) {
		t.Fatalf("%s is out for %+v, want %+v", got.Name, got.Scopes, want)
	}
}

func (m *machine) checkEvents(t *rapid.T) {
	for _, e := range m.events {
		switch e.Kind {
		case pool.Failover:
			if e.From == "" || e.To == "" || e.From == e.To || !e.Meaning.Benches() || e.Until.IsZero() {
				t.Fatalf("%+v", e)
			}
			if m.out[""] || m.out[e.Key] {
				t.Fatalf("a failover out of exhaustion: %+v", e)
			}
		case pool.Exhausted:
			if e.To != "" || e.First == "" || !e.Until.After(e.Time) || m.out[e.Key] {
				t.Fatalf("exhausted before: %v, %+v", m.out, e)
			}
			m.out[e.Key], m.outTold[e.Key] = true, e.Time
		case pool.Recovered:
			if e.To == "" || e.From != "" || !m.out[e.Key] {
				t.Fatalf("exhausted before: %v, %+v", m.out, e)
			}
			m.out[e.Key] = false
		case pool.Rotated:
			if e.From == e.To || e.Key != "" {
				t.Fatalf("%+v", e)
			}
		case pool.CredentialMissing:
			if e.From == "" || e.From == e.To || e.Meaning != "" {
				t.Fatalf("%+v", e)
			}
		case pool.Parked, pool.MemberRecovered:
			if e.From == "" || e.From == e.To {
				t.Fatalf("%+v", e)
			}
		default:
			t.Fatalf("unknown event %+v", e)
		}
	}
	m.events = nil
}

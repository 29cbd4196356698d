package pool_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
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

	names         []string
	identity      map[string]string // absent while missing
	last          map[string]string // the last identity that was not missing
	puts          int
	records       map[modelCredential]modelRecord
	active        string
	exhausted     bool
	exhaustedTold time.Time
	leases        []modelLease
}

type modelCredential struct{ member, identity string }

// modelRecord is comparable, so that two can be held against each other.
type modelRecord struct {
	cooling, parked time.Time
	meaning         pool.Meaning
	failures        int
	benches         int
}

type modelLease struct {
	pool.Lease
	credential modelCredential
	usable     bool
	benches    int
}

func newMachine(members int) *machine {
	m := &machine{
		now:      time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC),
		identity: make(map[string]string),
		last:     make(map[string]string),
		records:  make(map[modelCredential]modelRecord),
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

// The model.

func (m *machine) credential(name string) modelCredential {
	return modelCredential{name, m.identity[name]}
}

func (m *machine) isMissing(name string) bool { return m.identity[name] == "" }

func (m *machine) isCooling(name string) bool {
	return m.now.Before(m.records[m.credential(name)].cooling)
}

func (m *machine) isParked(name string) bool {
	return m.now.Before(m.records[m.credential(name)].parked)
}

func (m *machine) isUsable(name string) bool {
	return name != "" && !m.isMissing(name) && !m.isCooling(name)
}

func (m *machine) isReady(name string) bool { return m.isUsable(name) && !m.isParked(name) }

// next is where the pointer goes from the active member, never to one of those
// in not.
func (m *machine) next(not ...string) string {
	var refuge string
	at := slices.Index(m.names, m.active)
	for i := range m.names {
		name := m.names[(at+1+i)%len(m.names)]
		switch {
		case slices.Contains(not, name) || !m.isUsable(name):
		case m.isReady(name):
			return name
		case refuge == "" || m.records[m.credential(name)].parked.Before(m.records[m.credential(refuge)].parked):
			refuge = name
		}
	}
	return refuge
}

// settle moves the pointer off a member that can't serve.
func (m *machine) settle() {
	if m.isUsable(m.active) {
		return
	}
	if to := m.next(); to != "" {
		m.active = to
	}
}

// bench is how long a failure benches for.
func (m *machine) bench(meaning pool.Meaning, wait time.Duration, failures int) time.Duration {
	if wait > 0 {
		return min(max(wait, time.Second), machineMaxCooldown)
	}
	d, limit := time.Minute, 30*time.Minute
	switch meaning {
	case pool.AuthFailed:
		d, limit = 5*time.Minute, 6*time.Hour
	case pool.QuotaExhausted:
		d, limit = time.Hour, 24*time.Hour
	}
	return min(d<<min(failures-1, 10), limit)
}

// The actions.

func (m *machine) drawMember(t *rapid.T) string { return rapid.SampledFrom(m.names).Draw(t, "member") }

func (m *machine) hold(l pool.Lease) {
	c := modelCredential{l.Member(), l.Identity()}
	m.leases = append(m.leases, modelLease{l, c, l.Usable(), m.records[c].benches})
}

func (m *machine) acquire(t *rapid.T) {
	if l, ok := m.checkAcquire(t); ok {
		m.hold(l)
	}
}

// checkAcquire takes a lease, and reports whether there is one.
func (m *machine) checkAcquire(t *rapid.T) (pool.Lease, bool) {
	m.settle()
	l, err := m.pool.Acquire(m.now)
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
	case l.Usable() == m.isCooling(name):
		t.Fatalf("%s is called usable: %v", name, l.Usable())
	case l.Usable() && name != m.active:
		t.Fatalf("handed out %s, active is %s", name, m.active)
	case !l.Usable():
		m.checkLeastBad(t, name)
	}
	return l, true
}

func (m *machine) checkLeastBad(t *rapid.T, name string) {
	r := m.records[m.credential(name)]
	for _, other := range m.names {
		o := m.records[m.credential(other)]
		switch {
		case m.isMissing(other):
		case !m.isCooling(other):
			t.Fatalf("handed out %s, which is cooling, though %s is not", name, other)
		case rejected(r) && !rejected(o), rejected(r) == rejected(o) && o.cooling.Before(r.cooling):
			t.Fatalf("handed out %s, though %s is less bad", name, other)
		}
	}
}

func rejected(r modelRecord) bool { return r.meaning == pool.AuthFailed }

func (m *machine) acquireOther(t *rapid.T) {
	m.settle()
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
	want := m.active
	if !m.isUsable(want) || slices.Contains(names, want) {
		want = m.next(names...)
	}
	l, ok := m.pool.AcquireOther(m.now, tried)
	if ok != (want != "") || (ok && l.Member() != want) {
		t.Fatalf("another one than %v: %v, want %q", names, ok, want)
	}
	if ok {
		m.hold(l)
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
	if r, ok := m.records[l.credential]; ok && l.credential == m.credential(l.Member()) && r.benches == l.benches {
		r.cooling, r.failures, r.meaning = time.Time{}, 0, ""
		m.records[l.credential] = r
	}
	m.settle()
}

func (m *machine) fail(t *rapid.T) { m.failOne(t, m.takeLease(t)) }

// burst makes several attempts that fail one after the other. Without it few
// runs would see more than one member cooling.
func (m *machine) burst(t *rapid.T) {
	for range rapid.IntRange(1, 5).Draw(t, "attempts") {
		l, ok := m.checkAcquire(t)
		if !ok {
			return
		}
		m.hold(l)
		m.failOne(t, m.leases[len(m.leases)-1])
	}
}

func (m *machine) failOne(t *rapid.T, l modelLease) {
	meaning := rapid.SampledFrom([]pool.Meaning{
		pool.RateLimited, pool.QuotaExhausted, pool.AuthFailed, pool.Overloaded, pool.RequestError,
	}).Draw(t, "meaning")
	wait := rapid.SampledFrom([]time.Duration{
		0, 0, -time.Hour, time.Millisecond, time.Minute, time.Hour, 48 * time.Hour,
	}).Draw(t, "wait")
	reason := rapid.SampledFrom([]string{"429", "401"}).Draw(t, "reason")
	l.Report(m.now, pool.Verdict{Meaning: meaning, Wait: wait, Reason: reason})
	if !meaning.Benches() {
		return
	}
	m.settle()
	if l.credential != m.credential(l.Member()) {
		return
	}
	r := m.records[l.credential]
	until := m.now.Add(m.bench(meaning, wait, r.failures+1))
	switch {
	case l.usable && l.benches == r.benches:
		m.prune()
		r.failures++
		r.benches++
		r.meaning = meaning
		if until.After(r.cooling) {
			r.cooling = until
		}
		m.records[l.credential] = r
	case wait > 0 && until.After(r.cooling):
		if !m.now.Before(r.cooling) {
			r.benches++
		}
		r.cooling, r.meaning = until, meaning
		m.records[l.credential] = r
	}
	m.settle()
}

// prune forgets credentials that are gone once there are many.
func (m *machine) prune() {
	if len(m.records) <= 2*len(m.names) {
		return
	}
	maps.DeleteFunc(m.records, func(c modelCredential, r modelRecord) bool {
		return c != m.credential(c.member) && !m.now.Before(r.cooling) && !m.now.Before(r.parked)
	})
}

func (m *machine) wait(t *rapid.T) {
	m.now = m.now.Add(rapid.SampledFrom([]time.Duration{
		time.Millisecond, time.Second, 30 * time.Second, time.Minute, 5 * time.Minute, time.Hour, 26 * time.Hour,
	}).Draw(t, "for"))
	m.settle()
}

func (m *machine) parkModel(name string, d time.Duration) time.Time {
	r := m.records[m.credential(name)]
	if until := m.now.Add(d); until.After(r.parked) {
		r.parked = until
	}
	m.records[m.credential(name)] = r
	return r.parked
}

func (m *machine) rotate(t *rapid.T) {
	m.settle()
	to := rapid.SampledFrom(append([]string{"", "nobody"}, m.names...)).Draw(t, "to")
	from, told := m.active, len(m.events)
	target := to
	switch {
	case to == "":
		target = m.next(from)
	case to != from && !m.isUsable(to):
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
		m.records[m.credential(target)] = r
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
		if to := m.next(); m.isReady(to) {
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
		m.records[m.credential(name)] = modelRecord{benches: r.benches}
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
	maps.DeleteFunc(m.records, func(_ modelCredential, r modelRecord) bool {
		return r.failures == 0 && !m.now.Before(r.cooling) && !m.now.Before(r.parked)
	})
	for c, r := range m.records {
		// Whether a bench has just ended or never was is the same to a new one.
		r.benches = 0
		if m.now.Before(r.cooling) {
			r.benches = 1
		}
		m.records[c] = r
	}
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
		r := m.records[m.credential(got.Name)]
		want := pool.MemberStatus{State: pool.StateReady, Failures: r.failures}
		switch {
		case m.isMissing(got.Name):
			want.State = pool.StateMissing
		case m.isCooling(got.Name):
			want.State, want.Until, want.Meaning = pool.StateCooling, r.cooling, r.meaning
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
	}
	m.checkAcquire(t)
	m.checkEvents(t)
	if usable > 0 && m.exhausted {
		t.Fatal("nobody was told that the pool has recovered")
	}
	if usable == 0 && cooling > 0 && !m.exhausted && m.now.Sub(m.exhaustedTold) >= 2*pool.DefaultNoticeWindow {
		t.Fatal("nobody was told that the pool is exhausted")
	}
}

func (m *machine) checkEvents(t *rapid.T) {
	for _, e := range m.events {
		switch e.Kind {
		case pool.Failover:
			if e.From == "" || e.To == "" || e.From == e.To || !e.Meaning.Benches() || e.Until.IsZero() {
				t.Fatalf("%+v", e)
			}
			if m.exhausted {
				t.Fatalf("a failover out of exhaustion: %+v", e)
			}
		case pool.Exhausted:
			if e.To != "" || e.First == "" || !e.Until.After(e.Time) || m.exhausted {
				t.Fatalf("exhausted before: %v, %+v", m.exhausted, e)
			}
			m.exhausted, m.exhaustedTold = true, e.Time
		case pool.Recovered:
			if e.To == "" || e.From != "" || !m.exhausted {
				t.Fatalf("exhausted before: %v, %+v", m.exhausted, e)
			}
			m.exhausted = false
		case pool.Rotated:
			if e.From == e.To {
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

package pool_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

// machine drives a pool at random and holds it to its rules.
type machine struct {
	*bed
	names    []string
	leases   []pool.Lease
	before   map[string]pool.MemberStatus // after the last step
	mayClear map[string]bool              // members whose bench may end early in this step
	seen     int                          // events looked at
	puts     int
}

func (m *machine) member(t *rapid.T) string { return rapid.SampledFrom(m.names).Draw(t, "member") }

func (m *machine) acquireOne(t *rapid.T) {
	l, err := m.Acquire(m.now)
	if err != nil {
		for _, st := range m.Status(m.now).Members {
			if st.State != pool.StateMissing {
				t.Fatalf("nobody is handed out, but %s is %s", st.Name, st.State)
			}
		}
		return
	}
	st := m.Status(m.now).Members[l.Position()]
	if st.State == pool.StateMissing {
		t.Fatalf("%s is handed out and missing", st.Name)
	}
	if l.Usable() != (st.State != pool.StateCooling) {
		t.Fatalf("%s is %s, usable %v", st.Name, st.State, l.Usable())
	}
	if l.Usable() && !st.Active {
		t.Fatalf("%s is handed out, and another one is active", st.Name)
	}
	m.leases = append(m.leases, l)
}

func (m *machine) report(t *rapid.T) {
	if len(m.leases) == 0 {
		return
	}
	l := rapid.SampledFrom(m.leases).Draw(t, "lease")
	meaning := rapid.SampledFrom([]pool.Meaning{
		pool.OK, pool.RateLimited, pool.QuotaExhausted, pool.AuthFailed, pool.Overloaded, pool.RequestError,
	}).Draw(t, "meaning")
	wait := time.Duration(rapid.SampledFrom([]int{0, 0, 1, 60, 3600, 30 * 24 * 3600}).Draw(t, "wait")) * time.Second
	m.mayClear[l.Member()] = meaning == pool.OK
	l.Report(m.now, pool.Verdict{Meaning: meaning, Wait: wait, Reason: "test"})
}

func (m *machine) check(t *rapid.T) {
	st := m.Status(m.now)
	usable, active := 0, 0
	for _, now := range st.Members {
		if now.State == pool.StateReady || now.State == pool.StateParked {
			usable++
		}
		if now.Active {
			active++
		}
		if now.Until.Sub(m.now) > pool.DefaultMaxCooldown {
			t.Fatalf("%s until %v", now.Name, now.Until)
		}
		before, known := m.before[now.Name]
		if known && before.State == pool.StateCooling && before.Until.After(m.now) && !m.mayClear[now.Name] &&
			now.State != pool.StateMissing && (now.State != pool.StateCooling || now.Until.Before(before.Until)) {
			t.Fatalf("the bench of %s until %v ended early: %+v", now.Name, before.Until, now)
		}
		m.before[now.Name] = now
	}
	if active > 1 || (usable > 0 && (st.Active == "" || m.before[st.Active].State == pool.StateCooling || m.before[st.Active].State == pool.StateMissing)) {
		t.Fatalf("%d usable, %d active: %+v", usable, active, st)
	}
	for _, e := range m.events[m.seen:] {
		switch {
		case e.Kind == pool.Failover && (e.From == "" || e.To == "" || e.From == e.To):
			t.Fatalf("failover %+v", e)
		case e.Kind == pool.Exhausted && (e.To != "" || e.First == "" || e.Until.Before(e.Time)):
			t.Fatalf("exhausted %+v", e)
		case e.Kind == pool.Recovered && e.To == "":
			t.Fatalf("recovered %+v", e)
		}
	}
	m.seen = len(m.events)
	if out := m.Outlook(m.now); usable == 0 && out.First != "" && !out.Until.After(m.now) {
		t.Fatalf("outlook %+v", out)
	}
	clear(m.mayClear)
}

func TestPool_holdsItsRulesWhateverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{before: make(map[string]pool.MemberStatus), mayClear: make(map[string]bool)}
		for i := range rapid.IntRange(1, 4).Draw(t, "members") {
			m.names = append(m.names, fmt.Sprint("m", i))
		}
		m.bed = newBedFor(m.names)
		t.Repeat(map[string]func(*rapid.T){
			"acquire": m.acquireOne,
			"report":  m.report,
			"wait": func(t *rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.IntRange(1, 5000).Draw(t, "seconds")) * time.Second)
			},
			"rotate": func(t *rapid.T) {
				to := ""
				if rapid.Bool().Draw(t, "named") {
					to = m.member(t)
				}
				active := m.Status(m.now).Active
				rot, err := m.Rotate(m.now, to, time.Minute)
				if err == nil && to == "" && rot.To == active {
					t.Fatalf("rotated from %s to itself", active)
				}
				if err == nil && m.Status(m.now).Active != rot.To {
					t.Fatalf("rotated to %s, but %s is active", rot.To, m.Status(m.now).Active)
				}
			},
			"park": func(t *rapid.T) { _, _ = m.Park(m.now, m.member(t), time.Hour, "") },
			"recover": func(t *rapid.T) {
				name := m.member(t)
				m.mayClear[name] = true
				_, _ = m.Recover(m.now, name)
			},
			"remove": func(t *rapid.T) { m.SetMissing(m.member(t), "removed") },
			"put": func(t *rapid.T) {
				name := m.member(t)
				m.puts++
				m.mayClear[name] = true
				m.SetCredential(name, fmt.Sprint("put", m.puts))
			},
			"restart": func(*rapid.T) {
				d, _ := m.state.Document(m.now)
				identities := m.identities()
				restarted := newBedFor(m.names)
				restarted.now = m.now
				restarted.state.Restore(d, m.now, 0)
				for _, name := range m.names {
					if id, ok := identities[name]; ok {
						restarted.SetCredential(name, id)
					} else {
						restarted.SetMissing(name, "removed")
					}
				}
				m.bed, m.leases, m.seen = restarted, nil, 0
			},
			"": m.check,
		})
	})
}

// identities are those that the members would have after a restart.
func (m *machine) identities() map[string]string {
	ids := make(map[string]string)
	for _, st := range m.Status(m.now).Members {
		if st.State == pool.StateMissing {
			continue
		}
		var tried []pool.Lease
		for {
			l, ok := m.AcquireOther(m.now, tried)
			if !ok {
				break
			}
			ids[l.Member()] = l.Identity()
			tried = append(tried, l)
		}
	}
	d, _ := m.state.Document(m.now)
	for _, r := range d.Records {
		if m.before[r.Member].State == pool.StateCooling {
			ids[r.Member] = r.Identity
		}
	}
	return ids
}

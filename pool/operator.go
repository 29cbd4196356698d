package pool

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// MemberState is what a member is doing.
type MemberState string

// The states of a member. Missing outranks cooling, which outranks parked.
const (
	StateReady   MemberState = "ready"
	StateCooling MemberState = "cooling"
	StateParked  MemberState = "parked"
	StateMissing MemberState = "missing"
)

// MemberStatus is what the operator sees of a member.
type MemberStatus struct {
	Name     string
	Position int // in the pool's order, from 0
	Active   bool
	State    MemberState

	// Reason is why the member is in that state: the verdict's for cooling, the
	// operator's own words for parked, what is wrong for missing.
	Reason  string
	Meaning Meaning // of the verdict, for cooling

	// Until is when the state ends; zero for ready and missing.
	Until time.Time

	// Failures counts failures in a row.
	Failures int

	// Scopes are the keys that the member is benched for, sorted, at most 32.
	// Its state is about all other requests.
	Scopes []ScopeStatus
}

// ScopeStatus is a bench for one key. See [Verdict] for the keys.
type ScopeStatus struct {
	Key      string
	Until    time.Time
	Reason   string
	Meaning  Meaning
	Failures int
}

// Status is what the operator sees of a pool.
type Status struct {
	Name    string
	Active  string // empty before the first member was ready
	Members []MemberStatus
}

// Status returns the pool as it is at that time.
func (p *Pool) Status(now time.Time) Status {
	p.state.mu.Lock()
	defer p.state.mu.Unlock()
	p.settle(now)
	st := Status{Name: p.state.name, Members: make([]MemberStatus, len(p.members))}
	for i := range p.members {
		st.Members[i] = p.status(i, now)
		if st.Members[i].Active {
			st.Active = p.members[i].name
		}
	}
	return st
}

func (p *Pool) status(i int, now time.Time) MemberStatus {
	m := p.members[i]
	r := p.state.look(p.credential(i))
	st := MemberStatus{
		Name:     m.name,
		Position: i,
		Active:   m.name == p.state.active,
		State:    StateReady,
		Failures: r.failures,
	}
	switch {
	case m.identity == "":
		st.State, st.Reason = StateMissing, m.missing
	case r.cooling(now):
		st.State, st.Reason, st.Meaning, st.Until = StateCooling, r.reason, r.meaning, r.coolingUntil
	case r.parked(now):
		st.State, st.Reason, st.Until = StateParked, r.parkReason, r.parkedUntil
	}
	if m.identity != "" {
		st.Scopes = r.scopeStatus(now)
	}
	return st
}

func (r *record) scopeStatus(now time.Time) []ScopeStatus {
	var sts []ScopeStatus
	for _, s := range r.scopes {
		if s.cooling(now) {
			sts = append(sts, ScopeStatus{s.key, s.coolingUntil, s.reason, s.meaning, s.failures})
		}
	}
	slices.SortFunc(sts, func(a, b ScopeStatus) int { return cmp.Compare(a.Key, b.Key) })
	return sts
}

// Outlook is when an exhausted pool will serve again.
type Outlook struct {
	// First is the member that is back first, at Until; empty if all are
	// missing.
	First string
	Until time.Time

	// NeedsOperator is true if no member comes back by waiting: each one is
	// missing or out for [AuthFailed].
	NeedsOperator bool
}

// Outlook says when the first member is back for requests with that key.
func (p *Pool) Outlook(now time.Time, key string) Outlook {
	p.state.mu.Lock()
	defer p.state.mu.Unlock()
	i := p.soonest(now, key)
	if i < 0 {
		return Outlook{NeedsOperator: true}
	}
	b := p.holding(i, now, key)
	return Outlook{p.members[i].name, b.coolingUntil, rejected(b)}
}

// Rotation is what a rotate did.
type Rotation struct {
	From, To string

	// ParkedUntil is when From is back; zero if it was not parked.
	ParkedUntil time.Time
}

// Rotate parks the active member for that long (0: the pool's ParkFor; at most
// [MaxPark]) and moves on: to the member named, whose own park ends, or if to is
// empty to the next ready one, else the parked one soonest back. Benches for
// single keys do not count. Naming the active member changes nothing. It fails
// with [ErrUnknownMember], or with [ErrConflict] if the member named is cooling
// or missing, or if there is nobody to move to.
func (p *Pool) Rotate(now time.Time, to string, parkFor time.Duration) (Rotation, error) {
	s := p.state
	s.mu.Lock()
	defer s.mu.Unlock()
	p.settle(now)
	from := p.index(s.active)
	target, err := p.rotateTarget(from, to, now)
	if err != nil {
		return Rotation{}, err
	}
	if target == from {
		return Rotation{From: s.active, To: s.active}, nil
	}
	rot := Rotation{To: p.members[target].name}
	if from >= 0 {
		rot.From = s.active
		if p.members[from].identity != "" {
			rot.ParkedUntil = s.park(p.credential(from), p.parkUntil(now, parkFor), "rotated")
		}
	}
	if to != "" {
		s.unpark(p.credential(target))
	}
	s.advance(rot.To)
	s.emit(Event{Kind: Rotated, Time: now, From: rot.From, To: rot.To, Reason: "operator", Until: rot.ParkedUntil}, p.cfg.NoticeWindow)
	p.settle(now)
	return rot, nil
}

// rotateTarget returns the member that a rotate away from the one at from
// moves to.
func (p *Pool) rotateTarget(from int, to string, now time.Time) (int, error) {
	if to == "" {
		var not []Lease
		if from >= 0 {
			not = []Lease{{p, p.take(from, now, ""), ""}}
		}
		i := p.next(from, now, "", not)
		if i < 0 {
			return -1, fmt.Errorf("%w: no other member is ready or parked", ErrConflict)
		}
		return i, nil
	}
	i := p.index(to)
	if i < 0 {
		return -1, unknownMember(to)
	}
	if i == from {
		return i, nil
	}
	switch st := p.status(i, now); st.State {
	case StateMissing:
		return -1, missingConflict(st)
	case StateCooling:
		return -1, fmt.Errorf("%w: member %q is cooling until %s; recover it first", ErrConflict, to, st.Until.UTC().Format(time.RFC3339))
	default:
		return i, nil
	}
}

// Park sets a member aside for that long (0: the pool's ParkFor; at most
// [MaxPark]). If it is
// active, the pointer moves at once if anyone is ready. It fails with
// [ErrUnknownMember], or with [ErrConflict] if the member is missing.
func (p *Pool) Park(now time.Time, name string, parkFor time.Duration, reason string) (MemberStatus, error) {
	s := p.state
	s.mu.Lock()
	defer s.mu.Unlock()
	p.settle(now)
	i, err := p.present(name, now)
	if err != nil {
		return MemberStatus{}, err
	}
	e := Event{Kind: Parked, Time: now, From: name, Reason: reason}
	e.Until = s.park(p.credential(i), p.parkUntil(now, parkFor), reason)
	if name == s.active {
		if to := p.next(i, now, "", nil); to >= 0 && p.status(to, now).State == StateReady {
			e.To = p.members[to].name
			s.advance(e.To)
		}
	}
	s.emit(e, p.cfg.NoticeWindow)
	return p.status(i, now), nil
}

// Recover ends a member's coolings, park and rows of failures. It fails with
// [ErrUnknownMember], or with [ErrConflict] if the member is missing.
func (p *Pool) Recover(now time.Time, name string) (MemberStatus, error) {
	s := p.state
	s.mu.Lock()
	defer s.mu.Unlock()
	p.settle(now)
	i, err := p.present(name, now)
	if err != nil {
		return MemberStatus{}, err
	}
	if s.recover(p.credential(i)) {
		s.emit(Event{Kind: MemberRecovered, Time: now, From: name, Reason: "operator"}, p.cfg.NoticeWindow)
	}
	p.settle(now)
	return p.status(i, now), nil
}

func (p *Pool) parkUntil(now time.Time, parkFor time.Duration) time.Time {
	return now.Add(min(orDefault(parkFor, p.cfg.ParkFor), MaxPark))
}

// present returns the position of a member that has a credential.
func (p *Pool) present(name string, now time.Time) (int, error) {
	i := p.index(name)
	if i < 0 {
		return -1, unknownMember(name)
	}
	if st := p.status(i, now); st.State == StateMissing {
		return -1, missingConflict(st)
	}
	return i, nil
}

func missingConflict(st MemberStatus) error {
	return fmt.Errorf("%w: member %q has no usable credential: %s", ErrConflict, st.Name, st.Reason)
}

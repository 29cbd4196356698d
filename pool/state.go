package pool

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// State is what is known about a pool and outlives its configuration: benches,
// failures in a row, the active pointer, and whether the operator was told
// that the pool is exhausted. It is safe for concurrent use.
//
// Everything that changes is written through four operations: bench, park,
// recover and advance.
type State struct {
	name string
	tell func(Event)

	mu        sync.Mutex
	active    string // a member's name; it may be one that the configuration no longer has
	exhausted bool
	records   map[credential]*record

	// missingTold is the active member whose missing credential was told.
	missingTold string

	// told holds when each event was last told; suppressed counts those that
	// were held back since the last one told.
	told       map[episode]time.Time
	suppressed int

	// recovered is when a recovery was last told, and untold since when the pool
	// is exhausted without that being told; zero if it was.
	recovered, untold time.Time

	// version moves with every change that a seat could depend on, revision
	// with every change that is worth saving.
	version  atomic.Uint64
	revision atomic.Uint64
}

// credential names one credential in one member's seat. A member whose secret
// was replaced is another credential, with a clean record.
type credential struct{ member, identity string }

// record is what is known about one credential. Its zero value is a clean one.
type record struct {
	coolingUntil time.Time
	meaning      Meaning
	reason       string

	parkedUntil time.Time
	parkReason  string

	// failures counts failures in a row.
	failures int

	// epoch counts benches, so that a lease can tell whether the member was
	// benched since it was taken.
	epoch uint64
}

func (r *record) cooling(now time.Time) bool { return now.Before(r.coolingUntil) }
func (r *record) parked(now time.Time) bool  { return now.Before(r.parkedUntil) }

// lapsed reports whether the record no longer keeps the member from anything.
func (r *record) lapsed(now time.Time) bool { return !r.cooling(now) && !r.parked(now) }

// episode is what makes two events the same one.
type episode struct {
	kind             EventKind
	from, to, reason string
}

// NewState makes the empty state of the pool of that name. tell is given each
// event in order. It is called with the state locked, so it must not block and
// must not call back; nil drops events.
func NewState(name string, tell func(Event)) *State {
	if tell == nil {
		tell = func(Event) {}
	}
	return &State{
		name:    name,
		tell:    tell,
		records: make(map[credential]*record),
		told:    make(map[episode]time.Time),
	}
}

// Revision moves with every change that is worth saving.
func (s *State) Revision() uint64 { return s.revision.Load() }

// bench sets a cooling for a further failure in a row. It never shortens the
// one that runs.
func (s *State) bench(c credential, until time.Time, v Verdict) {
	r := s.record(c)
	r.failures++
	r.epoch++
	if until.After(r.coolingUntil) {
		r.coolingUntil = until
	}
	r.meaning, r.reason = v.Meaning, v.Reason
	s.changed()
}

// lengthen makes a running cooling longer, or sets one after the last has
// ended, by evidence from an attempt that does not count as a further failure.
func (s *State) lengthen(c credential, until, now time.Time, v Verdict) {
	r := s.record(c)
	if !until.After(r.coolingUntil) {
		return
	}
	if !r.cooling(now) {
		r.epoch++
	}
	r.coolingUntil = until
	r.meaning, r.reason = v.Meaning, v.Reason
	s.changed()
}

// park sets a member aside. It never shortens the park that runs.
func (s *State) park(c credential, until time.Time, reason string) time.Time {
	r := s.record(c)
	if until.After(r.parkedUntil) {
		r.parkedUntil, r.parkReason = until, reason
		s.changed()
	}
	return r.parkedUntil
}

// unpark ends a park.
func (s *State) unpark(c credential) {
	if r := s.records[c]; r != nil && !r.parkedUntil.IsZero() {
		r.parkedUntil, r.parkReason = time.Time{}, ""
		s.changed()
	}
}

// success ends a cooling and the row of failures. It reports whether that
// changed anything.
func (s *State) success(c credential) bool {
	r := s.records[c]
	if r == nil || (r.failures == 0 && r.coolingUntil.IsZero()) {
		return false
	}
	r.failures, r.coolingUntil, r.meaning, r.reason = 0, time.Time{}, "", ""
	s.changed()
	return true
}

// recover ends a cooling, a park and the row of failures. It reports whether
// that changed anything.
func (s *State) recover(c credential) bool {
	cooled := s.success(c)
	parked := s.records[c] != nil && !s.records[c].parkedUntil.IsZero()
	s.unpark(c)
	return cooled || parked
}

// advance moves the active pointer.
func (s *State) advance(member string) {
	if s.active != member {
		s.active = member
		s.changed()
	}
}

// setExhausted enters or leaves the exhausted edge.
func (s *State) setExhausted(exhausted bool) {
	if s.exhausted != exhausted {
		s.exhausted = exhausted
		s.changed()
	}
}

// forget drops what is known about a credential that was replaced.
func (s *State) forget(c credential) {
	if _, ok := s.records[c]; ok {
		delete(s.records, c)
		s.changed()
	}
}

func (s *State) changed() {
	s.version.Add(1)
	s.revision.Add(1)
}

// record returns the record of a credential, for writing.
func (s *State) record(c credential) *record {
	r := s.records[c]
	if r == nil {
		r = new(record)
		s.records[c] = r
	}
	return r
}

// look returns a copy of the record of a credential, for reading.
func (s *State) look(c credential) record {
	if r := s.records[c]; r != nil {
		return *r
	}
	return record{}
}

// prune drops records that keep nobody from anything and that keep does not
// want, so that credentials replaced by new configurations don't pile up.
func (s *State) prune(now time.Time, keep func(credential) bool) {
	maps.DeleteFunc(s.records, func(c credential, r *record) bool {
		return r.lapsed(now) && !keep(c)
	})
}

// emit tells an event, unless the same one was told within window. What the
// operator did is always told, and starts new episodes. So does a recovery, but
// only once within window: a pool that an API refuses in one place and serves in
// another can be exhausted and recover with every request.
func (s *State) emit(e Event, window time.Duration) {
	switch e.Kind {
	case Rotated, Parked, MemberRecovered:
		clear(s.told)
	case Recovered:
		if !s.untold.IsZero() { // what it ends was not told
			s.untold = time.Time{}
			s.suppressed++
			return
		}
		if e.Time.Sub(s.recovered) >= window {
			clear(s.told)
		}
		s.recovered = e.Time
	case Failover, Exhausted, CredentialMissing:
		if s.toldBefore(e, window) {
			s.suppressed++
			return
		}
	}
	e.Pool = s.name
	e.Suppressed, s.suppressed = s.suppressed, 0
	s.tell(e)
}

// toldBefore reports whether the same event was told within window, and notes
// that it is told now if not.
func (s *State) toldBefore(e Event, window time.Duration) bool {
	maps.DeleteFunc(s.told, func(_ episode, at time.Time) bool { return e.Time.Sub(at) >= window })
	k := episode{e.Kind, e.From, e.To, e.Reason}
	_, again := s.told[k]
	if !again {
		s.told[k] = e.Time
	}
	if e.Kind == Exhausted {
		s.untold = time.Time{}
		if again {
			s.untold = e.Time
		}
	}
	return again
}

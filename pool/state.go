package pool

import (
	"maps"
	"slices"
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

	mu      sync.Mutex
	active  string // a member's name; it may be one that the configuration no longer has
	records map[credential]*record

	// benches counts the benches that have begun.
	benches uint64

	// edges is whether the pool is exhausted, by key; the empty one is the whole
	// pool's and always there.
	edges map[string]*edge

	// missingTold is the active member whose missing credential was told.
	missingTold string

	// told holds when each event was last told; suppressed counts those that
	// were held back since the last one told.
	told       map[episode]time.Time
	suppressed int

	// version moves with every change that a seat could depend on, revision
	// with every change that is worth saving.
	version  atomic.Uint64
	revision atomic.Uint64
}

// credential names one credential in one member's seat. A member whose secret
// was replaced is another credential, with a clean record.
type credential struct{ member, identity string }

// among reports whether one of the leases is for the credential.
func (c credential) among(leases []Lease) bool {
	return slices.ContainsFunc(leases, func(l Lease) bool {
		return l.seat.member == c.member && l.seat.identity == c.identity
	})
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
		edges:   map[string]*edge{"": {}},
		told:    make(map[episode]time.Time),
	}
}

// Revision moves with every change that is worth saving.
func (s *State) Revision() uint64 { return s.revision.Load() }

// bench sets a cooling, of the whole member or of one key, for a further
// failure in a row. It never shortens the one that runs.
func (s *State) bench(c credential, key string, until, now time.Time, v Verdict) {
	b := s.record(c).of(key, now)
	if !v.Repeated {
		b.failures++
	}
	b.epoch = s.nextBench()
	b.set(until, v)
	s.changed()
}

// lengthen makes a running cooling longer, or sets one after the last has
// ended, by evidence from an attempt that does not count as a further failure.
func (s *State) lengthen(c credential, key string, until, now time.Time, v Verdict) {
	if b := s.records[c].look(key); !until.After(b.coolingUntil) {
		return
	}
	b := s.record(c).of(key, now)
	if !b.cooling(now) {
		b.epoch = s.nextBench()
	}
	b.set(until, v)
	s.changed()
}

func (s *State) nextBench() uint64 {
	s.benches++
	return s.benches
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

// success ends what a request with that key has shown to be over, of the
// benches that began no later than epoch: that of the whole member and those
// for the key, with their rows of failures.
func (s *State) success(c credential, key string, epoch uint64) {
	s.end(c, epoch, func(bench string) bool { return covers(bench, key) })
}

// recover ends every cooling, the park and the rows of failures. It reports
// whether that changed anything.
func (s *State) recover(c credential) bool {
	cooled := s.end(c, s.benches, func(string) bool { return true })
	parked := s.records[c] != nil && !s.records[c].parkedUntil.IsZero()
	s.unpark(c)
	return cooled || parked
}

// end ends the benches that began no later than epoch: the whole member's and
// those for the keys that are wanted.
func (s *State) end(c credential, epoch uint64, wanted func(key string) bool) bool {
	r := s.records[c]
	if r == nil {
		return false
	}
	ended := r.epoch <= epoch && r.end()
	for i := range r.scopes {
		if b := &r.scopes[i]; b.epoch <= epoch && wanted(b.key) && b.end() {
			ended = true
		}
	}
	if ended {
		s.changed()
	}
	return ended
}

// advance moves the active pointer.
func (s *State) advance(member string) {
	if s.active != member {
		s.active = member
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

package pool

import (
	"cmp"
	"slices"
	"time"
)

// Benches that have long to go are tested again: providers lift blocks early,
// and a wait of days can be wrong.
const (
	// longBench is how much is still to go of a bench that is worth a test. One
	// that ends sooner is waited for.
	longBench = 15 * time.Minute
	// testEvery is how often one bench is tested at most.
	testEvery = 15 * time.Minute
)

// bench is a cooling and the row of failures that led to it, of a whole member
// or of one key of it. Its zero value is a clean one.
type bench struct {
	coolingUntil time.Time
	meaning      Meaning
	reason       string
	repeated     bool // see Verdict.Repeated

	// failures counts failures in a row.
	failures int

	// epoch is the state's count of benches when this one began, so that a lease
	// can tell whether it began since the lease was taken.
	epoch uint64

	// tested is when a request was last sent out to see whether it still holds.
	// It is not saved: after a restart each one is worth a test.
	tested time.Time
}

func (b *bench) cooling(now time.Time) bool { return now.Before(b.coolingUntil) }

// clean reports whether a success would change nothing.
func (b *bench) clean() bool { return b.failures == 0 && b.coolingUntil.IsZero() }

// due reports whether it is time to see whether it still holds.
func (b *bench) due(now time.Time) bool {
	return b.coolingUntil.Sub(now) > longBench && now.Sub(b.tested) >= testEvery
}

// set takes over a verdict, for as long as until. It never shortens.
func (b *bench) set(until time.Time, v Verdict) {
	if until.After(b.coolingUntil) {
		b.coolingUntil = until
	}
	b.meaning, b.reason, b.repeated = v.Meaning, v.Reason, v.Repeated
}

// end ends the cooling and the row of failures, and reports whether that
// changed anything.
func (b *bench) end() bool {
	if b.clean() {
		return false
	}
	*b = bench{epoch: b.epoch, tested: b.tested}
	return true
}

// record is what is known about one credential. Its zero value is a clean one.
type record struct {
	bench // of the whole member

	parkedUntil time.Time
	parkReason  string

	// scopes are the benches for single keys, at most maxScopes. One that has
	// ended stays as long as there is room, for its row of failures and for
	// leases from before.
	scopes []scope

	// dropped is the highest epoch of those that had to go.
	dropped uint64
}

// scope is the bench for one key.
type scope struct {
	key string
	bench
}

func (r *record) parked(now time.Time) bool { return now.Before(r.parkedUntil) }

// lapsed reports whether the record no longer keeps the member from anything.
func (r *record) lapsed(now time.Time) bool {
	return !r.cooling(now) && !r.parked(now) &&
		!slices.ContainsFunc(r.scopes, func(s scope) bool { return s.cooling(now) })
}

// holding returns the bench that keeps the member longest from requests with
// that key; nil if none does.
func (r *record) holding(key string, now time.Time) *bench {
	if r == nil {
		return nil
	}
	var longest *bench
	if r.cooling(now) {
		longest = &r.bench
	}
	for i := range r.scopes {
		s := &r.scopes[i]
		if s.cooling(now) && covers(s.key, key) && (longest == nil || s.coolingUntil.After(longest.coolingUntil)) {
			longest = &s.bench
		}
	}
	return longest
}

// look returns a copy of the bench for that key, or of the whole member's if
// the key is empty.
func (r *record) look(key string) bench {
	switch i := r.scope(key); {
	case r == nil:
		return bench{}
	case key == "":
		return r.bench
	case i < 0:
		return bench{epoch: r.dropped}
	default:
		return r.scopes[i].bench
	}
}

// scope returns the position of the bench for that key; -1 if there is none.
func (r *record) scope(key string) int {
	if r == nil {
		return -1
	}
	return slices.IndexFunc(r.scopes, func(s scope) bool { return s.key == key })
}

// room reports whether the member can be benched for that key alone.
func (r *record) room(key string, now time.Time) bool {
	return r == nil || len(r.scopes) < maxScopes || r.scope(key) >= 0 ||
		slices.ContainsFunc(r.scopes, func(s scope) bool { return !s.cooling(now) })
}

// of returns the bench for that key, for writing, or the whole member's if the
// key is empty. There must be room.
func (r *record) of(key string, now time.Time) *bench {
	if key == "" {
		return &r.bench
	}
	i := r.scope(key)
	if i < 0 {
		if len(r.scopes) >= maxScopes {
			r.drop(now)
		}
		i = len(r.scopes)
		r.scopes = append(r.scopes, scope{key: key})
	}
	return &r.scopes[i].bench
}

// drop forgets the ended bench that matters least: a clean one, else the one
// that began first.
func (r *record) drop(now time.Time) {
	rank := func(s *scope) int {
		switch {
		case s.cooling(now):
			return 2
		case !s.clean():
			return 1
		default:
			return 0
		}
	}
	least := 0
	for i := range r.scopes {
		a, b := &r.scopes[i], &r.scopes[least]
		if cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.epoch, b.epoch)) < 0 {
			least = i
		}
	}
	r.dropped = max(r.dropped, r.scopes[least].epoch)
	r.scopes = slices.Delete(r.scopes, least, least+1)
}

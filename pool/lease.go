package pool

import "time"

// Lease is the right to use one member for one attempt. The zero value is no
// lease. It needs no giving back.
type Lease struct {
	pool *Pool
	seat *seat
	key  string // of the request
}

// Member returns the name of the member.
func (l Lease) Member() string { return l.seat.member }

// Position returns the member's position in the pool's order, from 0.
func (l Lease) Position() int { return l.seat.position }

// Identity returns the identity of the member's credential.
func (l Lease) Identity() string { return l.seat.identity }

// Usable reports whether the member was ready or parked, and not benched for the
// request's key. It is false for the least bad of an exhausted pool.
func (l Lease) Usable() bool { return l.seat.usable }

// Among reports whether one of the leases is for the same member with the same
// credential.
func (l Lease) Among(leases []Lease) bool {
	return credential{l.seat.member, l.seat.identity}.among(leases)
}

// For returns the lease with the scope key of the request, for a caller that has
// learned it only since.
func (l Lease) For(key string) Lease {
	l.key = key
	return l
}

// Report says what came of the attempt.
//
// A failure benches the member if nothing else has since the lease was taken:
// of twenty attempts in flight that fail, one counts. Any other report of a
// failure can only lengthen the bench, or set one after it has ended, by an
// explicit wait, and does not count as a further failure in a row. A success
// ends the bench that it was taken in and the row of failures. Reports about a
// credential that was replaced change nothing, nor do meanings that do not
// bench.
//
// If the verdict says that one model or resource is out, all this is about the
// member's bench for that key, and the rest of the member is left alone. A
// success ends the benches for the keys that cover the request's, and that of
// the whole member. A failure of which the request was served all the same is a
// success first, and then the first failure of a new row.
//
// The bench is in force when Report returns. As long as nothing changes, the
// report of a success takes no lock and allocates nothing.
func (l Lease) Report(now time.Time, v Verdict) {
	switch {
	case v.Meaning == OK:
		if l.seat.version == l.pool.state.version.Load() && l.seat.indifferent(l.key) {
			return
		}
		l.succeeded(now)
	case v.Meaning.Benches():
		l.failed(now, v)
	}
}

func (l Lease) succeeded(now time.Time) {
	p, s := l.pool, l.pool.state
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := l.credential(); ok {
		s.success(c, l.key, l.seat.epoch)
	}
	p.settle(now)
}

func (l Lease) failed(now time.Time, v Verdict) {
	p, s := l.pool, l.pool.state
	s.mu.Lock()
	defer s.mu.Unlock()
	p.settle(now)
	c, ok := l.credential()
	if !ok {
		return
	}
	if v.Served {
		s.success(c, l.key, l.seat.epoch)
	}
	key := benchKey(v, l.key)
	if !s.records[c].room(key, now) {
		key = ""
	}
	request := requestOf(key)
	if covers(key, l.key) {
		request = l.key
	}
	before := p.current(now, request, nil)
	switch b := s.records[c].look(key); {
	case l.counts(v, key, &b, now):
		if len(s.records) > 2*len(p.members) {
			s.prune(now, p.has)
		}
		s.bench(c, key, now.Add(p.benchFor(v, b.failures+1)), now, v)
	case v.Wait > 0:
		s.lengthen(c, key, now.Add(p.benchFor(v, 1)), now, v)
	}
	p.settle(now)
	if key != "" {
		p.diverted(p.index(c.member), before, key, request, now)
	}
}

// counts reports whether a failure is a further one in the row of b: the member
// was ready, and nothing has benched it since.
func (l Lease) counts(v Verdict, key string, b *bench, now time.Time) bool {
	ready := l.seat.usable
	if key == "" {
		ready = l.seat.ready
	}
	return (ready || v.Served) && b.epoch <= l.seat.epoch && !b.cooling(now)
}

// credential returns the credential that the lease is for, and whether it is
// still the member's.
func (l Lease) credential() (credential, bool) {
	c := credential{l.seat.member, l.seat.identity}
	return c, l.pool.has(c)
}

// has reports whether c is the present credential of one of the members.
func (p *Pool) has(c credential) bool {
	i := p.index(c.member)
	return i >= 0 && p.members[i].identity == c.identity
}

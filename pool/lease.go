package pool

import "time"

// Lease is the right to use one member for one attempt. The zero value is no
// lease. It needs no giving back.
type Lease struct {
	pool *Pool
	seat *seat
}

// seat is what a lease knows of the moment when it was taken. It is never
// changed, so that many leases can share one.
type seat struct {
	version  uint64
	position int
	member   string
	identity string
	epoch    uint64
	usable   bool
	clean    bool // a success would change nothing
}

// Member returns the name of the member.
func (l Lease) Member() string { return l.seat.member }

// Position returns the member's position in the pool's order, from 0.
func (l Lease) Position() int { return l.seat.position }

// Identity returns the identity of the member's credential.
func (l Lease) Identity() string { return l.seat.identity }

// Usable reports whether the member was ready or parked. It is false for the
// least bad of an exhausted pool.
func (l Lease) Usable() bool { return l.seat.usable }

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
// The bench is in force when Report returns. As long as nothing changes, the
// report of a success takes no lock and allocates nothing.
func (l Lease) Report(now time.Time, v Verdict) {
	switch {
	case v.Meaning == OK:
		if l.seat.clean && l.seat.version == l.pool.state.version.Load() {
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
	c, ok := l.credential()
	if ok && s.look(c).epoch == l.seat.epoch {
		s.success(c)
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
	r := s.look(c)
	switch {
	case l.seat.usable && r.epoch == l.seat.epoch:
		if len(s.records) > 2*len(p.members) {
			s.prune(now, p.has)
		}
		s.bench(c, now.Add(p.benchFor(v, r.failures+1)), v)
	case v.Wait > 0:
		s.lengthen(c, now.Add(p.bounded(v.Wait)), now, v)
	}
	p.settle(now)
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

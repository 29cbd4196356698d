package pool

import "time"

// seat is what a lease knows of the moment when it was taken. It is never
// changed, so that many leases can share one.
type seat struct {
	version  uint64
	position int
	member   string
	identity string
	epoch    uint64 // of the newest bench of the pool
	ready    bool   // the member as a whole was ready or parked
	usable   bool   // and for the key, too
	clean    bool   // for the member as a whole, a success would change nothing

	// scopes are the keys for which something is known about the member.
	scopes []seatScope
}

// seatScope is a key for which the member has failed.
type seatScope struct {
	target
	until time.Time

	// exhausted is true if nobody was left for the key, so that it is to be told
	// when somebody is.
	exhausted bool
}

// take makes a seat for the member at i.
func (p *Pool) take(i int, now time.Time, key string) *seat {
	m, s := p.members[i], p.state
	r := s.look(p.credential(i))
	seat := &seat{
		version:  s.version.Load(),
		position: i,
		member:   m.name,
		identity: m.identity,
		epoch:    s.benches,
		ready:    !r.cooling(now),
		usable:   r.holding(key, now) == nil,
		clean:    r.bench.clean() && !s.edges[""].exhausted,
	}
	for _, sc := range r.scopes {
		if !sc.clean() {
			seat.scopes = append(seat.scopes, seatScope{target: targetOf(sc.key), until: sc.coolingUntil})
		}
	}
	for k, g := range s.edges {
		if k != "" && g.exhausted {
			seat.scopes = append(seat.scopes, seatScope{target: targetOf(k), exhausted: true})
		}
	}
	return seat
}

// out reports whether a request with that key may have to go elsewhere.
func (s *seat) out(now time.Time, key string) bool {
	if len(s.scopes) == 0 || key == "" {
		return false
	}
	request := askedOf(key)
	for i := range s.scopes {
		sc := &s.scopes[i]
		if sc.covers(request) && (sc.exhausted || now.Before(sc.until)) {
			return true
		}
	}
	return false
}

// indifferent reports whether the success of a request with that key would
// change nothing.
func (s *seat) indifferent(key string) bool {
	if !s.clean || len(s.scopes) == 0 || key == "" {
		return s.clean
	}
	request := askedOf(key)
	for i := range s.scopes {
		if s.scopes[i].covers(request) {
			return false
		}
	}
	return true
}

package pool

import "time"

// current returns the member to serve a request with that key with: the active
// one, else the next; -1 if nobody is ready or parked and not in tried.
func (p *Pool) current(now time.Time, key string, tried []Lease) int {
	active := p.index(p.state.active)
	if p.usable(active, now, key) && !p.credential(active).among(tried) {
		return active
	}
	return p.next(active, now, key, tried)
}

// next returns the first ready member after the one at i, wrapping round; if
// none is ready, the parked one soonest back; -1 if there is none. Members in
// tried are passed over.
func (p *Pool) next(i int, now time.Time, key string, tried []Lease) int {
	parked, soonest := -1, time.Time{}
	for k := 1; k <= len(p.members); k++ {
		j := (i + k) % len(p.members)
		if !p.usable(j, now, key) || p.credential(j).among(tried) {
			continue
		}
		r := p.state.look(p.credential(j))
		if !r.parked(now) {
			return j
		}
		if parked < 0 || r.parkedUntil.Before(soonest) {
			parked, soonest = j, r.parkedUntil
		}
	}
	return parked
}

// usable reports whether the member at i is ready or parked, and not benched
// for the key.
func (p *Pool) usable(i int, now time.Time, key string) bool {
	return i >= 0 && p.members[i].identity != "" && p.holding(i, now, key) == nil
}

// holding returns the bench that keeps the member at i longest from requests
// with that key; nil if none does.
func (p *Pool) holding(i int, now time.Time, key string) *bench {
	return p.state.records[p.credential(i)].holding(key, now)
}

// leastBad returns the cooling member for the one attempt that is made when
// nobody is left; -1 if none is cooling.
func (p *Pool) leastBad(now time.Time, key string) int {
	return p.best(now, key, func(a, b *bench) bool {
		due := a.due(now)
		switch {
		case rejected(a) != rejected(b):
			return rejected(b)
		case due != b.due(now):
			return due
		case due && !a.tested.Equal(b.tested):
			return a.tested.Before(b.tested)
		default:
			return a.coolingUntil.Before(b.coolingUntil)
		}
	})
}

// soonest returns the cooling member that is back first, those out for
// AuthFailed after all others; -1 if none is cooling.
func (p *Pool) soonest(now time.Time, key string) int {
	return p.best(now, key, func(a, b *bench) bool {
		if rejected(a) != rejected(b) {
			return rejected(b)
		}
		return a.coolingUntil.Before(b.coolingUntil)
	})
}

// rejected reports whether waiting does not help. Such a member is tested only
// if all others are like it: to the client, its answer says that the login is
// lost.
func rejected(b *bench) bool { return b.meaning == AuthFailed }

// best returns the cooling member whose bench is better than all others', the
// first of equals.
func (p *Pool) best(now time.Time, key string, better func(a, b *bench) bool) int {
	best, bestBench := -1, (*bench)(nil)
	for i, m := range p.members {
		if m.identity == "" {
			continue
		}
		if b := p.holding(i, now, key); b != nil && (best < 0 || better(b, bestBench)) {
			best, bestBench = i, b
		}
	}
	return best
}

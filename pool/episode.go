package pool

import (
	"maps"
	"time"
)

// maxEdges bounds the keys for which the pool is known to be exhausted: some of
// them a client can choose. Beyond it nothing more is told.
const maxEdges = 100

// episode is what makes two events the same one.
type episode struct {
	kind                  EventKind
	from, to, reason, key string
}

// edge is whether the pool is exhausted, as a whole or for one key.
type edge struct {
	exhausted bool

	// recovered is when a recovery was last told, and untold since when the pool
	// is exhausted without that being told; zero if it was.
	recovered, untold time.Time
}

// late reports whether an exhaustion has lasted without being told.
func (g *edge) late(now time.Time, window time.Duration) bool {
	return !g.untold.IsZero() && now.Sub(g.untold) >= window
}

// edge returns the edge of that key.
func (s *State) edge(key string) *edge {
	g := s.edges[key]
	if g == nil {
		g = new(edge)
		s.edges[key] = g
	}
	return g
}

// setExhausted enters or leaves an edge.
func (s *State) setExhausted(key string, exhausted bool) {
	if g := s.edge(key); g.exhausted != exhausted {
		g.exhausted = exhausted
		s.changed()
	}
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
		g := s.edge(e.Key)
		if !g.untold.IsZero() { // what it ends was not told
			g.untold = time.Time{}
			s.suppressed++
			return
		}
		if e.Time.Sub(g.recovered) >= window {
			maps.DeleteFunc(s.told, func(k episode, _ time.Time) bool { return e.Key == "" || k.key == e.Key })
		}
		g.recovered = e.Time
	case Refreshed: // each is another one
	case Failover, Exhausted, CredentialMissing, RefreshFailed:
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
	k := episode{e.Kind, e.From, e.To, e.Reason, e.Key}
	_, again := s.told[k]
	if !again {
		s.told[k] = e.Time
	}
	if e.Kind == Exhausted {
		g := s.edge(e.Key)
		g.untold = time.Time{}
		if again {
			g.untold = e.Time
		}
	}
	return again
}

package pool

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// settle brings the pointer and the exhausted edges up to date with the time
// and with what has changed, and tells it.
//
// The pointer goes by benches of whole members alone. One for a single key sends
// the requests with that key on to the next member; nobody else notices.
func (p *Pool) settle(now time.Time) {
	if p.retired {
		return
	}
	p.settlePointer(now)
	p.settleKeys(now)
}

func (p *Pool) settlePointer(now time.Time) {
	s := p.state
	from := p.index(s.active)
	if p.usable(from, now, "") {
		s.missingTold = ""
		if s.edges[""].exhausted {
			s.setExhausted("", false)
			s.emit(Event{Kind: Recovered, Time: now, To: s.active}, p.cfg.NoticeWindow)
		}
		return
	}
	if to := p.next(from, now, "", nil); to >= 0 {
		p.leave(from, to, now)
		return
	}
	p.stay(from, now)
}

// leave moves the pointer off a member that can't serve.
func (p *Pool) leave(from, to int, now time.Time) {
	s := p.state
	e := Event{Time: now, To: p.members[to].name}
	s.advance(e.To)
	s.missingTold = ""
	switch {
	case s.edges[""].exhausted:
		s.setExhausted("", false)
		e.Kind = Recovered
	case from < 0: // the configuration no longer has the member
		return
	case p.members[from].identity == "":
		e.Kind, e.From, e.Reason = CredentialMissing, p.members[from].name, p.members[from].missing
	default:
		b := p.holding(from, now, "")
		e.Kind, e.From, e.Until = Failover, p.members[from].name, b.coolingUntil
		e.because(b)
	}
	s.emit(e, p.cfg.NoticeWindow)
}

// stay keeps the pointer because there is nobody to move it to.
func (p *Pool) stay(from int, now time.Time) {
	s := p.state
	missing := from >= 0 && p.members[from].identity == ""
	if missing && s.missingTold != s.active {
		s.missingTold = s.active
		s.emit(Event{Kind: CredentialMissing, Time: now, From: s.active, Reason: p.members[from].missing}, p.cfg.NoticeWindow)
	}
	if missing {
		from = -1
	}
	p.exhaust("", from, now)
}

// exhaust tells that nobody is left for that key; an empty one is the pool as a
// whole. From is the member that failed last; -1 if it is not known.
func (p *Pool) exhaust(key string, from int, now time.Time) {
	request := requestOf(key)
	s := p.state
	first := p.soonest(now, request)
	if first < 0 {
		return
	}
	// An exhaustion that lasts is told, if only later.
	g := s.edge(key)
	if g.exhausted && !g.late(now, p.cfg.NoticeWindow) {
		return
	}
	s.setExhausted(key, true)
	cause := p.holding(first, now, request)
	e := Event{Kind: Exhausted, Time: now, Key: key, First: p.members[first].name, Until: cause.coolingUntil}
	for _, m := range p.members {
		if m.identity == "" {
			e.Missing++
		}
	}
	if from >= 0 {
		e.From = p.members[from].name
		cause = p.holding(from, now, request)
	}
	e.because(cause)
	s.emit(e, p.cfg.NoticeWindow)
}

// exhaustedFor tells that nobody is left for the requests with that key, unless
// that is so for every request. From is as in exhaust.
func (p *Pool) exhaustedFor(request string, from int, now time.Time) {
	if request == "" || p.retired || p.state.edges[""].exhausted {
		return
	}
	edges := p.state.edges
	for key, g := range edges {
		if g.exhausted && covers(key, request) && !g.late(now, p.cfg.NoticeWindow) {
			return // it is known
		}
	}
	key := p.exhaustedKey(request, now)
	if key == "" || (edges[key] == nil && len(edges) > maxEdges) {
		return
	}
	p.exhaust(key, from, now)
}

// exhaustedKey returns what nobody is left for, if that is so for requests with
// that key: the key of a bench, so that it is told once for all models that it
// covers, if it holds for all of them. It may not where one member is out for
// "model:claude" and the other for "model:opus"; then it is one model. It is
// empty if the request's key can't be shown.
func (p *Pool) exhaustedKey(request string, now time.Time) string {
	for i := range p.members {
		r := p.state.records[p.credential(i)]
		if r == nil || p.members[i].identity == "" {
			continue
		}
		for _, s := range r.scopes {
			if s.cooling(now) && covers(s.key, request) && p.current(now, requestOf(s.key), nil) < 0 {
				return s.key
			}
		}
	}
	key := request
	if name, ok := strings.CutPrefix(request, modelPrefix); ok {
		key = oneModel + name
	}
	if !isBenchKey(key) {
		return ""
	}
	return key
}

// diverted tells what a bench of the member at i for the key has come to: who
// served the requests with it before, and who does now.
func (p *Pool) diverted(i, before int, key, request string, now time.Time) {
	if p.retired || p.state.edges[""].exhausted {
		return
	}
	to := p.current(now, request, nil)
	switch {
	case to < 0:
		p.exhaustedFor(request, i, now)
	case before == i && to != i:
		b := p.holding(i, now, request)
		e := Event{Kind: Failover, Time: now, From: p.members[i].name, To: p.members[to].name, Key: key, Until: b.coolingUntil}
		e.because(b)
		p.state.emit(e, p.cfg.NoticeWindow)
	}
}

// settleKeys leaves the exhausted edges of keys that somebody is ready for
// again, and forgets those left long ago.
func (p *Pool) settleKeys(now time.Time) {
	s := p.state
	if len(s.edges) == 1 {
		return
	}
	for _, key := range slices.Sorted(maps.Keys(s.edges)) {
		g := s.edges[key]
		if key == "" {
			continue
		}
		if !g.exhausted {
			if now.Sub(g.recovered) >= p.cfg.NoticeWindow {
				delete(s.edges, key)
			}
			continue
		}
		if to := p.current(now, requestOf(key), nil); to >= 0 {
			s.setExhausted(key, false)
			s.emit(Event{Kind: Recovered, Time: now, To: p.members[to].name, Key: key}, p.cfg.NoticeWindow)
		}
	}
}

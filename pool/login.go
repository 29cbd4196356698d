package pool

import "time"

// Refreshed tells that the member's login has new tokens, which last until
// expires; zero if that is not known.
func (p *Pool) Refreshed(now time.Time, name string, expires time.Time) {
	p.told(Event{Kind: Refreshed, Time: now, From: name, Until: expires})
}

// RefreshFailed tells that the member's login could not be refreshed, and why.
// [AuthFailed] means that it never will be again; any other meaning, that it is
// tried again.
func (p *Pool) RefreshFailed(now time.Time, name, reason string, m Meaning) {
	p.told(Event{Kind: RefreshFailed, Time: now, From: name, Reason: reason, Meaning: m})
}

func (p *Pool) told(e Event) {
	p.state.mu.Lock()
	defer p.state.mu.Unlock()
	p.state.emit(e, p.cfg.NoticeWindow)
}

// Renewed ends the member's bench for [AuthFailed], since its credential, which
// keeps its identity, has another secret now. The row of failures stays: if it
// is the account that is rejected, the next bench is as long as it would have
// been.
func (p *Pool) Renewed(now time.Time, name string) {
	s := p.state
	s.mu.Lock()
	defer s.mu.Unlock()
	i := p.index(name)
	if i < 0 {
		return
	}
	if r := s.records[p.credential(i)]; r != nil && r.cooling(now) && r.meaning == AuthFailed {
		r.coolingUntil = now
		s.changed()
		p.settle(now)
	}
}

// Failures returns how often in a row the member has failed.
func (p *Pool) Failures(name string) int {
	s := p.state
	s.mu.Lock()
	defer s.mu.Unlock()
	i := p.index(name)
	if i < 0 {
		return 0
	}
	return s.records[p.credential(i)].look("").failures
}

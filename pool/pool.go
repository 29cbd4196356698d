package pool

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// Errors that callers decide by. What is returned wraps them and says which
// member it is about.
var (
	// ErrAllMissing: no member has a usable credential.
	ErrAllMissing = errors.New("no member has a usable credential")
	// ErrUnknownMember: the pool has no member of that name.
	ErrUnknownMember = errors.New("unknown member")
	// ErrConflict: the pool's present state does not allow it.
	ErrConflict = errors.New("conflict")
)

// Defaults of a [Config].
const (
	DefaultMaxCooldown  = 7 * 24 * time.Hour
	DefaultParkFor      = 5 * time.Minute
	DefaultNoticeWindow = 30 * time.Second
)

// MaxPark is the longest time for which the operator can set a member aside.
const MaxPark = 365 * 24 * time.Hour

// minWait is the least that evidence of a wait counts for.
const minWait = time.Second

// Cooldown is how long a member is benched when the answer did not say how
// long to wait: Base for the first failure, doubled for each further one in a
// row, up to Cap.
type Cooldown struct{ Base, Cap time.Duration }

// DefaultCooldown returns the cooldown of a meaning that benches.
func DefaultCooldown(m Meaning) Cooldown {
	switch m {
	case AuthFailed:
		return Cooldown{5 * time.Minute, 6 * time.Hour}
	case QuotaExhausted:
		return Cooldown{time.Hour, 24 * time.Hour}
	default:
		return Cooldown{time.Minute, 30 * time.Minute}
	}
}

// Config is what the user says about a pool. Zero values are the defaults.
type Config struct {
	// Members are the names of the members in the order in which they serve.
	Members []string

	// Cooldowns replace the defaults by meaning.
	Cooldowns map[Meaning]Cooldown

	// MaxCooldown bounds what an answer may say about the wait.
	MaxCooldown time.Duration

	// ParkFor is how long a member is parked if the operator does not say.
	ParkFor time.Duration

	// NoticeWindow is for how long the same event is not told again.
	NoticeWindow time.Duration
}

// Pool is one configuration's view of a [State]. It is safe for concurrent use.
type Pool struct {
	cfg   Config
	state *State

	// members are guarded by the state's lock; their number, order and names
	// never change.
	members []member

	// retired is guarded by the state's lock.
	retired bool

	// seat is what Acquire hands out as long as the state's version is the
	// seat's. It is only ever set for an active member that is ready or parked:
	// such a one stays active whatever the time is.
	seat atomic.Pointer[seat]
}

type member struct {
	name     string
	identity string // empty while the credential is missing
	missing  string // why it is missing
}

// New makes a pool over a state. All members are missing until they are given
// a credential with [Pool.SetCredential].
func New(cfg Config, s *State) *Pool {
	cfg.MaxCooldown = orDefault(cfg.MaxCooldown, DefaultMaxCooldown)
	cfg.ParkFor = orDefault(cfg.ParkFor, DefaultParkFor)
	cfg.NoticeWindow = orDefault(cfg.NoticeWindow, DefaultNoticeWindow)
	p := &Pool{cfg: cfg, state: s, members: make([]member, len(cfg.Members))}
	for i, name := range cfg.Members {
		p.members[i] = member{name: name, missing: "not loaded yet"}
	}
	return p
}

func orDefault(d, def time.Duration) time.Duration {
	if d <= 0 {
		return def
	}
	return d
}

// Name returns the pool's name.
func (p *Pool) Name() string { return p.state.name }

// SetCredential says that the member has a usable credential. Another identity
// than before is another credential: it starts clean, and late answers of the
// old one do not touch it.
func (p *Pool) SetCredential(name, identity string) {
	p.setMember(name, identity, "")
}

// SetMissing says that the member has no usable credential, and why. What is
// known about its last one is kept, since it may come back.
func (p *Pool) SetMissing(name, reason string) {
	p.setMember(name, "", reason)
}

func (p *Pool) setMember(name, identity, missing string) {
	s := p.state
	s.mu.Lock()
	defer s.mu.Unlock()
	i := p.index(name)
	if i < 0 {
		return
	}
	m := &p.members[i]
	if m.identity == identity && m.missing == missing {
		return
	}
	if m.identity != "" && identity != "" && !p.retired {
		s.forget(credential{m.name, m.identity})
	}
	m.identity, m.missing = identity, missing
	s.version.Add(1)
}

// Retire says that another pool has taken over the state. From then on reports
// on this pool's leases still bench, but the pointer is left to the other one.
func (p *Pool) Retire() {
	p.state.mu.Lock()
	defer p.state.mu.Unlock()
	p.retired = true
}

// Acquire hands out the active member. If nobody is ready or parked it hands
// out the least bad one, and [Lease.Usable] says so: the cooling member that is
// back first, those out for [AuthFailed] after all others. It fails with
// [ErrAllMissing] if there is none of these either.
//
// As long as nothing changes it takes no lock and allocates nothing.
func (p *Pool) Acquire(now time.Time) (Lease, error) {
	if s := p.seat.Load(); s != nil && s.version == p.state.version.Load() {
		return Lease{p, s}, nil
	}
	return p.acquire(now)
}

func (p *Pool) acquire(now time.Time) (Lease, error) {
	s := p.state
	s.mu.Lock()
	defer s.mu.Unlock()
	p.settle(now)
	if i := p.current(now, nil); i >= 0 {
		seat := p.take(i, now)
		if p.members[i].name == s.active {
			p.seat.Store(seat)
		}
		return Lease{p, seat}, nil
	}
	if i := p.leastBad(now); i >= 0 {
		return Lease{p, p.take(i, now)}, nil
	}
	return Lease{}, ErrAllMissing
}

// AcquireOther hands out a ready or parked member that is none of those tried,
// for a further attempt at the same request: the active one, else the next
// after it. It reports whether there is one.
func (p *Pool) AcquireOther(now time.Time, tried []Lease) (Lease, bool) {
	s := p.state
	s.mu.Lock()
	defer s.mu.Unlock()
	p.settle(now)
	i := p.current(now, tried)
	if i < 0 {
		return Lease{}, false
	}
	return Lease{p, p.take(i, now)}, true
}

// take makes a seat for the member at i.
func (p *Pool) take(i int, now time.Time) *seat {
	m := p.members[i]
	r := p.state.look(credential{m.name, m.identity})
	return &seat{
		version:  p.state.version.Load(),
		position: i,
		member:   m.name,
		identity: m.identity,
		epoch:    r.epoch,
		usable:   !r.cooling(now),
		clean:    r.failures == 0 && r.coolingUntil.IsZero() && !p.state.exhausted,
	}
}

// settle brings the pointer and the exhausted edge up to date with the time
// and with what has changed, and tells it.
func (p *Pool) settle(now time.Time) {
	s := p.state
	if p.retired {
		return
	}
	from := p.index(s.active)
	if p.usable(from, now) {
		s.missingTold = ""
		if s.exhausted {
			s.setExhausted(false)
			s.emit(Event{Kind: Recovered, Time: now, To: s.active}, p.cfg.NoticeWindow)
		}
		return
	}
	if to := p.next(from, now, nil); to >= 0 {
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
	case s.exhausted:
		s.setExhausted(false)
		e.Kind = Recovered
	case from < 0: // the configuration no longer has the member
		return
	case p.members[from].identity == "":
		e.Kind, e.From, e.Reason = CredentialMissing, p.members[from].name, p.members[from].missing
	default:
		r := s.look(p.credential(from))
		e.Kind, e.From, e.Reason, e.Meaning, e.Until = Failover, p.members[from].name, r.reason, r.meaning, r.coolingUntil
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
	first := p.leastBad(now)
	// An exhaustion that lasts is told, if only later.
	late := !s.untold.IsZero() && now.Sub(s.untold) >= p.cfg.NoticeWindow
	if first < 0 || (s.exhausted && !late) {
		return
	}
	s.setExhausted(true)
	cause := s.look(p.credential(first))
	e := Event{Kind: Exhausted, Time: now, First: p.members[first].name, Until: cause.coolingUntil}
	for _, m := range p.members {
		if m.identity == "" {
			e.Missing++
		}
	}
	if from >= 0 && !missing {
		e.From = s.active
		cause = s.look(p.credential(from))
	}
	e.Reason, e.Meaning = cause.reason, cause.meaning
	s.emit(e, p.cfg.NoticeWindow)
}

// current returns the member to serve with: the active one, else the next;
// -1 if nobody is ready or parked and not in tried.
func (p *Pool) current(now time.Time, tried []Lease) int {
	active := p.index(p.state.active)
	if p.usable(active, now) && !p.among(active, tried) {
		return active
	}
	return p.next(active, now, tried)
}

// next returns the first ready member after the one at i, wrapping round; if
// none is ready, the parked one soonest back; -1 if there is none. Members in
// tried are passed over.
func (p *Pool) next(i int, now time.Time, tried []Lease) int {
	parked, soonest := -1, time.Time{}
	for k := 1; k <= len(p.members); k++ {
		j := (i + k) % len(p.members)
		if !p.usable(j, now) || p.among(j, tried) {
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

// leastBad returns the cooling member soonest back, those out for AuthFailed
// after all others; -1 if none is cooling.
func (p *Pool) leastBad(now time.Time) int {
	best, bestRecord := -1, record{}
	for i, m := range p.members {
		r := p.state.look(p.credential(i))
		if m.identity == "" || !r.cooling(now) {
			continue
		}
		worse := r.meaning == AuthFailed
		bestWorse := bestRecord.meaning == AuthFailed
		if best < 0 || (worse == bestWorse && r.coolingUntil.Before(bestRecord.coolingUntil)) || (bestWorse && !worse) {
			best, bestRecord = i, r
		}
	}
	return best
}

// usable reports whether the member at i is ready or parked.
func (p *Pool) usable(i int, now time.Time) bool {
	if i < 0 || p.members[i].identity == "" {
		return false
	}
	r := p.state.records[p.credential(i)]
	return r == nil || !r.cooling(now)
}

func (p *Pool) among(i int, leases []Lease) bool {
	return slices.ContainsFunc(leases, func(l Lease) bool {
		return l.seat.member == p.members[i].name && l.seat.identity == p.members[i].identity
	})
}

func (p *Pool) credential(i int) credential {
	return credential{p.members[i].name, p.members[i].identity}
}

// index returns the position of the member of that name; -1 if there is none.
func (p *Pool) index(name string) int {
	return slices.IndexFunc(p.members, func(m member) bool { return m.name == name })
}

// benchFor returns how long a verdict benches a member that fails for the
// n-th time in a row, counting from 1.
func (p *Pool) benchFor(v Verdict, n int) time.Duration {
	if v.Wait > 0 {
		return p.bounded(v.Wait)
	}
	c, ok := p.cfg.Cooldowns[v.Meaning]
	if !ok {
		c = DefaultCooldown(v.Meaning)
	}
	d := c.Base
	for ; n > 1 && d < c.Cap; n-- {
		d *= 2
	}
	return min(d, c.Cap, p.cfg.MaxCooldown)
}

func (p *Pool) bounded(wait time.Duration) time.Duration {
	return min(max(wait, minWait), p.cfg.MaxCooldown)
}

func unknownMember(name string) error {
	return fmt.Errorf("%w %q", ErrUnknownMember, name)
}

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
	// ErrExhausted: nobody is ready or parked, but the least bad can be tried.
	ErrExhausted = errors.New("no member is ready or parked")
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
	// such a one stays active whatever the time is. For some keys it may be out
	// all the same; the seat knows for which.
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

// Acquire hands out the member for a request with that scope key: the active
// one, or while that is out for the key, the first after it that is not. The
// key is "model:" and the name of the model in lower case, as [ModelKey] makes
// it, or else what the verdicts of the provider call the part of the API
// ("resource:search"); empty if it is not known, and then benches of single keys
// do not count.
//
// If nobody is ready or parked it hands out the least bad one, and
// [Lease.Usable] says so: the cooling member that is back first, those out for
// [AuthFailed] after all others. But first those that still have more than
// 15 min to go have their turn, each one once in 15 min: a wait of days can be
// wrong. It fails with [ErrAllMissing] if there is none of these either.
//
// As long as nothing changes it takes no lock and allocates nothing, for every
// key that the active member is ready for.
func (p *Pool) Acquire(now time.Time, key string) (Lease, error) {
	if s := p.seatFor(now, key); s != nil {
		return Lease{p, s, key}, nil
	}
	return p.acquire(now, key)
}

// seatFor returns the seat that can be handed out as things are.
func (p *Pool) seatFor(now time.Time, key string) *seat {
	if s := p.seat.Load(); s != nil && s.version == p.state.version.Load() && !s.out(now, key) {
		return s
	}
	return nil
}

func (p *Pool) acquire(now time.Time, key string) (Lease, error) {
	s := p.state
	s.mu.Lock()
	defer s.mu.Unlock()
	p.settle(now)
	if i := p.current(now, key, nil); i >= 0 {
		seat := p.take(i, now, key)
		if p.members[i].name == s.active {
			p.seat.Store(seat)
		}
		return Lease{p, seat, key}, nil
	}
	i := p.leastBad(now, key)
	if i < 0 {
		return Lease{}, ErrAllMissing
	}
	p.exhaustedFor(key, -1, now)
	if b := s.records[p.credential(i)].holding(key, now); b.due(now) {
		b.tested = now
	}
	return Lease{p, p.take(i, now, key), key}, nil
}

// Keyed reports whether a member is benched for single keys, so that it matters
// which key a request has. It is as cheap as Acquire unless the pool is
// exhausted.
func (p *Pool) Keyed(now time.Time) bool {
	if s := p.seat.Load(); s != nil && s.version == p.state.version.Load() && len(s.scopes) == 0 {
		return false
	}
	p.state.mu.Lock()
	defer p.state.mu.Unlock()
	for i := range p.members {
		if r := p.state.records[p.credential(i)]; r != nil && slices.ContainsFunc(r.scopes, func(s scope) bool { return s.cooling(now) }) {
			return true
		}
	}
	return false
}

// Check says what Acquire would do, without taking the turn of a member that is
// to be tested: nil if somebody is ready or parked, else [ErrExhausted] or
// [ErrAllMissing]. It is as cheap as Acquire.
func (p *Pool) Check(now time.Time, key string) error {
	if p.seatFor(now, key) != nil {
		return nil
	}
	p.state.mu.Lock()
	defer p.state.mu.Unlock()
	p.settle(now)
	switch {
	case p.current(now, key, nil) >= 0:
		return nil
	case p.soonest(now, key) >= 0:
		return ErrExhausted
	default:
		return ErrAllMissing
	}
}

// AcquireOther hands out a ready or parked member that is none of those tried,
// for a further attempt at the same request: the active one, else the next
// after it. It reports whether there is one.
func (p *Pool) AcquireOther(now time.Time, key string, tried []Lease) (Lease, bool) {
	s := p.state
	s.mu.Lock()
	defer s.mu.Unlock()
	p.settle(now)
	i := p.current(now, key, tried)
	if i < 0 {
		return Lease{}, false
	}
	return Lease{p, p.take(i, now, key), key}, true
}

// AcquireMember hands out that member, whatever its state, for an attempt that is
// made with its credential without the pool's choice. It reports false if the
// member's credential is not the one of that identity.
func (p *Pool) AcquireMember(now time.Time, name, identity string) (Lease, bool) {
	s := p.state
	s.mu.Lock()
	defer s.mu.Unlock()
	p.settle(now)
	i := p.index(name)
	if i < 0 || identity == "" || p.members[i].identity != identity {
		return Lease{}, false
	}
	return Lease{p, p.take(i, now, ""), ""}, true
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
	c, ok := p.cfg.Cooldowns[v.Meaning]
	if !ok {
		c = DefaultCooldown(v.Meaning)
	}
	base := min(c.Base, c.Cap, p.cfg.MaxCooldown)
	switch {
	case v.Wait > 0 && v.Repeated:
		return min(p.bounded(v.Wait), base)
	case v.Wait > 0:
		return p.bounded(v.Wait)
	case v.Repeated:
		return base
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

package caddymodule

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

// Notice is what the operator is told about one event of a pool. Its JSON is
// what the admin API lists and what webhooks receive.
type Notice struct {
	// ID is unique, and sorts by time. Every attempt to deliver the notice
	// carries the same one.
	ID string `json:"id"`

	// Time is when it happened, in UTC.
	Time time.Time `json:"time"`

	// Kind is what happened: failover, exhausted, recovered, rotated, parked,
	// member_recovered, credential_missing, refreshed or refresh_failed.
	Kind pool.EventKind `json:"kind"`

	Pool string `json:"pool"`

	// From is the member that it is about, and To the one that serves instead,
	// empty if there is none.
	From string `json:"from,omitempty"`
	To   string `json:"to"`

	// Reason is the evidence: the upstream's status such as 429, an error code
	// of OAuth such as invalid_grant, the operator's own words, or why a
	// credential is missing.
	Reason string `json:"reason,omitempty"`

	// Meaning is what the upstream's answer meant, if one caused it.
	Meaning pool.Meaning `json:"meaning,omitempty"`

	// Key is the model or the part of the API that it is about, if it is not
	// about the whole member: "model:opus", "resource:search".
	Key string `json:"key,omitempty"`

	// Repeated is true if other members had failed in the same way with the same
	// request, so that it may be the request's fault, or our address's.
	Repeated bool `json:"repeated,omitempty"`

	// Until is when From is back, in UTC; for exhausted, when the first member
	// is; for refreshed, when the new token ends.
	Until time.Time `json:"until,omitzero"`

	// Suppressed counts the notices of the pool that were held back since its
	// last one, because the same had just been told.
	Suppressed int `json:"suppressed,omitempty"`

	// Instance is the id of the Caddy that tells it.
	Instance string `json:"instance,omitempty"`

	// Message says all this in a sentence.
	Message string `json:"message"`
}

// newNotice makes the notice of an event.
func newNotice(e pool.Event, instance string) Notice {
	return Notice{
		ID:         newNoticeID(e.Time),
		Time:       noticeTime(e.Time),
		Kind:       e.Kind,
		Pool:       e.Pool,
		From:       e.From,
		To:         e.To,
		Reason:     e.Reason,
		Meaning:    e.Meaning,
		Key:        e.Key,
		Repeated:   e.Repeated,
		Until:      noticeTime(e.Until),
		Suppressed: e.Suppressed,
		Instance:   instance,
		Message:    message(e),
	}
}

// noticeTime drops what nobody reads: the zone, and what is below a
// millisecond. A zero time stays zero.
func noticeTime(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

// noticeIDs is an encoding that keeps the order of what it encodes.
var noticeIDs = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// newNoticeID returns an id of 48 bits of time and 80 random bits.
func newNoticeID(t time.Time) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(t.UnixMilli())<<16)
	_, _ = rand.Read(b[6:]) // never fails
	return "notice_" + noticeIDs.EncodeToString(b[:])
}

// message says an event in a sentence.
func message(e pool.Event) string {
	var s strings.Builder
	fmt.Fprintf(&s, "Pool %q", e.Pool)
	if e.Key != "" {
		fmt.Fprintf(&s, ", for %q alone:", e.Key)
	}
	switch e.Kind {
	case pool.Failover:
		fmt.Fprintf(&s, " failed over from %q to %q%s%s", e.From, e.To, after(e.Meaning), because(e.Reason))
	case pool.Exhausted:
		s.WriteString(" exhausted: every member is cooling down")
		if e.Missing > 0 {
			s.WriteString(" or has no usable credential")
		}
		if e.First != "" {
			fmt.Fprintf(&s, ", first back %q at %s", e.First, clock(e.Until, e.Time))
		}
		s.WriteString(because(e.Reason))
	case pool.Recovered:
		fmt.Fprintf(&s, " recovered: %q serves again", e.To)
	case pool.Rotated:
		s.WriteString(" rotated")
		if e.From != "" {
			fmt.Fprintf(&s, " from %q", e.From)
		}
		fmt.Fprintf(&s, " to %q by the operator", e.To)
		if !e.Until.IsZero() {
			fmt.Fprintf(&s, ", %q is parked until %s", e.From, clock(e.Until, e.Time))
		}
	case pool.Parked:
		fmt.Fprintf(&s, ": %q is parked until %s", e.From, clock(e.Until, e.Time))
		if e.To != "" {
			fmt.Fprintf(&s, ", %q serves now", e.To)
		}
		s.WriteString(because(e.Reason))
	case pool.MemberRecovered:
		fmt.Fprintf(&s, ": %q recovered by the operator", e.From)
	case pool.CredentialMissing:
		fmt.Fprintf(&s, " has no usable credential for its active member %q", e.From)
		if e.To != "" {
			fmt.Fprintf(&s, ", %q serves now", e.To)
		}
		s.WriteString(because(e.Reason))
	case pool.Refreshed, pool.RefreshFailed:
		s.WriteString(refreshMessage(e))
	}
	s.WriteByte('.')
	if e.Repeated {
		s.WriteString(" Others had failed in the same way, so it may be the request, or the address that it came from.")
	}
	switch {
	case e.Suppressed == 1:
		s.WriteString(" 1 similar notice was not repeated.")
	case e.Suppressed > 1:
		fmt.Fprintf(&s, " %d similar notices were not repeated.", e.Suppressed)
	}
	return s.String()
}

// refreshMessage goes on after the pool's name.
func refreshMessage(e pool.Event) string {
	switch {
	case e.Kind == pool.Refreshed && e.Until.IsZero():
		return fmt.Sprintf(": the login of %q was refreshed", e.From)
	case e.Kind == pool.Refreshed:
		return fmt.Sprintf(": the login of %q was refreshed, its token lasts until %s", e.From, clock(e.Until, e.Time))
	case e.Meaning == pool.AuthFailed:
		return fmt.Sprintf(": %q must log in again%s", e.From, because(e.Reason))
	default:
		return fmt.Sprintf(": the login of %q can't be refreshed at the moment%s; it is tried again", e.From, because(e.Reason))
	}
}

// after says what an upstream's answer meant.
func after(m pool.Meaning) string {
	switch m {
	case pool.RateLimited:
		return " after rate limit"
	case pool.QuotaExhausted:
		return " after exhausted quota"
	case pool.AuthFailed:
		return " after rejected credential"
	case pool.OK, pool.Overloaded, pool.RequestError: // these never bench
	}
	return ""
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + reason + ")"
}

// clock says a time to come, with the date if that is not today's. It rounds
// up, so that nobody comes too early.
func clock(t, now time.Time) string {
	t, now = t.Add(time.Second-1).UTC(), now.UTC()
	if t.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return t.Format("15:04:05 UTC")
	}
	return t.Format("2006-01-02 15:04:05 UTC")
}

// instanceID returns the id of this Caddy, which Caddy keeps in a file, or the
// name of the host if it can't.
var instanceID = sync.OnceValue(func() string {
	if id, err := caddy.InstanceID(); err == nil {
		return id.String()
	}
	host, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return host
})

const (
	// noticesKept bounds the notices that can be looked up.
	noticesKept = 1000
	// noticesPending bounds the notices that wait for a dispatcher.
	noticesPending = 1000
)

// notices lives with the process: reloads keep what was told.
var notices = newNoticeLog()

// noticeLog holds the newest notices, and those that are still to be
// dispatched. It is safe for concurrent use.
type noticeLog struct {
	// pending is read by the dispatchers. Each notice goes to one of them, also
	// while two configurations overlap in a reload.
	pending chan Notice

	mu   sync.Mutex
	ring []Notice
	head int // where the next one goes, once the ring is full
}

func newNoticeLog() *noticeLog {
	return &noticeLog{pending: make(chan Notice, noticesPending)}
}

// put takes an event of a pool. It is called with that pool locked, so it
// neither blocks nor calls back.
func (l *noticeLog) put(e pool.Event) {
	n := newNotice(e, instanceID())
	counters.event(e)

	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ring) < noticesKept {
		l.ring = append(l.ring, n)
	} else {
		l.ring[l.head] = n
		l.head = (l.head + 1) % noticesKept
	}
	pushOut(l.pending, n, func(old Notice) { counters.notice(old.Kind, outcomeDropped) })
}

// recent returns up to limit notices, the newest first; all of them if limit
// is not positive. It never returns nil.
func (l *noticeLog) recent(limit int) []Notice {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.ring)
	if limit <= 0 || limit > n {
		limit = n
	}
	out := make([]Notice, limit)
	for i := range out {
		out[i] = l.ring[(l.head+n-1-i)%n]
	}
	return out
}

// pushOut puts a notice into a bounded queue. If the queue is full, the oldest
// ones go: what happened last counts more.
func pushOut(queue chan Notice, n Notice, dropped func(Notice)) {
	for {
		select {
		case queue <- n:
			return
		default:
		}
		select {
		case old := <-queue:
			dropped(old)
		default:
		}
	}
}

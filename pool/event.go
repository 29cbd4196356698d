package pool

import "time"

// EventKind names what happened to a pool.
type EventKind string

// The kinds of event.
const (
	// Failover: the active pointer moved because of a verdict.
	Failover EventKind = "failover"
	// Exhausted: there is no ready or parked member to move to.
	Exhausted EventKind = "exhausted"
	// Recovered: after Exhausted, a member is ready again or succeeded.
	Recovered EventKind = "recovered"
	// Rotated: the operator moved the active pointer.
	Rotated EventKind = "rotated"
	// Parked: the operator set a member aside.
	Parked EventKind = "parked"
	// MemberRecovered: the operator ended a member's bench.
	MemberRecovered EventKind = "member_recovered"
	// CredentialMissing: the active member was left because the vault has no
	// usable credential for it.
	CredentialMissing EventKind = "credential_missing"
	// Refreshed: a member's login has new tokens.
	Refreshed EventKind = "refreshed"
	// RefreshFailed: a member's login could not be refreshed.
	RefreshFailed EventKind = "refresh_failed"
)

// EventKinds are all kinds of event, in the order in which they are documented.
var EventKinds = []EventKind{Failover, Exhausted, Recovered, Rotated, Parked, MemberRecovered, CredentialMissing, Refreshed, RefreshFailed}

// Event is what the operator is told, once per episode.
type Event struct {
	Kind EventKind
	Time time.Time
	Pool string

	// From and To are names of members. Which are set depends on the kind:
	// a failover has both; exhausted has only From, the member whose failure
	// exhausted the pool, if one did; recovered has To, the member that serves
	// now; parked and member_recovered have From, the member concerned, and To,
	// if the pointer moved; refreshed and refresh_failed have From.
	From, To string

	// Key is set if this is about the requests with one key alone: a failover
	// that did not move the active pointer, an exhaustion or recovery of a pool
	// that serves other requests. It is as in [Verdict], or "model=" and the
	// full name of the one model.
	Key string

	// Reason is the verdict's (a status such as "429"), or the operator's own
	// words, or why a credential is missing.
	Reason  string
	Meaning Meaning

	// Repeated is true if From failed in the way in which another member had
	// already failed with the same request, so that it may be the request's
	// fault. It is benched for the base of its cooldown at most.
	Repeated bool

	// Until is when From is back; for exhausted, when First is; for refreshed,
	// when the new token ends. Zero if nothing is awaited.
	Until time.Time

	// First is, for exhausted, the member that is back first.
	First string

	// Missing counts, for exhausted, the members without a usable credential.
	// All others are cooling.
	Missing int

	// Suppressed counts the events of this pool that were not told since the
	// last one, because the same one had just been told.
	Suppressed int
}

// because takes the evidence of a bench into the event.
func (e *Event) because(b *bench) {
	e.Reason, e.Meaning, e.Repeated = b.reason, b.meaning, b.repeated
}

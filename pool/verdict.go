package pool

import "time"

// Meaning is what an upstream's answer says about the member that made the
// attempt.
type Meaning string

// The meanings. RateLimited, QuotaExhausted and AuthFailed bench the member;
// the others never do.
const (
	OK             Meaning = "ok"
	RateLimited    Meaning = "rate_limited"
	QuotaExhausted Meaning = "quota_exhausted"
	AuthFailed     Meaning = "auth_failed"
	Overloaded     Meaning = "overloaded"
	RequestError   Meaning = "request_error"
)

// BenchingMeanings are the meanings that bench a member, in the order in which
// they are documented. They are also the kinds of cooldown that can be
// configured.
var BenchingMeanings = []Meaning{RateLimited, QuotaExhausted, AuthFailed}

// Benches reports whether the meaning blames the member.
func (m Meaning) Benches() bool {
	return m == RateLimited || m == QuotaExhausted || m == AuthFailed
}

// Scope is how far a verdict reaches.
type Scope string

// The scopes: the whole member, one model or resource of it, this request
// alone, or the provider as a whole.
const (
	ScopeMember   Scope = "member"
	ScopeModel    Scope = "model"
	ScopeRequest  Scope = "request"
	ScopeProvider Scope = "provider"
)

// Verdict is what an answer says about the member that made the attempt. The
// zero value says nothing and changes nothing.
type Verdict struct {
	Meaning Meaning

	// Wait is how long the answer said to wait; 0 if it did not say. It is
	// reported as found; the pool bounds it.
	Wait time.Duration

	Scope Scope

	// Key names what is out if Scope is [ScopeModel], else it is empty:
	//
	//	"model:opus"       every model whose name contains "opus"
	//	"model"            the model that the request asked for, which the
	//	                   answer does not name
	//	"resource:search"  the part of the API that the provider calls so
	//
	// It is in lower case and has at most 80 bytes of a-z, 0-9, '.', '_', '-'
	// and one colon.
	//
	// [Lease.Report] knows the key of the request and replaces "model" by
	// "model=" and the full name, which covers that model alone. If that is not
	// known, or the member is already benched for 32 keys, the whole member is
	// benched.
	Key string

	// Served is true if the answer is good all the same: it tells that the
	// quota is now used up, or that the next request will be refused, but this
	// request was served. It is to be given back, not tried again.
	Served bool

	// Repeated is true if every member that was tried with this request before
	// failed in the same way, and the evidence can be about the request, or the
	// address that it came from. The member is benched no longer than the base
	// of its cooldown, and the failure does not count in its row.
	Repeated bool

	// Reason is the evidence in one word: the status ("429"), or an error code
	// of the provider's table where the status does not tell ("invalid_grant",
	// "invalid_auth"). It is shown to the operator, so it must not be text that
	// the upstream is free to choose.
	Reason string
}

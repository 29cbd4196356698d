// Package pool decides who is served next: an ordered list of members of which
// one is active, and what is known about each of them.
//
// A caller asks a [Pool] for a [Lease] with [Pool.Acquire], makes one attempt
// with that member's credential, and says on the lease what came of it with
// [Lease.Report]. A verdict that blames the member benches it: it cools down,
// and the active pointer moves forward to the next member that is ready. The
// pointer is sticky; nobody else's recovery moves it back.
//
//	lease, err := p.Acquire(time.Now(), "model:gpt-5")
//	// … one attempt with the credential of lease.Member() …
//	lease.Report(time.Now(), pool.Verdict{Meaning: pool.RateLimited, Wait: time.Minute, Reason: "429"})
//
// A member is in one of four states. It is missing while there is no usable
// credential for it; cooling until a time because of a verdict; parked until a
// time because the operator set it aside; else ready. Cooling and parked are
// two deadlines that run side by side, and cooling outranks parked. A parked
// member is healthy: it is a refuge when nobody is ready.
//
// A verdict can also say that one model or one part of the API is out. That
// benches the member for the requests that it covers alone, which their key
// tells. They go to the first usable member from the active one onward; the
// pointer stays, for all others. Such a bench has its own row of failures and
// its own blame, and its notices carry the key.
//
// When nobody is left, the one attempt that is made goes to the member that is
// back first; but in turn, and each once in 15 min, to those that have longer
// than that to go. Those whose login was rejected come last.
//
// What is known about the members outlives a configuration and lives in a
// [State]; their order, cooldowns and identities belong to a configuration and
// live in a [Pool]. Several pools may look at one state at the same time, as
// happens while a configuration is replaced.
//
// The package knows no HTTP and never holds a secret. It is told the time.
package pool

package classify

import (
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

// Wait is one place in which an answer can say how long to wait.
type Wait struct {
	// Name is the place, for people: "Retry-After".
	Name string

	// Window is true if the place describes a window of a limit, and does not
	// say outright when to come back. It counts only if nothing does.
	Window bool

	// Source is where the place is documented.
	Source string

	// inBody is true if the place is in the body.
	inBody bool

	// find returns how long to wait from the moment of the answer, and whether
	// the answer says so at all.
	find func(*evidence) (time.Duration, bool)
}

// longest collects waits of one rank.
type longest struct {
	wait  time.Duration
	found bool
}

func (l *longest) add(wait time.Duration, ok bool) {
	if ok {
		l.wait, l.found = max(l.wait, min(wait, maxWait)), true
	}
}

func (l *longest) result() (time.Duration, bool) { return l.wait, l.found }

// headerWait is a header that says outright how long to wait.
func headerWait(name string, parse func(string, *evidence) (time.Duration, bool), source string) Wait {
	return Wait{Name: name, Source: source, find: func(e *evidence) (time.Duration, bool) {
		var all longest
		for _, value := range e.header(name) {
			all.add(parse(value, e))
		}
		return all.result()
	}}
}

// window is a header with the time of a reset, and one with what remains until
// then.
func window(reset, remaining, source string) Wait {
	return Wait{Name: reset, Window: true, Source: source, find: func(e *evidence) (time.Duration, bool) {
		if !usedUp(e.header(remaining)) {
			return 0, false
		}
		var all longest
		for _, value := range e.header(reset) {
			all.add(parseReset(value, e.Answer))
		}
		return all.result()
	}}
}

// usedUp reports whether nothing remains, or it is not said what does.
func usedUp(remaining []string) bool {
	for _, value := range remaining {
		if n, ok := parseNumber(value); ok && n > 0 {
			return false
		}
	}
	return true
}

// isZero reports whether the value says that nothing remains.
func isZero(value string) bool {
	if value != "" && '1' <= value[0] && value[0] <= '9' {
		return false // every good answer comes here
	}
	n, ok := parseNumber(value)
	return ok && n <= 0
}

// spent is a rule for Provider.Success: nothing remains until the reset.
func spent(name, remaining, reset, source string) Rule {
	return Rule{
		Name:    name,
		Header:  []HeaderIs{{Name: remaining, Also: "is 0", value: isZero}, {Name: reset}},
		Meaning: pool.RateLimited,
		Source:  source,
	}
}

// Where the waits of more than one provider are documented.
const (
	rfcRetryAfter = "RFC 9110 section 10.2.3, RFC 6585 section 4"
	sdkRetryAfter = "convention: the OpenAI and Anthropic SDKs obey it before Retry-After"
)

var (
	retryAfterWait   = headerWait("Retry-After", parseRetryAfter, rfcRetryAfter)
	retryAfterMSWait = headerWait("Retry-After-Ms", parseMilliseconds, sdkRetryAfter)
)

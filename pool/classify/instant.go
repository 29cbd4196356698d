package classify

import (
	"net/http"
	"strings"
	"time"
)

// maxWait is the longest wait that is reported, 2^31 seconds: what a count of
// seconds that is too large to handle is to be taken for (RFC 9111 section
// 1.2.2). Any time of this age plus maxWait is a valid [time.Time].
const maxWait = maxSeconds * time.Second

const maxSeconds = 1 << 31

// retryAfter finds the wait in Retry-After (RFC 9110 section 10.2.3): a count
// of seconds, or a date. A server must not send it twice, but some do, or a
// gateway adds its own; then only the longest satisfies them all. A value in
// neither form, or a date in the past, says nothing.
func retryAfter(a Answer) (time.Duration, bool) {
	longest, found := time.Duration(0), false
	for _, value := range a.Header["Retry-After"] {
		value = strings.Trim(value, " \t")
		wait, ok := parseSeconds(value)
		if !ok {
			wait, ok = parseDate(value, a)
		}
		if ok {
			longest, found = max(longest, wait), true
		}
	}
	return longest, found
}

// parseSeconds reads delay-seconds, which is 1*DIGIT: no sign, no fraction, no
// exponent.
func parseSeconds(value string) (time.Duration, bool) {
	if value == "" {
		return 0, false
	}
	var seconds int64
	for _, c := range []byte(value) {
		if c < '0' || c > '9' {
			return 0, false
		}
		// Stops growing far below an overflow, but goes on to see that the
		// rest are digits too.
		seconds = min(seconds*10+int64(c-'0'), maxSeconds)
	}
	return time.Duration(seconds) * time.Second, true
}

// parseDate reads an HTTP-date and returns how long after the answer it is. The
// answer's own clock is the one that the date was made with.
func parseDate(value string, a Answer) (time.Duration, bool) {
	until, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	from, err := http.ParseTime(a.Header.Get("Date"))
	if err != nil {
		from = a.Now
	}
	// Sub saturates, so a date in year 9999 does not overflow.
	wait := until.Sub(from)
	if wait < 0 {
		return 0, false
	}
	return min(wait, maxWait), true
}

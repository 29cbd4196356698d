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

// parseRetryAfter reads Retry-After (RFC 9110 section 10.2.3): a count of
// seconds, or a date. A server must not send it twice, but some do, or a gateway
// adds its own; then only the longest satisfies them all. A value in neither
// form, or a date in the past, says nothing.
func parseRetryAfter(value string, e *evidence) (time.Duration, bool) {
	value = strings.Trim(value, " \t")
	if wait, ok := parseSeconds(value); ok {
		return wait, true
	}
	t, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	return e.until(t)
}

// parseMilliseconds reads the forms of Retry-After in milliseconds, which may
// have a fraction.
func parseMilliseconds(value string, _ *evidence) (time.Duration, bool) {
	return parseDecimal(value, time.Millisecond)
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

// Numbers below these are a wait in seconds, a point in time in seconds since
// 1970, and one in milliseconds.
const (
	firstEpoch      = 1e8  // 1973, or three years
	firstEpochMilli = 1e11 // 1973 again, or the year 5138
)

// parseReset reads the value of a reset, which providers write as a point in
// time (seconds or milliseconds since 1970, RFC 3339, an HTTP-date) or as a wait
// (seconds, or a duration such as 2m59.56s).
func parseReset(value string, a *Answer) (time.Duration, bool) {
	value = strings.TrimSpace(value)
	if n, ok := parseNumber(value); ok {
		if n < firstEpoch {
			return parseDecimal(value, time.Second)
		}
		return parseEpoch(value, a)
	}
	if wait, ok := parseDuration(value); ok {
		return wait, true
	}
	return parseInstant(value, a)
}

// parseEpoch reads a point in time since 1970.
func parseEpoch(value string, a *Answer) (time.Duration, bool) {
	n, ok := parseNumber(value)
	switch {
	case !ok || n < firstEpoch || n >= firstEpochMilli*1000:
		return 0, false
	case n >= firstEpochMilli:
		return a.until(time.UnixMilli(int64(n)))
	}
	return a.until(time.UnixMilli(int64(n * 1000)))
}

// parseInstant reads a point in time in words.
func parseInstant(value string, a *Answer) (time.Duration, bool) {
	if t, err := time.Parse(time.RFC3339, value); err == nil {
		return a.until(t)
	}
	if t, err := http.ParseTime(value); err == nil {
		return a.until(t)
	}
	return 0, false
}

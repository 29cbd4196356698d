package classify

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// units are the units of durations, in lower case. A unit is never a part of a
// longer word.
var units = map[string]time.Duration{
	"ms": time.Millisecond, "millisecond": time.Millisecond, "milliseconds": time.Millisecond,
	"s": time.Second, "sec": time.Second, "secs": time.Second, "second": time.Second, "seconds": time.Second,
	"m": time.Minute, "min": time.Minute, "mins": time.Minute, "minute": time.Minute, "minutes": time.Minute,
	"h": time.Hour, "hr": time.Hour, "hrs": time.Hour, "hour": time.Hour, "hours": time.Hour,
	"d": day, "day": day, "days": day,
	"w": 7 * day, "week": 7 * day, "weeks": 7 * day,
}

const day = 24 * time.Hour

// parseDuration reads a duration that is the whole of the text, such as
// 2m59.56s, 91226.179915352s or 1h.
func parseDuration(text string) (time.Duration, bool) {
	wait, rest, ok := cutDuration(string(lower([]byte(text))))
	return wait, ok && rest == ""
}

// cutDuration reads the duration that the text, in lower case, starts with, in
// one unit or in several with or without words between them (9m38.016s,
// 1 hour and 5 minutes, 0:43:12), and returns what follows it.
func cutDuration(text string) (wait time.Duration, rest string, ok bool) {
	if wait, rest, ok = cutClock(text); ok {
		return wait, rest, true
	}
	for rest = text; ; {
		number, after := cutNumber(rest)
		word, after := cutWord(strings.TrimLeft(after, " "))
		unit, known := units[word]
		if number == "" || !known {
			return wait, rest, ok
		}
		part, fits := parseDecimal(number, unit)
		if !fits {
			return wait, rest, ok
		}
		wait, ok = min(wait+part, maxWait), true
		rest = after
		// A further part follows, or the duration has ended here.
		next := strings.TrimLeft(rest, " ,")
		next = strings.TrimLeft(strings.TrimPrefix(next, "and "), " ")
		if next == "" || next[0] < '0' || next[0] > '9' {
			return wait, rest, true
		}
		if number, after := cutNumber(next); number != "" {
			if word, _ := cutWord(strings.TrimLeft(after, " ")); units[word] == 0 {
				return wait, rest, true
			}
		}
		rest = next
	}
}

// cutClock reads hours, minutes and seconds with colons between them, and days
// with a point before them (3.05:11:22).
func cutClock(text string) (wait time.Duration, rest string, ok bool) {
	rest = text
	for i, unit := range []time.Duration{time.Hour, time.Minute, time.Second} {
		var number string
		number, rest = cutNumber(rest)
		if days, hours, found := strings.Cut(number, "."); found && i == 0 {
			n, _ := parseDecimal(days, day)
			wait, number = wait+n, hours
		}
		n, fits := parseDecimal(number, unit)
		if !fits {
			return 0, text, false
		}
		wait = min(wait+n, maxWait)
		if i < 2 {
			if !strings.HasPrefix(rest, ":") {
				return 0, text, false
			}
			rest = rest[1:]
		}
	}
	return wait, rest, true
}

// cutNumber splits off digits with at most one point among them.
func cutNumber(text string) (number, rest string) {
	i, point := 0, false
	for ; i < len(text); i++ {
		c := text[i]
		if c == '.' && !point && i > 0 && i+1 < len(text) && text[i+1] >= '0' && text[i+1] <= '9' {
			point = true
		} else if c < '0' || c > '9' {
			break
		}
	}
	return text[:i], text[i:]
}

// cutWord splits off letters in lower case. Signs such as µ end it, and no
// further letter may follow.
func cutWord(text string) (word, rest string) {
	i := 0
	for i < len(text) && (text[i] >= 'a' && text[i] <= 'z' || text[i] >= 0x80) {
		i++
	}
	return text[:i], text[i:]
}

// parseNumber reads a decimal number that is not negative: no sign but -, which
// gives 0, no exponent, no other base.
func parseNumber(text string) (float64, bool) {
	text = strings.TrimSpace(text)
	negative := strings.HasPrefix(text, "-")
	text = strings.TrimPrefix(text, "-")
	number, rest := cutNumber(text)
	if number == "" || rest != "" {
		return 0, false
	}
	if negative {
		return 0, true
	}
	// A number that is too large becomes infinite, which is as large.
	n, err := strconv.ParseFloat(number, 64)
	return n, err == nil || errors.Is(err, strconv.ErrRange)
}

// parseDecimal reads a decimal number of units.
func parseDecimal(text string, unit time.Duration) (time.Duration, bool) {
	text = strings.TrimSpace(text)
	if strings.HasPrefix(text, "-") {
		return 0, false
	}
	n, ok := parseNumber(text)
	if !ok {
		return 0, false
	}
	if n > float64(maxWait)/float64(unit) {
		return maxWait, true
	}
	return time.Duration(n * float64(unit)), true
}

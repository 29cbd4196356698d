package classify

import (
	"slices"
	"strings"
	"time"
)

// Keys under which the JSON of an error says when to come back, in lower case:
// in how many seconds or milliseconds, as a duration, and at which point in
// time.
var (
	secondsKeys = []string{
		"retry_after", "retryafter", "retry_after_seconds", "retryafterseconds", "resets_in_seconds", "reset_in_seconds",
		"reset_after_seconds", "retrydelay", "quotaresetdelay",
	}
	millisecondsKeys = []string{"retry_after_ms", "retryafterms"}
	instantKeys      = []string{"resets_at", "reset_at", "resetsat", "resetat", "retry_at", "quotaresettimestamp", "quotaresettime"}
)

// fields finds a wait in the fields of the error that decided. One that is relative needs no
// clock, so where both are given it is taken for what the other means too.
func fields(source string) Wait {
	return Wait{Name: "error fields", Source: source, inBody: true, find: findFields}
}

func findFields(e *evidence) (time.Duration, bool) {
	var relative, absolute longest
	for i := range e.facts {
		f := &e.facts[i]
		switch {
		case f.header || f.cut || !f.belongs(e.part):
		case slices.Contains(secondsKeys, f.key):
			relative.add(parseReset(f.text, e.Answer))
		case slices.Contains(millisecondsKeys, f.key):
			relative.add(parseDecimal(f.text, time.Millisecond))
		case slices.Contains(instantKeys, f.key):
			wait, ok := parseEpoch(f.text, e.Answer)
			if !ok {
				wait, ok = parseInstant(strings.TrimSpace(f.text), e.Answer)
			}
			absolute.add(wait, ok)
		}
	}
	if relative.found {
		return relative.result()
	}
	return absolute.result()
}

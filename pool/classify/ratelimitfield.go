package classify

import (
	"strings"
	"time"
)

// rateLimitFieldWait is the structured field RateLimit, in the form that names
// each policy ("api";r=0;t=55) and in the one before it (limit=9, remaining=0,
// reset=55).
var rateLimitFieldWait = Wait{
	Name: "RateLimit", Window: true, Source: "draft-ietf-httpapi-ratelimit-headers, sections on RateLimit",
	find: func(e *evidence) (time.Duration, bool) {
		var all longest
		for _, value := range e.header("Ratelimit") {
			for _, item := range splitUnquoted(value, ',') {
				if remaining, reset := rateLimitItem(item); usedUp(remaining) {
					all.add(parseSeconds(reset))
				}
			}
			if remaining, reset := rateLimitList(value); usedUp(remaining) {
				all.add(parseSeconds(reset))
			}
		}
		return all.result()
	},
}

// rateLimitIsSpent reports whether a policy of the field has nothing left.
func rateLimitIsSpent(value string) bool {
	if !strings.Contains(value, "r=0") {
		return false // every good answer comes here
	}
	for _, item := range splitUnquoted(value, ',') {
		remaining, reset := rateLimitItem(item)
		if _, ok := parseSeconds(reset); ok && len(remaining) > 0 && usedUp(remaining) {
			return true
		}
	}
	return false
}

// rateLimitItem reads the parameters of one policy.
func rateLimitItem(item string) (remaining []string, reset string) {
	for _, param := range splitUnquoted(item, ';') {
		switch name, value, _ := strings.Cut(strings.TrimSpace(param), "="); name {
		case "r":
			remaining = []string{value}
		case "t":
			reset = value
		}
	}
	return remaining, reset
}

// rateLimitList reads the older form.
func rateLimitList(value string) (remaining []string, reset string) {
	for _, param := range splitUnquoted(value, ',') {
		switch name, value, _ := strings.Cut(strings.TrimSpace(param), "="); name {
		case "remaining":
			remaining = []string{value}
		case "reset":
			reset = value
		}
	}
	return remaining, reset
}

// splitUnquoted splits at the separator where it is not within a string (RFC
// 9651 section 3.3.3).
func splitUnquoted(value string, sep byte) []string {
	var parts []string
	start, quoted := 0, false
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == sep && !quoted:
			parts, start = append(parts, value[start:i]), i+1
		}
	}
	return append(parts, value[start:])
}

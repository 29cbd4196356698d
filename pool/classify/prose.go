package classify

import (
	"regexp"
	"strings"
	"time"
)

// inProse are the words after which an error's message says how long to wait.
var inProse = []string{
	"again in ", "again after ", "retry after ", "retry in ", "retrying in ", "reset in ", "resets in ", "reset after ",
	"resets after ", "replenished in ", "available in ", "available again in ", "wait ",
}

// atProse are the words after which it says until when.
var atProse = []string{
	"access on ", "again at ", "again on ", "again after ", "retry after ", "reset at ", "resets at ", "reset on ", "resets on ",
	"available at ", "until ",
}

// fillers may stand before the duration.
var fillers = []string{"for ", "about ", "approximately ", "around ", "at least ", "another ", "~"}

// maxMessages bounds how many messages of one answer are searched.
const maxMessages = 8

// prose finds a wait in the messages of the error that decided, but not in what
// they quote: "Please try again in 9m38.016s".
func prose(source string) Wait {
	return Wait{Name: "message", Source: source, inBody: true, find: findProse}
}

func findProse(e *evidence) (time.Duration, bool) {
	var all longest
	n := 0
	for i := range e.facts {
		f := &e.facts[i]
		if !f.isMessage || f.cut || !f.belongs(e.part) || n == maxMessages {
			continue
		}
		n++
		text := string(f.unquoted())
		eachAfter(text, inProse, func(rest string) {
			wait, _, ok := cutDuration(skipFillers(rest))
			all.add(wait, ok)
		})
		eachAfter(text, atProse, func(rest string) { all.add(cutInstant(rest, e.Answer)) })
	}
	return all.result()
}

// eachAfter calls do with what follows each occurrence of any of the words.
func eachAfter(text string, words []string, do func(rest string)) {
	for _, word := range words {
		for rest := text; ; {
			_, after, found := strings.Cut(rest, word)
			if !found {
				break
			}
			do(after)
			rest = after
		}
	}
}

func skipFillers(text string) string {
	text = strings.TrimLeft(text, " ")
	for _, filler := range fillers {
		if after, ok := strings.CutPrefix(text, filler); ok {
			return strings.TrimLeft(after, " ")
		}
	}
	return text
}

// instant is how a message, in lower case, writes a point in time: a date, often
// a time, seldom a zone.
var instant = regexp.MustCompile(`^(\d{4}-\d\d-\d\d)(?:(?:t| at | )(\d\d:\d\d)(:\d\d)?(?:\.\d+)? ?(z|utc|gmt|[+-]\d\d:\d\d)?)?`)

// cutInstant reads the point in time that the text, in lower case, starts with.
// It is in UTC unless it says otherwise, and at midnight unless it says when.
func cutInstant(text string, a *Answer) (time.Duration, bool) {
	const longest = 48
	m := instant.FindStringSubmatch(text[:min(len(text), longest)])
	if m == nil {
		return 0, false
	}
	date, clock, seconds, zone := m[1], m[2], m[3], m[4]
	if clock == "" {
		clock = "00:00"
	}
	if seconds == "" {
		seconds = ":00"
	}
	if zone == "" || zone[0] >= 'a' {
		zone = "Z"
	}
	t, err := time.Parse(time.RFC3339, date+"T"+clock+seconds+zone)
	if err != nil {
		return 0, false
	}
	return a.until(t)
}

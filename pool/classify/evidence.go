package classify

import (
	"bytes"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Bounds of what is looked at, so that no body costs more than a few
// milliseconds.
const (
	maxBody  = 64 << 10 // bytes of the body
	maxFacts = 64       // values kept of it
	maxText  = 4 << 10  // bytes of one value
)

// everyPart stands for the answer as a whole, where it reports several errors.
const everyPart = -1

// failedWithin is the status of a failure that a success reports in its body
// without a status of its own.
const failedWithin = -1

// evidence is an answer with what its body says, read once.
type evidence struct {
	*Answer

	// status is the answer's, or that of the failure within a success.
	status int

	// failed is true if the body of a success reports a failure.
	failed bool

	// partial is true if the failure that a success reports is of a part of it: the
	// rest was done, and stands beside it as "data" (GraphQL, section 7.1).
	partial bool

	// parts is how many errors the body tells of, or may; part is the one that the
	// rule that decided is about.
	parts, part int

	// markup is true if the body is a page for people.
	markup bool

	facts       []fact
	low         []byte
	lowUnquoted []byte

	// copies is true if the headers that an error holds copies of count.
	copies bool
}

// fact is one value out of the error's envelope: the objects that APIs wrap
// their errors in, see envelopes.
type fact struct {
	key  string // in lower case
	text string

	// within is the outermost key, in lower case, and empty for a value of the
	// outermost object. It is "text" if there is no object.
	within string

	// of is the innermost key of an object that the value stands in.
	of string

	// part is the error that the value belongs to, if there is a list of them;
	// else 0.
	part int

	// header is true if the value stands in the copy of an HTTP header.
	header bool

	// cut is true if the body ended within the value.
	cut bool

	// isCode and isMessage say what the value can be, by its key.
	isCode, isMessage bool

	low  []byte // the text in lower case, once it is asked for
	said []byte // the same without what it quotes
}

// codeKeys are the keys under which APIs put a word for the kind of error,
// messageKeys those for a sentence. A string under "error" can be either.
var (
	codeKeys = []string{
		"code", "type", "status", "reason", "error", "error_code", "errorcode", "error_type", "__type", "event_type",
		"limit_source", "error_subtype", "suberror",
	}
	messageKeys = []string{
		"message", "error", "errors", "detail", "error_description", "msg", "raw", "documentation_url",
	}
)

// trimStart removes what may stand before JSON: white space, and a byte order mark.
func trimStart(body []byte) []byte { return bytes.TrimLeft(body, " \t\r\n\ufeff") }

func newEvidence(a *Answer) *evidence {
	e := &evidence{Answer: a, status: a.Status, parts: 1, part: everyPart}
	if len(a.Body) > maxBody {
		a.Body = a.Body[:maxBody]
	}
	e.readErrorType()
	switch body := trimStart(a.Body); {
	case len(body) == 0:
	case body[0] == '{' || body[0] == '[':
		e.read(body)
	case isEventStream(a.Header):
		e.readEvents(body)
	case body[0] == '<':
		e.markup = true
	default:
		e.readText(body)
	}
	if e.Status >= 200 && e.Status < 300 {
		e.failed = e.reportsFailure()
		e.partial = e.partial && e.failed && slices.ContainsFunc(e.facts, func(f fact) bool { return f.within == "errors" })
		if e.failed {
			e.status = e.statusWithin()
		}
	}
	return e
}

// read takes the facts out of JSON.
func (e *evidence) read(body []byte) {
	e.partial = scan(body, func(f fact) bool {
		e.add(f)
		return len(e.facts) < maxFacts
	})
}

func (e *evidence) add(f fact) {
	f.isCode = !f.header && !f.cut && slices.Contains(codeKeys, f.key)
	f.isMessage = !f.header && slices.Contains(messageKeys, f.key)
	e.facts = append(e.facts, f)
	e.parts = max(e.parts, f.part+1)
}

// readText takes a body that is neither JSON nor markup for the message, and if
// it is one word for the code too. It can also be a form, as GitHub's token
// endpoint answers.
func (e *evidence) readText(body []byte) {
	text := strings.TrimSpace(string(body[:min(len(body), maxText)]))
	if strings.HasPrefix(text, "error=") {
		if form, err := url.ParseQuery(text); err == nil {
			e.add(fact{key: "error", text: form.Get("error")})
			e.add(fact{key: "error_description", text: form.Get("error_description")})
			return
		}
	}
	e.add(fact{key: "error", text: text, within: "text"})
}

// readErrorType takes AWS's word for the error out of its header.
func (e *evidence) readErrorType() {
	if v := e.Header["X-Amzn-Errortype"]; len(v) > 0 {
		e.add(fact{key: "__type", text: v[0]})
	}
}

// reportsFailure reports whether the body of a success is an error. An empty
// list or object of errors, or null, is none: only values are facts.
func (e *evidence) reportsFailure() bool {
	for i := range e.facts {
		switch f := &e.facts[i]; {
		case f.header:
		case f.within == "" && f.key == "ok" && f.text == "false",
			f.within == "" && f.key == "error" && f.text != "" && f.text != "false",
			f.within == "error", f.within == "errors",
			f.within == "" && f.key == "type" && isFailureEvent(f.text),
			f.within == "" && f.key == "event_type" && isFailureEvent(f.text):
			return true
		}
	}
	return false
}

// statusWithin returns the status that an error within a success gives.
func (e *evidence) statusWithin() int {
	for i := range e.facts {
		switch f := &e.facts[i]; f.key {
		case "status", "status_code", "code":
			if n, err := strconv.Atoi(f.text); err == nil && n >= 400 && n < 600 {
				return n
			}
		}
	}
	return failedWithin
}

// belongs reports whether the value is about that error.
func (f *fact) belongs(part int) bool { return part == everyPart || f.part == part }

// code reports whether the error's code is one of these, and which.
func (e *evidence) code(part int, codes []string) (string, bool) {
	for i := range e.facts {
		f := &e.facts[i]
		if !f.isCode || !f.belongs(part) {
			continue
		}
		text := f.text
		if f.key == "__type" {
			text = awsName(text)
		}
		for _, code := range codes {
			if matches(code, text) {
				return strings.Trim(code, "*"), true
			}
		}
	}
	return "", false
}

// says reports whether a message of that error begins with one of these words,
// as those of a Rule are written.
func (e *evidence) says(part int, words []string) bool {
	for i := range e.facts {
		f := &e.facts[i]
		if f.isMessage && f.belongs(part) && slices.ContainsFunc(words, func(w string) bool { return begins(f.unquoted(), w) }) {
			return true
		}
	}
	return false
}

// unquoted returns the text in lower case, without what it quotes.
func (f *fact) unquoted() []byte {
	if f.said == nil {
		f.said = unquoted(f.lowered())
	}
	return f.said
}

func (f *fact) lowered() []byte {
	if f.low == nil {
		f.low = lower([]byte(f.text))
	}
	return f.low
}

// has reports whether the error has a value under this key.
func (e *evidence) has(key string) bool { return e.value(key) != "" }

// value returns the first value under this key that is not empty.
func (e *evidence) value(key string) string {
	for i := range e.facts {
		if f := &e.facts[i]; !f.header && !f.cut && f.key == key && f.text != "" {
			return f.text
		}
	}
	return ""
}

// header returns a header of the answer, or of the copy of one that the error
// holds: an event has no headers of its own.
func (e *evidence) header(name string) []string {
	if v := e.Header[name]; len(v) > 0 || !e.copies {
		return v
	}
	for i := range e.facts {
		if f := &e.facts[i]; f.header && !f.cut && http.CanonicalHeaderKey(f.key) == name {
			return []string{f.text}
		}
	}
	return nil
}

// lowered returns the body in lower case.
func (e *evidence) lowered() []byte {
	if e.low == nil {
		e.low = lower(e.Body)
	}
	return e.low
}

// loweredUnquoted is lowered without what stands between escaped quotes, within
// one string: an error's text that quotes the client.
func (e *evidence) loweredUnquoted() []byte {
	if e.lowUnquoted == nil {
		e.lowUnquoted = withoutEscapedQuotes(e.lowered())
	}
	return e.lowUnquoted
}

// matches compares a code of a table, which may have a * at one end, with the
// answer's. What a * stands for is of one word, as codes are.
func matches(code, text string) bool {
	if !strings.HasPrefix(code, "*") && !strings.HasSuffix(code, "*") {
		return strings.EqualFold(code, text)
	}
	if strings.ContainsAny(text, " \t\r\n") {
		return false
	}
	if prefix, ok := strings.CutSuffix(code, "*"); ok {
		return len(text) > len(prefix) && strings.EqualFold(text[:len(prefix)], prefix)
	}
	suffix := code[1:]
	return len(text) > len(suffix) && strings.EqualFold(text[len(text)-len(suffix):], suffix)
}

// awsName returns the name of an error in AWS's notation, which may have a
// namespace before # and a URI after a colon.
func awsName(name string) string {
	name, _, _ = strings.Cut(name, ":")
	if _, after, ok := strings.Cut(name, "#"); ok {
		name = after
	}
	return strings.TrimSpace(name)
}

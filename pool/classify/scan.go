package classify

import (
	"bytes"
	"slices"
	"strconv"
	"unicode/utf8"
)

// envelopes are the keys of objects and lists in which APIs wrap an error or
// its details. All others are skipped: an error may quote the user, and a good
// answer may hold anything.
var envelopes = []string{
	"error", "errors", "response", "detail", "details", "metadata", "innererror", "violations", "quotadimensions", "headers",
	"message",
}

// ofAnError are those of which one must be outside of "metadata": an error's is
// the provider's, but what a response has is the client's own.
var ofAnError = []string{"error", "errors", "detail", "details"}

// maxDepth is how deep objects can be nested for their values to be kept.
const maxDepth = 8

// scanner walks over JSON in one pass, without recursion, and forgives what a
// parser would not: the body may be cut off anywhere.
type scanner struct {
	body []byte
	pos  int

	// levels are the open objects and lists, as far as maxDepth; depth counts
	// all of them.
	levels [maxDepth]level
	depth  int

	key   []byte // the last one read, of the innermost object
	value bool   // what comes next is the key's value

	// part counts the errors of a list; next is true if another one begins with
	// the next value that is kept.
	part int
	next bool

	// data is true if the outermost object has a "data" that is not null.
	data bool

	emit func(fact) bool
}

// level is one open object or list.
type level struct {
	key  []byte // under which it stands; a list's elements stand under the list's
	list bool
	skip bool // its values are not kept
}

// scan calls emit with each string, number and boolean in an error's envelope,
// until it returns false. It reports whether there is data beside it.
func scan(body []byte, emit func(fact) bool) (data bool) {
	s := scanner{body: body, emit: emit}
	for s.pos < len(s.body) {
		if !s.step() {
			break
		}
	}
	return s.data
}

// step reads one token, and reports whether to go on.
func (s *scanner) step() bool {
	switch c := s.body[s.pos]; c {
	case ' ', '\t', '\r', '\n':
		s.pos++
	case '{', '[':
		s.open(c == '[')
	case '}', ']':
		s.pos++
		s.depth = max(s.depth-1, 0)
		s.key, s.value = nil, false
	case ':':
		s.pos++
		s.value = true
	case ',':
		s.pos++
		s.key, s.value = nil, false
	case '"':
		return s.text()
	default:
		return s.literal()
	}
	return true
}

// open enters an object or a list.
func (s *scanner) open(list bool) {
	s.pos++
	s.seeData()
	if s.depth < maxDepth {
		l := level{key: s.key, list: list}
		if s.depth > 0 {
			outer := s.levels[s.depth-1]
			if outer.list {
				l.key = outer.key
			}
			l.skip = outer.skip || (l.key != nil && !s.isEnvelope(l.key))
			s.next = s.next || !list && s.isListOfErrors(s.depth)
		}
		s.levels[s.depth] = l
	}
	s.depth++
	s.key, s.value = nil, false
}

// seeData takes note of a value that begins here, if it is the answer's data.
func (s *scanner) seeData() {
	s.data = s.data || s.depth == 1 && s.value && string(s.key) == "data"
}

// isListOfErrors reports whether the level at this depth is a list with an error
// in each of its objects: the outermost one, or the one of GraphQL.
func (s *scanner) isListOfErrors(depth int) bool {
	switch depth {
	case 1:
		return s.levels[0].list
	case 2:
		return s.levels[1].list && !s.levels[0].list && string(s.levels[1].key) == "errors"
	}
	return false
}

func (s *scanner) isEnvelope(key []byte) bool {
	if !isOneOf(key, envelopes) {
		return false
	}
	return !isOneOf(key, []string{"metadata"}) || slices.ContainsFunc(s.levels[:s.depth], func(l level) bool { return isOneOf(l.key, ofAnError) })
}

func isOneOf(key []byte, keys []string) bool {
	for _, k := range keys {
		if len(k) == len(key) && bytes.EqualFold(key, []byte(k)) {
			return true
		}
	}
	return false
}

// text reads a string, which is a key or a value.
func (s *scanner) text() bool {
	start := s.pos + 1
	end, cut := stringEnd(s.body, start)
	s.pos = min(end+1, len(s.body))
	raw := s.body[start:end]
	if s.inList() || s.value {
		s.seeData()
		return s.keep(raw, cut, true)
	}
	s.key = raw
	return true
}

// stringEnd returns where the string that starts here ends, and whether the
// body ended first.
func stringEnd(body []byte, start int) (end int, cut bool) {
	// Most strings are short, and so is what stands between escapes that are many;
	// the rest is searched fastest for one byte.
	const short = 16
	i, quote := start, start-1
	for i < len(body) {
		for last := min(i+short, len(body)); i < last; i++ {
			switch body[i] {
			case '"':
				return i, false
			case '\\':
				i++ // what is escaped
			}
		}
		if quote < i {
			next := bytes.IndexByte(body[min(i, len(body)):], '"')
			if next < 0 {
				break
			}
			quote = i + next
		}
		escape := bytes.IndexByte(body[i:quote], '\\')
		if escape < 0 {
			return quote, false
		}
		i += escape + 2
	}
	return len(body), true
}

// literal reads a number, true, false or null, or what cannot be JSON.
func (s *scanner) literal() bool {
	start := s.pos
	for s.pos++; s.pos < len(s.body); s.pos++ {
		switch s.body[s.pos] {
		case ',', '}', ']', ' ', '\t', '\r', '\n', ':', '{', '[', '"':
			return s.bare(s.body[start:s.pos], false)
		}
	}
	return s.bare(s.body[start:], true)
}

func (s *scanner) bare(raw []byte, cut bool) bool {
	if !s.value && !s.inList() || string(raw) == "null" {
		return true
	}
	s.seeData()
	return s.keep(raw, cut, false)
}

func (s *scanner) inList() bool {
	return s.depth > 0 && s.depth <= maxDepth && s.levels[s.depth-1].list
}

// partOf returns which error of a list the value belongs to, and 0 outside of one.
func (s *scanner) partOf() int {
	if !s.isListOfErrors(min(s.depth-1, 1)) && (s.depth < 3 || !s.isListOfErrors(2)) {
		return 0
	}
	if s.next {
		s.part, s.next = s.part+1, false
	}
	return s.part
}

// keep emits a value, if it is in the error's envelope.
func (s *scanner) keep(raw []byte, cut, quoted bool) bool {
	if s.depth == 0 || s.depth > maxDepth || s.levels[s.depth-1].skip {
		return true
	}
	key := s.key
	if s.inList() {
		key = s.levels[s.depth-1].key
	}
	raw, cut = raw[:min(len(raw), maxText)], cut || len(raw) > maxText
	f := fact{key: string(lower(key[:min(len(key), 128)])), text: string(raw), cut: cut, part: s.partOf()}
	if quoted && bytes.IndexByte(raw, '\\') >= 0 {
		f.text = unescape(raw)
	}
	for _, l := range s.levels[:s.depth] {
		if f.within == "" {
			f.within = string(lower(l.key))
		}
		f.header = f.header || bytes.EqualFold(l.key, []byte("headers"))
		if l.key != nil {
			f.of = string(lower(l.key))
		}
	}
	return s.emit(f)
}

// unescape undoes JSON's escapes. Nothing looks for letters beyond the first
// plane, so surrogates need no care.
func unescape(raw []byte) string {
	text := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' || i+1 == len(raw) {
			text = append(text, raw[i])
			continue
		}
		i++
		switch c := raw[i]; c {
		case 'n', 'r', 't', 'b', 'f':
			text = append(text, ' ')
		case 'u':
			r := utf8.RuneError
			if i+4 < len(raw) {
				if n, err := strconv.ParseUint(string(raw[i+1:i+5]), 16, 16); err == nil {
					r = rune(n)
				}
				i += 4
			}
			text = utf8.AppendRune(text, r)
		default:
			text = append(text, c)
		}
	}
	return string(text)
}

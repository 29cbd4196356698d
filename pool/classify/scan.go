package classify

import (
	"bytes"
	"strconv"
)

// envelopes are the keys of objects and lists in which APIs wrap an error or
// its details. All others are skipped: an error may quote the user, and a good
// answer may hold anything.
var envelopes = []string{
	"error", "errors", "response", "detail", "details", "metadata", "innererror", "violations", "headers", "message",
}

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

	emit func(fact) bool
}

// level is one open object or list.
type level struct {
	key  []byte // under which it stands; a list's elements stand under the list's
	list bool
	skip bool // its values are not kept
}

// scan calls emit with each string, number and boolean in an error's envelope,
// until it returns false.
func scan(body []byte, emit func(fact) bool) {
	s := scanner{body: body, emit: emit}
	for s.pos < len(s.body) {
		if !s.step() {
			return
		}
	}
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
	if s.depth < maxDepth {
		l := level{key: s.key, list: list}
		if s.depth > 0 {
			outer := s.levels[s.depth-1]
			if outer.list {
				l.key = outer.key
			}
			l.skip = outer.skip || (l.key != nil && !isEnvelope(l.key))
		}
		s.levels[s.depth] = l
	}
	s.depth++
	s.key, s.value = nil, false
}

func isEnvelope(key []byte) bool {
	for _, e := range envelopes {
		if len(e) == len(key) && bytes.EqualFold(key, []byte(e)) {
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
		return s.keep(raw, cut, true)
	}
	s.key = raw
	return true
}

// stringEnd returns where the string that starts here ends, and whether the
// body ended first.
func stringEnd(body []byte, start int) (end int, cut bool) {
	for i := start; i < len(body); i++ {
		next := bytes.IndexAny(body[i:], `"\`)
		if next < 0 {
			break
		}
		i += next
		if body[i] == '"' {
			return i, false
		}
		i++ // what is escaped
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
	return s.keep(raw, cut, false)
}

func (s *scanner) inList() bool {
	return s.depth > 0 && s.depth <= maxDepth && s.levels[s.depth-1].list
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
	f := fact{key: string(lower(key[:min(len(key), 128)])), text: string(raw), cut: cut}
	if quoted && bytes.IndexByte(raw, '\\') >= 0 {
		f.text = unescape(raw)
	}
	for _, l := range s.levels[:s.depth] {
		if f.within == "" {
			f.within = string(lower(l.key))
		}
		f.header = f.header || bytes.EqualFold(l.key, []byte("headers"))
	}
	return s.emit(f)
}

// unescape undoes JSON's escapes. Letters beyond ASCII are of no use here, so
// surrogates need no care.
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
			r := byte('?')
			if i+4 < len(raw) {
				if n, err := strconv.ParseInt(string(raw[i+1:i+5]), 16, 8); err == nil && n >= 0 {
					r = byte(n)
				}
				i += 4
			}
			text = append(text, r)
		default:
			text = append(text, c)
		}
	}
	return string(text)
}

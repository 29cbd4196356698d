package classify

import "encoding/json"

// maxModelName is above the length of any model's name, written with escapes.
const maxModelName = 1 << 10

// Model returns the top-level "model" of a JSON object, as a request's body names
// the model that it asks for. Of several the last one counts, as it does for JSON
// parsers, and it must be a string of less than a kilobyte. The end of the body
// may be missing; then it is the last one that is whole.
//
// It takes time in proportion to the body, however that is nested, and memory for
// the name only. What is no JSON gives any result.
func Model(body []byte) (name string, ok bool) {
	s := modelScanner{body: body, last: -1}
	s.scan()
	if s.last < 0 {
		return "", false
	}
	return unquoteJSON(s.body[s.last:s.end])
}

// modelScanner walks over JSON without looking into it. The string of the last
// "model" is body[last:end], with its quotes; last is -1 if it is none.
type modelScanner struct {
	body      []byte
	depth     int
	value     bool // what comes next is the key's value
	isModel   bool // the key is "model"
	last, end int
}

func (s *modelScanner) scan() {
	s.body = trimStart(s.body)
	if len(s.body) == 0 || s.body[0] != '{' {
		return
	}
	for i := 0; i < len(s.body); i++ {
		switch s.body[i] {
		case '"':
			end, cut := stringEnd(s.body, i+1)
			if cut {
				return
			}
			if s.depth == 1 {
				s.text(i, end+1)
			}
			i = end
		case '{', '[':
			s.other()
			s.depth++
		case '}', ']':
			if s.depth--; s.depth <= 0 {
				return
			}
		case ':':
			s.value = true
		case ',':
			s.value = s.value && s.depth > 1
		case ' ', '\t', '\r', '\n':
		default:
			if s.depth == 1 {
				s.other()
			}
		}
	}
}

// text is a string of the outermost object.
func (s *modelScanner) text(start, end int) {
	switch {
	case !s.value:
		s.isModel = isModelKey(s.body[start:end])
	case s.isModel:
		s.last, s.end = start, end
	}
}

// other is a value that is no string.
func (s *modelScanner) other() {
	if s.depth == 1 && s.value && s.isModel {
		s.last = -1
	}
}

// isModelKey compares a key, in its quotes, with "model", each letter of which may
// be escaped (RFC 8259, section 7).
func isModelKey(key []byte) bool {
	key = key[1 : len(key)-1]
	for _, letter := range []byte("model") {
		switch {
		case len(key) > 0 && key[0] == letter:
			key = key[1:]
		case len(key) >= 6 && key[0] == '\\' && key[1] == 'u' && hexIs(key[2:6], letter):
			key = key[6:]
		default:
			return false
		}
	}
	return len(key) == 0
}

// hexIs reports whether four hexadecimal digits are those of an ASCII letter.
func hexIs(digits []byte, letter byte) bool {
	const hex = "0123456789abcdef"
	return digits[0] == '0' && digits[1] == '0' && digits[2] == hex[letter>>4] && lowerByte(digits[3]) == hex[letter&0xf]
}

func unquoteJSON(quoted []byte) (text string, ok bool) {
	if len(quoted) > maxModelName {
		return "", false
	}
	err := json.Unmarshal(quoted, &text)
	return text, err == nil
}

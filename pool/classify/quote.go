package classify

import (
	"bytes"
	"slices"
	"strings"
)

// Upstreams quote what a client sent: "The model `x` does not exist". A client
// that may choose x must not be able to say what it likes about the account, so
// what a message quotes is none of the message.

// quotes are the marks between which messages quote.
var quotes = []struct{ open, end string }{
	{"`", "`"}, {`"`, `"`}, {"'", "'"}, {"“", "”"}, {"‘", "’"}, {"«", "»"}, {"[", "]"},
}

// introductions are the words after which a message quotes without marks, to its
// end.
var introductions = []string{"model: ", "model=", "name: ", "name=", "value: ", "field: ", "parameter: "}

// unquoted returns the message, in lower case, without what stands between
// quotes. What is quoted may hold marks itself, so the last one that can end it
// counts, and without one it goes on to the end. The mark that opens stays: what
// was apart is not to become one word.
func unquoted(message []byte) []byte {
	message = bytes.TrimSpace(message)
	for _, intro := range introductions {
		if before, _, found := bytes.Cut(message, []byte(intro)); found {
			message = message[:len(before)+len(intro)]
		}
	}
	kept := make([]byte, 0, len(message))
	for i := 0; i < len(message); {
		open, end := openingQuote(message, i)
		if open == "" {
			kept = append(kept, message[i])
			i++
			continue
		}
		kept = append(kept, open...)
		i = closingQuote(message, i+len(open), end)
	}
	return kept
}

// openingQuote returns the mark with which a quotation begins here, and the one
// that ends it. An apostrophe within a word or at its end is none.
func openingQuote(message []byte, at int) (open, end string) {
	switch c := message[at]; {
	case c == '\'':
		if at > 0 && isWordByte(message[at-1]) {
			return "", ""
		}
	case c != '`' && c != '"' && c != '[' && c < 0x80:
		return "", ""
	}
	for _, q := range quotes {
		if bytes.HasPrefix(message[at:], []byte(q.open)) {
			return q.open, q.end
		}
	}
	return "", ""
}

// closingQuote returns where the message goes on after what is quoted.
func closingQuote(message []byte, start int, end string) int {
	for rest := message[start:]; ; {
		i := bytes.LastIndex(rest, []byte(end))
		if i < 0 {
			return len(message)
		}
		next := start + i + len(end)
		if end != "'" || next == len(message) || !isWordByte(message[next]) {
			return next
		}
		rest = rest[:i]
	}
}

func isWordByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c >= 0x80
}

// maxGap is how many bytes a * within words can stand for.
const maxGap = 128

// begins reports whether the message begins with the words, of which a * stands
// for a few others, or at the beginning for any.
func begins(message []byte, words string) bool {
	part, rest, more := strings.Cut(words, "*")
	if part != "" || !more {
		if !bytes.HasPrefix(message, []byte(part)) {
			return false
		}
		message = message[len(part):]
	} else {
		part, rest, more = strings.Cut(rest, "*")
		i := bytes.Index(message, []byte(part))
		if i < 0 {
			return false
		}
		message = message[i+len(part):]
	}
	for more {
		part, rest, more = strings.Cut(rest, "*")
		near := message[:min(len(message), maxGap+len(part))]
		i := bytes.Index(near, []byte(part))
		if i < 0 || bytes.Contains(near[:i], []byte(". ")) {
			return false
		}
		message = message[i+len(part):]
	}
	return true
}

// withoutEscapedQuotes returns JSON without what stands between the first and
// the last escaped quote of each string.
func withoutEscapedQuotes(body []byte) []byte {
	if !bytes.Contains(body, []byte(`\"`)) {
		return body
	}
	kept := make([]byte, 0, len(body))
	opened := -1 // in kept
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case c == '"':
			opened = -1
		case c == '\\' && i+1 < len(body):
			i++
			if body[i] != '"' {
				kept = append(kept, c)
				break
			}
			if opened < 0 {
				opened = len(kept)
			}
			kept = append(kept[:opened], '\\')
		}
		kept = append(kept, body[i])
	}
	return slices.Clip(kept)
}

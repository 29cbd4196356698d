package classify

import (
	"bytes"
	"net/http"
	"strings"
)

// maxEvents is how many events of a stream are looked at.
const maxEvents = 32

// isEventStream reports whether the answer is a stream of events.
func isEventStream(h http.Header) bool {
	v := h["Content-Type"]
	return len(v) > 0 && hasPrefixFold(v[0], "text/event-stream")
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// isFailureEvent reports whether an event of this type says that the request
// failed.
func isFailureEvent(kind string) bool {
	return kind == "error" || kind == "response.failed" || kind == "response.error"
}

// readEvents takes the facts out of the first event that reports a failure
// (WHATWG HTML, section 9.2.6).
func (e *evidence) readEvents(body []byte) {
	for range maxEvents {
		var kind string
		var data []byte
		kind, data, body = nextEvent(body)
		if kind == "" && data == nil {
			return
		}
		e.facts = e.facts[:0]
		e.read(data)
		if isFailureEvent(kind) {
			e.add(fact{key: "type", text: kind})
		}
		if e.reportsFailure() {
			return
		}
	}
	e.facts = nil
}

// nextEvent returns the type and the data of the first event, and what follows
// it. The last event may be cut off. It has neither if there is none.
func nextEvent(body []byte) (kind string, data, rest []byte) {
	var own bool // data is a copy, which can grow
	for len(body) > 0 {
		var line []byte
		line, body = nextLine(body)
		if len(line) == 0 {
			if data != nil || kind != "" {
				return kind, data, body
			}
			continue
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "event":
			kind = string(value[:min(len(value), 64)])
		case "data":
			if data == nil {
				data = value
				break
			}
			if !own {
				data, own = bytes.Clone(data), true
			}
			data = append(append(data, '\n'), value...)
		}
	}
	return kind, data, nil
}

// nextLine cuts at CR LF, LF or CR.
func nextLine(body []byte) (line, rest []byte) {
	i := bytes.IndexAny(body, "\r\n")
	if i < 0 {
		return body, nil
	}
	line, rest = body[:i], body[i+1:]
	if body[i] == '\r' {
		rest = bytes.TrimPrefix(rest, []byte("\n"))
	}
	return line, rest
}

// small reports whether the body can be one that is worth waiting for: of a
// length that is not given, or not above what is looked at, and JSON if its type
// is given.
func small(h http.Header) bool {
	if v := h["Content-Length"]; len(v) > 0 {
		if n, ok := parseSeconds(v[0]); !ok || n.Seconds() > maxBody {
			return false
		}
	}
	v := h["Content-Type"]
	return len(v) == 0 || strings.Contains(v[0], "json")
}

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
	short, given := short(h)
	return (short || !given) && isJSON(mediaType(h))
}

// smallBody reports the same for whoever asked for it, whatever its type: its
// length must be given then, and it must be no stream.
func smallBody(h http.Header) bool {
	if short, given := short(h); !given || !short {
		return small(h)
	}
	return !isStream(mediaType(h))
}

// short reports whether the body is not longer than what is looked at, and
// whether its length is given.
func short(h http.Header) (short, given bool) {
	v := h["Content-Length"]
	if len(v) == 0 {
		return false, false
	}
	n, ok := parseSeconds(v[0])
	return ok && n.Seconds() <= maxBody, true
}

// mediaType returns the body's type without its parameters.
func mediaType(h http.Header) string {
	v := h["Content-Type"]
	if len(v) == 0 {
		return ""
	}
	name, _, _ := strings.Cut(v[0], ";")
	return strings.TrimSpace(name)
}

// isJSON reports whether the type is JSON (RFC 6839 section 3.1), or not given.
// What merely has JSON in its name is a stream of it.
func isJSON(name string) bool {
	return name == "" || strings.EqualFold(name, "application/json") || hasSuffixFold(name, "+json") && !isStream(name)
}

// streams are types whose bodies need not end.
var streams = []string{
	"text/event-stream", "application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines",
	"application/json-seq", "application/stream+json", "application/x-json-stream", "application/vnd.amazon.eventstream",
	"application/grpc", "multipart/x-mixed-replace",
}

func isStream(name string) bool {
	return containsFold(streams, name) || hasSuffixFold(name, "+json-seq")
}

func hasSuffixFold(s, suffix string) bool {
	return len(s) >= len(suffix) && strings.EqualFold(s[len(s)-len(suffix):], suffix)
}

package caddymodule

import (
	"bytes"
	"io"
	"net/http"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/pool/classify"
)

// Some APIs answer 200 and report a failure in the event stream that follows
// (WHATWG HTML, section 9.2.6). The first event is looked at before the answer
// is given back. Those after it are looked at as they pass: they change nothing
// in the stream, but bench the member.

// maxLooks bounds how often a compressed start is decoded again: a stream that
// comes in tiny pieces is not worth more.
const maxLooks = 64

// firstEvent returns what reports whether the start of an answer's body holds a
// whole event, so that there is nothing more to wait for. What is only a comment,
// as servers send it to keep a connection alive, is none.
func firstEvent(contentEncoding []string) func(start []byte) bool {
	coded, looks := len(contentCodings(contentEncoding)) > 0, 0
	return func(start []byte) bool {
		if coded {
			if looks++; looks > maxLooks {
				return true
			}
			start = decode(start, contentEncoding, peekBytes)
		}
		for {
			event, rest, _ := cutEvent(start, 0)
			if event == nil {
				return false
			}
			if !isComment(event) {
				return true
			}
			start = rest
		}
	}
}

// isComment reports whether nothing in an event is more than a comment.
func isComment(event []byte) bool {
	for line := range bytes.FieldsFuncSeq(event, func(c rune) bool { return c == '\n' || c == '\r' }) {
		if line[0] != ':' {
			return false
		}
	}
	return true
}

// cutEvent cuts the first event off, at the empty line that ends it. A line ends
// with LF, CR or both. Without one, event is nil, and from says where the search
// goes on when more has come.
func cutEvent(stream []byte, from int) (event, rest []byte, next int) {
	for at := from; ; {
		end := bytes.IndexAny(stream[at:], "\r\n")
		if end < 0 {
			return nil, stream, at
		}
		after := at + end + 1
		if stream[after-1] == '\r' {
			if after == len(stream) { // an LF may follow
				return nil, stream, at
			}
			if stream[after] == '\n' {
				after++
			}
		}
		if end == 0 {
			return stream[:at:at], stream[after:], 0
		}
		at = after
	}
}

// eventWatch looks at the events of a stream as they pass. An event that is
// larger than what is peeked at is passed over.
type eventWatch struct {
	judge func(event []byte) (done bool)
	buf   []byte
	at    int  // where the last line of buf begins
	over  bool // the event is too large
	done  bool
}

// watchEvents returns what looks at the events of an answer that is given back;
// nil if there is nothing to look for, or no way to see it.
func (x *exchange) watchEvents(status int, h http.Header, lease pool.Lease) *eventWatch {
	if !x.pool.provider.NeedsEvents(status, h) || len(contentCodings(h["Content-Encoding"])) > 0 {
		return nil
	}
	header := h.Clone() // what follows may change it
	return &eventWatch{judge: func(event []byte) bool {
		v := x.pool.provider.Classify(classify.Answer{Status: status, Header: header, Body: event, Now: time.Now()})
		if !v.Meaning.Benches() || v.Served {
			return false
		}
		x.report(lease, v)
		return true
	}}
}

// pass takes note of a piece of the stream.
func (w *eventWatch) pass(p []byte) {
	if w == nil || w.done {
		return
	}
	w.buf = append(w.buf, p...)
	rest := w.buf
	for !w.done {
		event, after, at := cutEvent(rest, w.at)
		w.at = at
		if event == nil {
			break
		}
		// Most events can't be about a failure, and that is seen at once.
		if !w.over && (bytes.Contains(event, []byte("error")) || bytes.Contains(event, []byte("failed"))) {
			w.done = w.judge(event)
		}
		rest, w.over = after, false
	}
	if len(rest) > peekBytes {
		rest, w.at, w.over = rest[w.at:], 0, true
	}
	if len(rest) > peekBytes { // a line without an end
		rest = rest[len(rest)-1:]
	}
	w.buf = w.buf[:copy(w.buf, rest)]
}

// watchedBody is the body of an answer whose events are looked at.
type watchedBody struct {
	io.ReadCloser
	events *eventWatch
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.events.pass(p[:n])
	return n, err
}

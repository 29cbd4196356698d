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

// holdsEvent reports whether the start of an answer's body holds a whole event,
// so that there is nothing more to wait for. What is only a comment, as servers
// send it to keep a connection alive, is none.
func holdsEvent(start []byte, h http.Header) bool {
	start = decode(start, h["Content-Encoding"], peekBytes)
	for {
		event, rest, ok := cutEvent(start)
		if !ok {
			return false
		}
		if !bytes.HasPrefix(event, []byte(":")) && len(bytes.TrimSpace(event)) > 0 {
			return true
		}
		start = rest
	}
}

// cutEvent cuts the first event off, at the empty line that ends it.
func cutEvent(stream []byte) (event, rest []byte, ok bool) {
	for at := 0; ; {
		i := bytes.IndexByte(stream[at:], '\n')
		if i < 0 {
			return nil, stream, false
		}
		at += i + 1
		switch next := stream[at:]; {
		case bytes.HasPrefix(next, []byte("\n")):
			return stream[:at], next[1:], true
		case bytes.HasPrefix(next, []byte("\r\n")):
			return stream[:at], next[2:], true
		}
	}
}

// eventWatch looks at the events of a stream as they pass. An event that is
// larger than what is peeked at is passed over.
type eventWatch struct {
	judge func(event []byte) (done bool)
	buf   []byte
	over  bool // the event is too large
	done  bool
}

// watchEvents returns what looks at the events of an answer that is given back;
// nil if there is nothing to look for, or no way to see it.
func (sp *servedPool) watchEvents(status int, h http.Header, lease pool.Lease) *eventWatch {
	if !sp.provider.NeedsEvents(status, h) || len(contentCodings(h["Content-Encoding"])) > 0 {
		return nil
	}
	h = h.Clone() // what follows may change it
	return &eventWatch{judge: func(event []byte) bool {
		now := time.Now()
		v := sp.provider.Classify(classify.Answer{Status: status, Header: h, Body: event, Now: now})
		if !v.Meaning.Benches() || v.Served {
			return false
		}
		lease.Report(now, v)
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
		event, after, ok := cutEvent(rest)
		if !ok {
			break
		}
		// Most events can't be about a failure, and that is seen at once.
		if !w.over && (bytes.Contains(event, []byte("error")) || bytes.Contains(event, []byte("failed"))) {
			w.done = w.judge(event)
		}
		rest, w.over = after, false
	}
	if len(rest) > peekBytes {
		// The last bytes may be the first half of the empty line.
		rest, w.over = rest[len(rest)-3:], true
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

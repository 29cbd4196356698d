package caddymodule

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
)

// How much of an answer's body is read to judge it or to be rid of it, and for
// how long.
const (
	peekBytes = 64 << 10
	peekTime  = 2 * time.Second
)

// peek reads at most limit bytes of an answer's body, for at most the timeout,
// and returns what they say without their Content-Encoding, again at most limit
// bytes; nil if there is no body or the coding is unknown. The result must not be
// changed. If enough is given, it is asked about what was read so far, and ends
// the peek.
//
// The answer returned takes the place of res: its body is the whole one, byte
// for byte, and its trailers are filled when that body was read to its end. It
// is a copy if a body was read, since a Read that hangs past the timeout sets
// res.Trailer when it ends, while somebody may look at it. An answer that
// switches protocols is left alone: its body can be written to.
func peek(res *http.Response, limit int, timeout time.Duration, enough func(start []byte) bool) (*http.Response, []byte) {
	if bodyless(res) || res.StatusCode == http.StatusSwitchingProtocols {
		return res, nil
	}
	back := new(http.Response)
	*back = *res
	back.Trailer = res.Trailer.Clone()
	body := &peekedBody{
		source: res,
		back:   back,
		filled: make(chan struct{}),
		closed: make(chan struct{}),
	}
	back.Body = body

	go body.fill(limit, enough)
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-body.filled:
	case <-timer.C:
	}
	return back, decode(body.seen(), res.Header["Content-Encoding"], limit)
}

// bodyless reports whether the answer has no body, so that there is nothing to
// wait for.
func bodyless(res *http.Response) bool {
	return res.Body == nil || res.Body == http.NoBody || res.ContentLength == 0 ||
		(res.Request != nil && res.Request.Method == http.MethodHead)
}

// peekedBody is a body of which the start was read already. A Read of the
// source that was under way when the peek ended is left to finish, and its
// bytes come next.
type peekedBody struct {
	source *http.Response // where the rest comes from
	back   *http.Response // the answer that this body is part of

	mu    sync.Mutex
	start []byte // what the peek has read
	given int    // how much of start was given back
	err   error  // how the source ended after start
	ended bool   // the peek is over: no further Read is to be begun

	filled    chan struct{} // closed when the peek reads no more
	closed    chan struct{}
	closeOnce sync.Once
}

// fill reads the start of the body.
func (b *peekedBody) fill(limit int, enough func([]byte) bool) {
	defer close(b.filled)
	buf := make([]byte, 0, min(limit, 4<<10))
	for len(buf) < limit {
		if len(buf) == cap(buf) {
			buf = append(make([]byte, 0, min(limit, 4*cap(buf))), buf...)
		}
		n, err := b.source.Body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		b.mu.Lock()
		b.start, b.err = buf, err
		ended := b.ended
		b.mu.Unlock()
		if err != nil || ended || (enough != nil && enough(buf)) {
			return
		}
	}
}

// seen ends the peek and returns what it has read.
func (b *peekedBody) seen() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	return b.start
}

// Read gives back what the peek has read, and then the rest.
func (b *peekedBody) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	select {
	case <-b.closed:
		return 0, http.ErrBodyReadAfterClose
	default:
	}
	if n := b.giveBack(p); n > 0 {
		return n, nil
	}
	select {
	case <-b.filled:
	case <-b.closed:
		return 0, http.ErrBodyReadAfterClose
	}
	if n := b.giveBack(p); n > 0 {
		return n, nil
	}
	n, err := 0, b.err
	if err == nil {
		n, err = b.source.Body.Read(p)
	}
	if err != nil {
		// net/http fills the trailers of its own answer at the body's end.
		b.back.Trailer = b.source.Trailer
	}
	return n, err
}

func (b *peekedBody) giveBack(p []byte) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := copy(p, b.start[b.given:])
	b.given += n
	return n
}

// Close closes the source, which ends a Read of it that hangs: that is so for
// the bodies of net/http.
func (b *peekedBody) Close() error {
	b.closeOnce.Do(func() { close(b.closed) })
	return b.source.Body.Close()
}

// exhausted reports whether the peek has met the source's end.
func (b *peekedBody) exhausted() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err != nil
}

// maxDiscards bounds how many answers are drained at the same time.
const maxDiscards = 128

var discards atomic.Int64

// discard throws an answer away. What is left of its body is drained in the
// background, if that is little and comes soon, so that the connection can be
// used again; else the body is closed, and the connection with it.
func discard(res *http.Response) {
	if res.Body == nil {
		return
	}
	peeked, ok := res.Body.(*peekedBody)
	if bodyless(res) || res.ContentLength > peekBytes || (ok && peeked.exhausted()) || !beginDiscard() {
		_ = res.Body.Close() // nobody waits for the answer
		return
	}
	body := res.Body
	go func() {
		defer discards.Add(-1)
		// Close ends a Read that hangs, so the timer bounds the goroutine.
		timer := time.AfterFunc(peekTime, func() { _ = body.Close() })
		defer timer.Stop()
		defer body.Close()
		// One byte more than allowed: the end must be seen, not just reached.
		_, _ = io.CopyN(io.Discard, body, peekBytes+1)
	}()
}

func beginDiscard() bool {
	if discards.Add(1) > maxDiscards {
		discards.Add(-1)
		return false
	}
	return true
}

// maxCodings is how many layers of compression are looked through.
const maxCodings = 2

// maxWindow bounds the memory of a zstd decoder; servers may not use more
// (RFC 9659).
const maxWindow = 8 << 20

// decode returns at most limit bytes of what data say without the codings of
// these Content-Encoding headers (RFC 9110 section 8.4). Data may be cut off or
// broken: then it is what came before. It is nil if a coding is unknown.
func decode(data []byte, headers []string, limit int) []byte {
	codings := contentCodings(headers)
	if len(codings) == 0 {
		return data[:min(len(data), limit)]
	}
	if len(codings) > maxCodings {
		return nil
	}
	r := io.Reader(bytes.NewReader(data))
	for _, coding := range slices.Backward(codings) { // the last was applied last
		decoded, err := decoder(coding, r)
		if err != nil || decoded == nil {
			return nil
		}
		defer decoded.Close()
		// Also between layers: a small body can grow without end in the first
		// and come out of the second as nothing.
		r = io.LimitReader(decoded, int64(limit))
	}
	plain, _ := io.ReadAll(r) // an error after what could be read says no more
	return plain
}

// contentCodings lists what was applied, in lower case and in order, without
// what changes nothing.
func contentCodings(headers []string) []string {
	var codings []string
	for _, header := range headers {
		for coding := range strings.SplitSeq(header, ",") {
			coding = strings.ToLower(strings.Trim(coding, " \t"))
			if coding != "" && coding != "identity" {
				codings = append(codings, coding)
			}
		}
	}
	return codings
}

// decoder undoes one coding. It is nil for one that is unknown.
func decoder(coding string, r io.Reader) (io.ReadCloser, error) {
	switch coding {
	case "gzip", "x-gzip":
		return gzip.NewReader(r)
	case "deflate":
		// The name means zlib (RFC 9110 section 8.4.1.2), but some servers
		// leave its wrapper off. Its two bytes of header are telling: they are
		// a multiple of 31.
		b := bufio.NewReader(r)
		if h, err := b.Peek(2); err == nil && h[0]&0x0f == 8 && (int(h[0])<<8|int(h[1]))%31 == 0 {
			return zlib.NewReader(b)
		}
		return flate.NewReader(b), nil
	case "zstd":
		d, err := zstd.NewReader(r,
			zstd.WithDecoderConcurrency(1), // none but the caller's goroutine
			zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxWindow),
			zstd.WithDecoderMaxMemory(maxWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return nil, nil
}

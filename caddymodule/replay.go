package caddymodule

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// errNotReplayable is returned for an attempt whose request body cannot be
// sent from its start any more.
var errNotReplayable = errors.New("the request body was consumed by an earlier attempt and is no longer recorded")

// recordings bounds what the whole process records of request bodies.
var recordings = &budget{max: 256 << 20}

// budget is a number of bytes that many share.
type budget struct {
	max  int64
	used atomic.Int64
}

// reserve takes n bytes, if that many are left.
func (b *budget) reserve(n int64) bool {
	if b.used.Add(n) > b.max {
		b.used.Add(-n)
		return false
	}
	return true
}

// overdraw takes n bytes, whether they are left or not.
func (b *budget) overdraw(n int64) { b.used.Add(n) }

// release gives n bytes back.
func (b *budget) release(n int64) { b.used.Add(-n) }

// recorder makes a request body readable more than once. It records what the
// attempts read while they read it, so that a further attempt costs nothing
// until there is one.
//
// net/http may still be reading the body for an attempt whose answer has long
// come, and that Read can hang for as long as the client sends nothing. It
// cannot be called back, so it is left to finish, and what it brings goes into
// the recording. Until then the next attempt is given what is recorded, and
// waits for the rest. Closing an attempt's body therefore neither waits for
// such a Read nor touches the client's body, which the server closes itself.
//
// Recording ends when the body outgrows the limit, when the budget is used up,
// or by stop. The attempt in progress then reads on straight from the client,
// and what it has yet to read of the recording is kept until it has.
//
// A mutex guards all fields but body, and is never held over a Read of body.
type recorder struct {
	body   io.Reader
	limit  int64
	budget *budget

	mu      sync.Mutex
	landed  sync.Cond // a Read of body has ended, or a cursor was closed
	reading bool      // a Read of body is under way
	offset  int64     // how much of body has been read
	err     error     // how body ended, at offset
	current *cursor   // the attempt in progress, unless it closed its body

	firstCursor cursor // of the first attempt, which is the only one in most cases

	recording bool
	chunks    [][]byte  // the recorded bytes up to offset; all but the last are full
	first     [4][]byte // where chunks starts, so that a usual body allocates no list
	base      int64     // the offset of the first recorded byte; 0 while recording
}

// newRecorder records up to limit bytes of body.
func newRecorder(body io.Reader, limit int64, b *budget) *recorder {
	r := &recorder{body: body, limit: limit, budget: b, recording: true}
	r.landed.L = &r.mu
	r.chunks = r.first[:0]
	return r
}

// replayable reports whether a further attempt could send the body.
func (r *recorder) replayable() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.complete()
}

// complete reports whether the body can be read from its first byte: it is
// recorded, or nothing was read of it so far.
func (r *recorder) complete() bool { return r.recording || (r.offset == 0 && r.body != nil) }

// attempt returns the body from its first byte. The body of the attempt before
// can't be read any more.
func (r *recorder) attempt() (io.ReadCloser, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.complete() {
		return nil, errNotReplayable
	}
	c := &r.firstCursor
	if c.recorder != nil {
		c = new(cursor)
	}
	c.recorder = r
	r.current = c
	r.landed.Broadcast()
	return r.current, nil
}

// recorded returns a copy of what was recorded so far, at most limit bytes; nil
// if the recording has ended.
func (r *recorder) recorded(limit int) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.recording {
		return nil
	}
	var start []byte
	for _, chunk := range r.chunks {
		start = append(start, chunk[:min(len(chunk), limit-len(start))]...)
	}
	return start
}

// stop ends the recording: no further attempt is foreseen. The one in progress
// goes on.
func (r *recorder) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recording = false
	r.trim()
}

// close ends the attempt in progress, too, and frees everything. A Read of the
// client's body that hangs is not waited for.
func (r *recorder) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recording, r.current, r.body = false, nil, nil
	r.trim()
	r.landed.Broadcast()
}

// land takes in what a Read for the cursor c has brought.
func (r *recorder) land(c *cursor, p []byte, err error) {
	r.offset += int64(len(p))
	r.err = err
	if r.offset > r.limit {
		r.recording = false
	}
	// The attempt in progress has not seen what an earlier attempt has read.
	unseen := r.current != nil && r.current != c
	if r.recording || unseen {
		r.record(p, unseen)
	}
	if r.current == c {
		c.offset = r.offset
	}
	r.trim()
}

// record appends p to the recording. If the budget is used up, the recording
// ends, but what must be kept is.
func (r *recorder) record(p []byte, must bool) {
	if len(r.chunks) == 0 {
		r.base = r.offset - int64(len(p))
	}
	for len(p) > 0 {
		last := len(r.chunks) - 1
		if last < 0 || len(r.chunks[last]) == cap(r.chunks[last]) {
			size := largeChunk
			if last < 0 {
				size = smallChunk
			}
			if !r.budget.reserve(int64(size)) {
				r.recording = false
				if !must {
					return
				}
				r.budget.overdraw(int64(size))
			}
			r.chunks = append(r.chunks, newChunk(size))
			last++
		}
		chunk := r.chunks[last]
		n := copy(chunk[len(chunk):cap(chunk)], p)
		r.chunks[last] = chunk[:len(chunk)+n]
		p = p[n:]
	}
}

// replay copies from the recorded bytes at offset to p.
func (r *recorder) replay(p []byte, offset int64) int {
	at := offset - r.base
	for _, chunk := range r.chunks {
		if at < int64(len(chunk)) {
			return copy(p, chunk[at:])
		}
		at -= int64(len(chunk))
	}
	return 0
}

// trim frees what nobody will read.
func (r *recorder) trim() {
	if r.recording {
		return
	}
	free := 0
	for _, chunk := range r.chunks {
		end := r.base + int64(len(chunk))
		if r.current != nil && r.current.offset < end {
			break
		}
		r.base = end
		r.budget.release(int64(cap(chunk)))
		freeChunk(chunk)
		free++
	}
	clear(r.chunks[:free])
	if r.chunks = r.chunks[free:]; len(r.chunks) == 0 {
		r.chunks = nil
	}
}

// cursor is the request body of one attempt.
type cursor struct {
	recorder *recorder
	offset   int64
}

// Read returns what is recorded, or else reads on where the last Read of the
// client's body ended, once it has. A Read of a cursor that is closed fails.
func (c *cursor) Read(p []byte) (int, error) {
	r := c.recorder
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if r.current != c {
			return 0, http.ErrBodyReadAfterClose
		}
		if c.offset < r.offset {
			n := r.replay(p, c.offset)
			c.offset += int64(n)
			r.trim()
			return n, nil
		}
		if r.err != nil {
			return 0, r.err
		}
		if !r.reading {
			return r.read(c, p)
		}
		r.landed.Wait()
	}
}

// read reads from the client's body, for the cursor c, which has got all that
// was read so far. It is called with the lock held, and returns with it held.
func (r *recorder) read(c *cursor, p []byte) (n int, err error) {
	body := r.body
	r.reading = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.reading = false
		r.land(c, p[:n], err)
		r.landed.Broadcast()
		if r.current != c {
			// These bytes are not for an attempt that is over.
			n, err = 0, http.ErrBodyReadAfterClose
		}
	}()
	return body.Read(p)
}

// Close ends the attempt's reading. It never blocks.
func (c *cursor) Close() error {
	r := c.recorder
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current == c {
		r.current = nil
		r.trim()
		r.landed.Broadcast()
	}
	return nil
}

// A recording grows by whole chunks, so that nothing is copied twice. The first
// is small: most bodies are.
const (
	smallChunk = 4 << 10
	largeChunk = 32 << 10
)

// Chunks are used again, as pointers to arrays, which a pool takes without an
// allocation.
var (
	smallChunks = sync.Pool{New: func() any { return new([smallChunk]byte) }}
	largeChunks = sync.Pool{New: func() any { return new([largeChunk]byte) }}
)

func newChunk(size int) []byte {
	if size == smallChunk {
		return smallChunks.Get().(*[smallChunk]byte)[:0]
	}
	return largeChunks.Get().(*[largeChunk]byte)[:0]
}

// freeChunk puts the chunk back. It is not cleared: nobody reads further than
// what was recorded, and that would cost as much as recording does.
func freeChunk(chunk []byte) {
	if cap(chunk) == smallChunk {
		smallChunks.Put((*[smallChunk]byte)(chunk[:smallChunk]))
	} else {
		largeChunks.Put((*[largeChunk]byte)(chunk[:largeChunk]))
	}
}

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
)

// head is what the bench has to know of the start of an HTTP/1.1 message. It
// is read by hand on both sides of Caddy, since the machine that Caddy is
// measured on does that work, too.
type head struct {
	start         string // the first line
	authorization string
	length        int64 // of the body; chunked if it has none in advance
}

// chunked is the length of a body that says at its end that it ends.
const chunked = -1

var errMalformed = errors.New("malformed message")

// readHead reads a message up to its body.
func readHead(r *bufio.Reader) (head, error) {
	line, err := readLine(r)
	if err != nil {
		return head{}, err
	}
	h := head{start: string(line)}
	for {
		line, err := readLine(r)
		if err != nil {
			return head{}, err
		}
		if len(line) == 0 {
			return h, nil
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return head{}, fmt.Errorf("%w: header line %q", errMalformed, line)
		}
		if err := h.set(name, bytes.TrimSpace(value)); err != nil {
			return head{}, err
		}
	}
}

func (h *head) set(name, value []byte) (err error) {
	switch {
	case is(name, "Content-Length"):
		h.length, err = strconv.ParseInt(string(value), 10, 64)
	case is(name, "Transfer-Encoding"):
		h.length = chunked
	case is(name, "Authorization"):
		h.authorization = string(value)
	}
	return err
}

// is compares the name of a header, of which the case does not count.
func is(name []byte, want string) bool {
	return len(name) == len(want) && bytes.EqualFold(name, []byte(want))
}

func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	return bytes.TrimRight(line, "\r\n"), nil
}

// status returns the status code of an answer's head.
func (h head) status() (int, error) {
	if len(h.start) < len("HTTP/1.1 200") {
		return 0, fmt.Errorf("%w: status line %q", errMalformed, h.start)
	}
	return strconv.Atoi(h.start[9:12])
}

// skipBody reads a message's body to its end. For each part of a chunked one
// it calls part, if there is one.
func skipBody(r *bufio.Reader, length int64, part func()) error {
	if length != chunked {
		return skip(r, length)
	}
	for {
		line, err := readLine(r)
		if err != nil {
			return err
		}
		size, err := strconv.ParseInt(string(line), 16, 64)
		if err != nil {
			return fmt.Errorf("%w: size of a chunk %q", errMalformed, line)
		}
		if err := skip(r, size+int64(len("\r\n"))); err != nil {
			return err
		}
		if size == 0 {
			return nil
		}
		if part != nil {
			part()
		}
	}
}

// buffers are for bodies, most of which are larger than a reader's own buffer.
var buffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

func skip(r *bufio.Reader, n int64) error {
	if n <= int64(r.Buffered()) {
		_, err := r.Discard(int(n))
		return err
	}
	buf := buffers.Get().(*[64 << 10]byte)
	defer buffers.Put(buf)
	for n > 0 {
		got, err := r.Read(buf[:min(n, int64(len(buf)))])
		n -= int64(got)
		if err != nil && n > 0 {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

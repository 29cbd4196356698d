package main

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// What the upstream answers, by path. Every other path gets a small body.
const (
	pathSmall  = "/v1/small"
	pathLarge  = "/v1/large"  // 64 KiB
	pathEvents = "/v1/events" // an event, a pause, and a last event
	pathIdle   = "/v1/idle"   // an event, and nothing more
)

const (
	largeBody  = 64 << 10
	eventPause = 2 * time.Millisecond
)

// upstream is the mock of an API. It answers at once, unless an account is
// told to refuse.
type upstream struct {
	listener net.Listener
	answers  map[string][]byte // by path

	served   atomic.Int64 // requests
	refusing atomic.Pointer[refusal]

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	wait  sync.WaitGroup
}

// refusal is an account that does not serve any more.
type refusal struct {
	authorization string        // of the account
	status        int           // 401 or 429
	delay         time.Duration // until any account's answer
	answered      atomic.Int64  // requests that were refused
}

func newUpstream() (*upstream, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	const event = "data: {\"delta\":\"a few words of an answer\"}\n\n"
	stream := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(event))
	u := &upstream{
		listener: l,
		conns:    make(map[net.Conn]struct{}),
		answers: map[string][]byte{
			pathSmall:  answer(200, `{"id":"chatcmpl-1","object":"chat.completion","choices":[{"message":{"role":"assistant","content":"Hello."}}]}`),
			pathLarge:  answer(200, strings.Repeat("a", largeBody)),
			pathEvents: stream,
			pathIdle:   stream,
		},
	}
	u.wait.Go(u.serve)
	return u, nil
}

func answer(status int, body string) []byte {
	return fmt.Appendf(nil, "HTTP/1.1 %d Status\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)
}

func chunk(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }

func (u *upstream) address() string { return u.listener.Addr().String() }

// refuse makes an account refuse from now on; nobody does after refuse(nil).
func (u *upstream) refuse(r *refusal) { u.refusing.Store(r) }

// close ends all connections.
func (u *upstream) close() {
	_ = u.listener.Close()
	u.mu.Lock()
	for c := range u.conns {
		_ = c.Close()
	}
	u.mu.Unlock()
	u.wait.Wait()
}

func (u *upstream) serve() {
	for {
		c, err := u.listener.Accept()
		if err != nil {
			return
		}
		u.mu.Lock()
		u.conns[c] = struct{}{}
		u.mu.Unlock()
		u.wait.Go(func() {
			u.converse(c)
			_ = c.Close()
			u.mu.Lock()
			delete(u.conns, c)
			u.mu.Unlock()
		})
	}
}

// converse answers the requests of a connection until it ends.
func (u *upstream) converse(c net.Conn) {
	r := bufio.NewReader(c)
	for {
		h, err := readHead(r)
		if err != nil {
			return
		}
		if err := skipBody(r, h.length, nil); err != nil {
			return
		}
		if err := u.answer(c, h); err != nil {
			return
		}
	}
}

func (u *upstream) answer(c net.Conn, h head) error {
	u.served.Add(1)
	if r := u.refusing.Load(); r != nil {
		time.Sleep(r.delay)
		if h.authorization == r.authorization {
			r.answered.Add(1)
			_, err := c.Write(answer(r.status, `{"error":{"message":"this account has to wait"}}`))
			return err
		}
	}
	path := pathSmall
	if fields := strings.Fields(h.start); len(fields) == 3 && u.answers[fields[1]] != nil {
		path = fields[1]
	}
	if _, err := c.Write(u.answers[path]); err != nil {
		return err
	}
	if path == pathEvents {
		time.Sleep(eventPause)
		_, err := c.Write([]byte(chunk("data: [DONE]\n\n") + "0\r\n\r\n"))
		return err
	}
	return nil // an idle stream waits for what never comes: another request
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// patience bounds each thing that has to happen.
const patience = 20 * time.Second

// request makes the bytes of a request as a client of the pool.
func request(method, path string, body int) []byte {
	return append(requestHead(method, path, body), bytes.Repeat([]byte("a"), body)...)
}

func requestHead(method, path string, body int) []byte {
	b := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nUser-Agent: bench\r\nAccept: */*\r\n", method, path, clientToken)
	switch {
	case body == chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case method == http.MethodPost:
		b = fmt.Appendf(b, "Content-Type: application/json\r\nContent-Length: %d\r\n", body)
	}
	return append(b, "\r\n"...)
}

// client is a client's connection.
type client struct {
	conn net.Conn
	r    *bufio.Reader
}

func dial(address string, until time.Time) (*client, error) {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(until)
	return &client{conn, bufio.NewReader(conn)}, nil
}

func (c *client) close() { _ = c.conn.Close() }

// do makes a request and reads the whole answer.
func (c *client) do(request []byte) (status int, err error) {
	return c.stream(request, nil)
}

// stream is do for an answer that comes in parts, which part is told of.
func (c *client) stream(request []byte, part func()) (status int, err error) {
	if _, err := c.conn.Write(request); err != nil {
		return 0, err
	}
	return c.answer(part)
}

// answer reads an answer to its end.
func (c *client) answer(part func()) (status int, err error) {
	h, err := readHead(c.r)
	if err != nil {
		return 0, err
	}
	if status, err = h.status(); err != nil {
		return 0, err
	}
	return status, skipBody(c.r, h.length, part)
}

// served makes a request that must be answered with 200.
func (c *client) served(request []byte) error {
	status, err := c.do(request)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("status %d", status)
	}
	return err
}

// sample is what came of a load.
type sample struct {
	latencies []time.Duration // of all requests, sorted
	failed    int             // without a 200
	elapsed   time.Duration
}

// quantile returns the latency that the given part of all requests keeps to.
func (s sample) quantile(part float64) time.Duration {
	if len(s.latencies) == 0 {
		return 0
	}
	return s.latencies[min(len(s.latencies)-1, int(part*float64(len(s.latencies))))]
}

// load sends a request over and over again on so many connections, each of
// which waits for its answer before it sends again.
type load struct {
	address     string
	request     []byte
	connections int
	duration    time.Duration
}

// run loads Caddy. Connections are made before start is called and the clock
// runs, and each has served a request by then.
func (l load) run(ctx context.Context, start func() error) (sample, error) {
	clients := make([]*client, 0, l.connections)
	defer func() {
		for _, c := range clients {
			c.close()
		}
	}()
	until := time.Now().Add(l.duration + patience)
	for range l.connections {
		c, err := dial(l.address, until)
		if err != nil {
			return sample{}, fmt.Errorf("connecting to Caddy: %w", err)
		}
		clients = append(clients, c)
		if err := c.served(l.request); err != nil {
			return sample{}, fmt.Errorf("a first request: %w", err)
		}
	}
	if err := start(); err != nil {
		return sample{}, err
	}
	samples := make([]sample, l.connections)
	begin := time.Now()
	var wait sync.WaitGroup
	for i, c := range clients {
		wait.Go(func() { samples[i] = l.repeat(ctx, c, begin.Add(l.duration)) })
	}
	wait.Wait()
	return merge(samples, time.Since(begin)), ctx.Err()
}

// repeat makes requests on one connection. One that breaks is made anew: what
// a client sees of a failure is a single failed request.
func (l load) repeat(ctx context.Context, c *client, end time.Time) (s sample) {
	for now := time.Now(); now.Before(end) && ctx.Err() == nil; {
		status, err := c.do(l.request)
		done := time.Now()
		s.latencies = append(s.latencies, done.Sub(now))
		now = done
		if err == nil && status == http.StatusOK {
			continue
		}
		s.failed++
		if err == nil {
			continue
		}
		c.close()
		again, err := dial(l.address, end.Add(patience))
		if err != nil {
			return s
		}
		*c = *again
	}
	return s
}

func merge(samples []sample, elapsed time.Duration) sample {
	all := sample{elapsed: elapsed}
	for _, s := range samples {
		all.latencies = append(all.latencies, s.latencies...)
		all.failed += s.failed
	}
	slices.Sort(all.latencies)
	return all
}

package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// What is measured of memory.
const (
	resident = "resident, MiB"
	peak     = "peak resident, MiB"
)

const (
	uploads     = 50
	uploadBytes = 1 << 30
	uploadPart  = 64 << 10
	idleStreams = 10_000
)

// heavyTime bounds what one heavy load of one Caddy takes.
const heavyTime = 10 * time.Minute

// holdTime is how long streams are held, so that each Caddy has swept its
// memory meanwhile.
const holdTime = 5 * time.Second

func mebibytes(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// measureMemory looks at what each Caddy holds after its loads of this round.
func measureMemory(ctx context.Context, b *bench, _ int) error {
	for _, s := range variants {
		c, err := b.caddy(ctx, s)
		if err != nil {
			return err
		}
		now, _, err := memory(c.cmd.Process.Pid)
		if errors.Is(err, errNoProc) {
			return nil
		}
		if err != nil {
			return err
		}
		b.report.sideBySide.add("memory", resident, s.name, mebibytes(now))
	}
	return nil
}

// measureUploads has fifty large bodies go through at the same time: first such
// that say how large they are, then such that do not.
func measureUploads(ctx context.Context, b *bench, round int) error {
	for _, kind := range []struct {
		name       string
		head       []byte
		part, last string
	}{
		{"", requestHead(http.MethodPost, pathSmall, uploadBytes), strings.Repeat("a", uploadPart), ""},
		{", chunked", requestHead(http.MethodPost, pathSmall, chunked), chunk(strings.Repeat("a", uploadPart)), chunk("")},
	} {
		err := b.heavyLoad(ctx, fmt.Sprintf("%d uploads of 1 GiB%s", uploads, kind.name), round, func(ctx context.Context, c *caddy) error {
			return together(uploads, uploads, func(int) error {
				return upload(ctx, c.address, kind.head, []byte(kind.part), []byte(kind.last))
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// measureStreams has many event streams open that say nothing.
func measureStreams(ctx context.Context, b *bench, round int) error {
	n, err := affordableStreams()
	if err != nil {
		return err
	}
	return b.heavyLoad(ctx, fmt.Sprintf("%d idle streams", n), round, func(ctx context.Context, c *caddy) error {
		return holdStreams(ctx, c.address, n)
	})
}

// heavyLoad puts a load on a fresh Caddy of each setup.
func (b *bench) heavyLoad(ctx context.Context, name string, round int, put func(context.Context, *caddy) error) error {
	for _, s := range inTurn(variants, round) {
		log.Printf("%s: %s", name, s.name)
		most, err := b.peakUnder(ctx, s, put)
		if errors.Is(err, errNoProc) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		b.report.sideBySide.add(name, peak, s.name, mebibytes(most))
	}
	return nil
}

func (b *bench) peakUnder(ctx context.Context, s *setup, put func(context.Context, *caddy) error) (int64, error) {
	c, err := startCaddy(ctx, b.binary, b.dir, s, b.upstream.address())
	if err != nil {
		return 0, err
	}
	defer c.stop()
	if err := put(ctx, c); err != nil {
		return 0, err
	}
	_, most, err := memory(c.cmd.Process.Pid)
	return most, err
}

// together calls f for each number below n, so many at a time, until one fails.
func together(n, atOnce int, f func(int) error) error {
	var (
		next   atomic.Int64
		failed atomic.Bool
		wait   sync.WaitGroup
		errs   = make([]error, atOnce)
	)
	for worker := range atOnce {
		wait.Go(func() {
			for i := next.Add(1) - 1; i < int64(n) && !failed.Load(); i = next.Add(1) - 1 {
				if errs[worker] = f(int(i)); errs[worker] != nil {
					failed.Store(true)
				}
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}

// upload sends a body in equal parts.
func upload(ctx context.Context, address string, head, part, last []byte) error {
	c, err := dial(address, time.Now().Add(heavyTime))
	if err != nil {
		return err
	}
	defer c.close()
	defer context.AfterFunc(ctx, c.close)()
	if _, err := c.conn.Write(head); err != nil {
		return err
	}
	for range uploadBytes / uploadPart {
		if _, err := c.conn.Write(part); err != nil {
			return err
		}
	}
	if _, err := c.conn.Write(last); err != nil {
		return err
	}
	status, err := c.answer(nil)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("status %d", status)
	}
	return err
}

// affordableStreams is how many streams the limit of open files allows: each
// takes two of Caddy, and two of this process, which is client and upstream.
// Go has already raised the limit as far as it may, here and in Caddy.
func affordableStreams() (int, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("reading the limit of open files: %w", err)
	}
	const others = 200
	return int(min(idleStreams, (max(limit.Cur, others)-others)/2)), nil // #nosec G115 -- it is small
}

// holdStreams opens n streams, waits for the first event of each, and holds
// them for a while.
func holdStreams(ctx context.Context, address string, n int) error {
	clients := make([]*client, n)
	defer func() {
		for _, c := range clients {
			if c != nil {
				c.close()
			}
		}
	}()
	err := together(n, 64, func(i int) (err error) {
		if clients[i], err = dial(address, time.Now().Add(heavyTime)); err != nil {
			return err
		}
		return errors.Join(ctx.Err(), clients[i].open(requestHead(http.MethodGet, pathIdle, 0)))
	})
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(holdTime):
		return nil
	}
}

// open makes a request and reads the answer up to its first event.
func (c *client) open(request []byte) error {
	if _, err := c.conn.Write(request); err != nil {
		return err
	}
	if _, err := readHead(c.r); err != nil {
		return err
	}
	_, err := readLine(c.r)
	return err
}

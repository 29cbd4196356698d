package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"
)

const (
	streamScenario = "stream"
	firstEvent     = "first event, p50, ms"
)

// measureStream takes the time until the first event of an event stream is
// with the client.
func measureStream(ctx context.Context, b *bench, round int) error {
	for _, s := range inTurn(variants, round) {
		c, err := b.caddy(ctx, s)
		if err != nil {
			return err
		}
		times, err := firstEvents(ctx, c.address, b.duration)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		b.report.sideBySide.add(streamScenario, firstEvent, s.name, milliseconds(times[len(times)/2]))
	}
	return nil
}

// firstEvents opens one stream after the other, and returns the times sorted.
func firstEvents(ctx context.Context, address string, duration time.Duration) ([]time.Duration, error) {
	end := time.Now().Add(duration)
	c, err := dial(address, end.Add(patience))
	if err != nil {
		return nil, err
	}
	defer c.close()
	req := request(http.MethodGet, pathEvents, 0)
	if err := c.served(req); err != nil {
		return nil, err
	}
	var times []time.Duration
	for len(times) == 0 || time.Now().Before(end) {
		var first time.Duration
		begin := time.Now()
		status, err := c.stream(req, func() {
			if first == 0 {
				first = time.Since(begin)
			}
		})
		if err != nil || status != http.StatusOK {
			return nil, fmt.Errorf("status %d, %w", status, err)
		}
		if times = append(times, first); ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	slices.Sort(times)
	return times, nil
}

package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"
)

const failoverScenario = "failover"

// measureFailover compares a request that the first account refuses with one
// that it serves, in turn on the same connection. The account that was refused
// is recovered between, and the next failover is from the other one.
func measureFailover(ctx context.Context, b *bench, _ int) error {
	c, err := b.caddy(ctx, itself)
	if err != nil {
		return err
	}
	end := time.Now().Add(b.duration)
	conn, err := dial(c.address, end.Add(patience))
	if err != nil {
		return err
	}
	defer conn.close()
	defer b.upstream.refuse(nil)
	var healthy, failing []time.Duration
	for len(healthy) == 0 || time.Now().Before(end) {
		h, f, err := b.failOver(ctx, c, conn)
		if err != nil {
			return err
		}
		healthy, failing = append(healthy, h), append(failing, f)
	}
	for column, times := range map[string][]time.Duration{columnHealthy: healthy, columnFailsOver: failing} {
		slices.Sort(times)
		b.report.failover.add(failoverScenario, p50, column, milliseconds(times[len(times)/2]))
	}
	return nil
}

// failOver makes a request of either kind.
func (b *bench) failOver(ctx context.Context, c *caddy, conn *client) (healthy, failing time.Duration, err error) {
	active, err := c.active(ctx)
	if err != nil {
		return 0, 0, err
	}
	req := request(http.MethodPost, pathSmall, 1<<10)
	if err := conn.served(req); err != nil { // not timed: Caddy has done other work
		return 0, 0, err
	}
	begin := time.Now()
	if err := conn.served(req); err != nil {
		return 0, 0, err
	}
	healthy = time.Since(begin)

	r := &refusal{authorization: authorization(active), status: http.StatusTooManyRequests}
	b.upstream.refuse(r)
	begin = time.Now()
	if err := conn.served(req); err != nil {
		return 0, 0, fmt.Errorf("failing over: %w", err)
	}
	failing = time.Since(begin)
	b.upstream.refuse(nil)
	if r.answered.Load() != 1 {
		return 0, 0, fmt.Errorf("the active account (%d) was asked %d times, not once", active, r.answered.Load())
	}
	return healthy, failing, c.recover(ctx, active)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// What is measured of a load.
const (
	requestsPerSecond = "requests/s"
	p50               = "p50, ms"
	p99               = "p99, ms"
	processorTime     = "CPU s per 1,000 requests"
	allocations       = "allocations per request"
	allocatedKiB      = "KiB allocated per request"
)

// loadScenarios are loads of plain Caddy and of both forms of the directive.
// The names end in the number of connections.
func loadScenarios() []scenario {
	get := request(http.MethodGet, pathSmall, 0)
	return []scenario{
		loadScenario("get-1", get, 1),
		loadScenario("get-16", get, 16),
		loadScenario("get-64", get, 64),
		loadScenario("post-16", request(http.MethodPost, pathSmall, 1<<10), 16),
		loadScenario("upload-16", request(http.MethodPost, pathSmall, largeBody), 16),
		loadScenario("download-16", request(http.MethodGet, pathLarge, 0), 16),
	}
}

func loadScenario(name string, request []byte, connections int) scenario {
	return scenario{name: name, run: func(ctx context.Context, b *bench, round int) error {
		l := load{request: request, connections: connections, duration: b.duration}
		return b.compare(ctx, b.report.sideBySide, name, l, variants, round)
	}}
}

// measureScale compares pools of many members, and many pools, with one of two.
func measureScale(ctx context.Context, b *bench, round int) error {
	l := load{request: request(http.MethodGet, pathSmall, 0), connections: 16, duration: b.duration}
	return b.compare(ctx, b.report.scale, "get-16", l, []*setup{itself, manyMembers, manyPools}, round)
}

// compare puts the load on each setup in turn, and then, for the processor time,
// on all of them at once: what else the machine does is the same for each then.
func (b *bench) compare(ctx context.Context, t *table, name string, l load, setups []*setup, round int) error {
	for _, s := range inTurn(setups, round) {
		c, err := b.caddy(ctx, s)
		if err != nil {
			return err
		}
		u, err := b.measure(ctx, c, name, l)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		u.addTo(t, name, s.name)
	}
	used := make([]float64, len(setups))
	err := together(len(setups), len(setups), func(i int) (err error) {
		used[i], err = processorPerRequest(ctx, b.caddies[setups[i]], l)
		return err
	})
	for i, s := range setups {
		if used[i] > 0 {
			t.add(name, processorTime, s.name, used[i])
		}
	}
	return err
}

// processorPerRequest returns the seconds of processor time that Caddy takes
// for 1,000 requests of a load; 0 where that can't be known.
func processorPerRequest(ctx context.Context, c *caddy, l load) (float64, error) {
	l.address = c.address
	var before time.Duration
	got, err := l.run(ctx, func() (err error) {
		before, err = c.processor()
		return err
	})
	if err != nil {
		return 0, err
	}
	after, err := c.processor()
	return (after - before).Seconds() * 1000 / float64(len(got.latencies)), err
}

// usage is what came of a load, and what it took of Caddy.
type usage struct {
	sample
	allocated allocated
}

func (u usage) addTo(t *table, scenario, column string) {
	requests := float64(len(u.latencies))
	t.add(scenario, requestsPerSecond, column, requests/u.elapsed.Seconds())
	t.add(scenario, p50, column, milliseconds(u.quantile(0.50)))
	t.add(scenario, p99, column, milliseconds(u.quantile(0.99)))
	t.add(scenario, allocations, column, float64(u.allocated.Mallocs)/requests)
	t.add(scenario, allocatedKiB, column, float64(u.allocated.TotalAlloc)/1024/requests)
}

// measure puts the load on one Caddy.
func (b *bench) measure(ctx context.Context, c *caddy, name string, l load) (u usage, err error) {
	l.address = c.address
	var before allocated
	reached := b.upstream.served.Load()
	profiled := func() error { return nil }
	u.sample, err = l.run(ctx, func() (err error) {
		if b.profiles != "" {
			profiled = c.profile(ctx, b.profiles, name, l.duration)
		}
		before, err = c.allocated(ctx)
		return err
	})
	if err = errors.Join(err, profiled()); err != nil {
		return u, err
	}
	if u.allocated, err = c.allocated(ctx); err != nil {
		return u, err
	}
	u.allocated.Mallocs -= before.Mallocs
	u.allocated.TotalAlloc -= before.TotalAlloc
	if reached = b.upstream.served.Load() - reached; u.failed > 0 || reached < int64(len(u.latencies)) {
		return u, fmt.Errorf("of %d requests %d failed, and %d reached the upstream", len(u.latencies), u.failed, reached)
	}
	return u, nil
}

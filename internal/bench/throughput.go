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

// compare puts the load on each setup in turn.
func (b *bench) compare(ctx context.Context, t *table, name string, l load, setups []*setup, round int) error {
	for _, s := range inTurn(setups, round) {
		c, err := b.caddy(ctx, s)
		if err != nil {
			return err
		}
		l.address = c.address
		got, used, err := b.measure(ctx, c, name, l)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		t.add(name, requestsPerSecond, s.name, got.perSecond())
		t.add(name, p50, s.name, milliseconds(got.quantile(0.50)))
		t.add(name, p99, s.name, milliseconds(got.quantile(0.99)))
		if used > 0 {
			t.add(name, processorTime, s.name, used.Seconds()*1000/float64(len(got.latencies)))
		}
	}
	return nil
}

// measure puts the load on one Caddy, and returns the processor time that Caddy
// used; 0 where that can't be known.
func (b *bench) measure(ctx context.Context, c *caddy, name string, l load) (sample, time.Duration, error) {
	var before time.Duration
	reached := b.upstream.served.Load()
	profiled := func() error { return nil }
	got, err := l.run(ctx, func() (err error) {
		if b.profiles != "" {
			profiled = c.profile(ctx, b.profiles, name, l.duration)
		}
		if before, err = cpuTime(c.cmd.Process.Pid); errors.Is(err, errNoProc) {
			return nil
		}
		return err
	})
	if err = errors.Join(err, profiled()); err != nil {
		return got, 0, err
	}
	if reached = b.upstream.served.Load() - reached; got.failed > 0 || reached < int64(len(got.latencies)) {
		return got, 0, fmt.Errorf("of %d requests %d failed, and %d reached the upstream", len(got.latencies), got.failed, reached)
	}
	after, err := cpuTime(c.cmd.Process.Pid)
	if errors.Is(err, errNoProc) {
		return got, 0, nil
	}
	return got, after - before, err
}

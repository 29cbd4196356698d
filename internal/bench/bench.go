package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"slices"
	"time"
)

// bench is one run of the command.
type bench struct {
	options
	binary   string
	dir      string
	upstream *upstream
	caddies  map[*setup]*caddy
	report   *report
}

// scenario is something to measure, once in each round.
type scenario struct {
	name string
	run  func(ctx context.Context, b *bench, round int) error

	// heavy: it takes minutes, wavers little, and is run in the first round of
	// a heavy run only.
	heavy bool
}

func scenarios() []scenario {
	return slices.Concat(loadScenarios(), []scenario{
		{name: "stream", run: measureStream},
		{name: "failover", run: measureFailover},
		{name: "flip-429", run: measureFlip(429)},
		{name: "flip-401", run: measureFlip(401)},
		{name: "scale", run: measureScale},
		{name: "memory", run: measureMemory},
		{name: "uploads", run: measureUploads, heavy: true},
		{name: "streams", run: measureStreams, heavy: true},
	})
}

func scenarioNames() []string {
	all := scenarios()
	names := make([]string, len(all))
	for i, s := range all {
		names[i] = s.name
	}
	return names
}

// run measures. It leaves no process and no file behind.
func run(ctx context.Context, o options) (*report, error) {
	dir, err := os.MkdirTemp("", "credential-pool-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	b := &bench{options: o, dir: dir, caddies: make(map[*setup]*caddy), report: newReport()}
	if b.binary, err = findCaddy(ctx, dir); err != nil {
		return nil, err
	}
	if b.upstream, err = newUpstream(); err != nil {
		return nil, err
	}
	defer b.upstream.close()
	defer b.stop()
	for round := range o.rounds {
		log.Printf("round %d of %d", round+1, o.rounds)
		if err := b.round(ctx, round); ctx.Err() != nil {
			return nil, errors.New("interrupted") // all else follows from that
		} else if err != nil {
			return nil, err
		}
	}
	b.report.judge()
	return b.report, nil
}

// round runs everything once. Each round has fresh processes: two of the same
// setup differ by some percent for as long as they live, by where things lie in
// memory and how that paces the garbage collector.
func (b *bench) round(ctx context.Context, round int) error {
	for _, c := range b.caddies {
		if err := c.restart(ctx, b.binary); err != nil {
			return err
		}
	}
	for _, s := range scenarios() {
		chosen := len(b.only) == 0 || slices.Contains(b.only, s.name)
		if !chosen || (s.heavy && (!b.heavy || round > 0)) {
			continue
		}
		if err := s.run(ctx, b, round); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// caddy returns the Caddy that runs a setup.
func (b *bench) caddy(ctx context.Context, s *setup) (*caddy, error) {
	if c := b.caddies[s]; c != nil {
		return c, nil
	}
	c, err := startCaddy(ctx, b.binary, b.dir, s, b.upstream.address())
	if err == nil {
		b.caddies[s] = c
	}
	return c, err
}

// stop ends every Caddy.
func (b *bench) stop() {
	for _, c := range b.caddies {
		c.stop()
	}
}

// inTurn returns the setups in the order of a round: whoever comes first now
// comes last in the next one.
func inTurn(setups []*setup, round int) []*setup {
	first := round % len(setups)
	return slices.Concat(setups[first:], setups[:first])
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

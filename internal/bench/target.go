package main

import (
	"fmt"
	"slices"
)

// target is what a figure has to be.
type target struct {
	What   string  `json:"what"`
	Got    float64 `json:"got"`
	Sign   string  `json:"sign"` // ≤ or ≥
	Wanted float64 `json:"wanted"`
	Met    bool    `json:"met"`
}

// What is wanted: ratios to plain Caddy, or to the first column.
const (
	mostProcessorTime   = 1.05
	leastThroughput     = 0.95
	mostFailover        = 2
	mostMemory          = 1.1
	mostFurtherHits     = flipConnections - 1 // those under way
	leastNoticedLatency = 0.05                // what counts as noise at least
)

func (t target) verdict() string {
	if t.Met {
		return "pass"
	}
	return "miss"
}

func (r *report) atMost(what string, got, wanted float64) {
	r.Targets = append(r.Targets, target{what, got, "≤", wanted, got <= wanted})
}

func (r *report) atLeast(what string, got, wanted float64) {
	r.Targets = append(r.Targets, target{what, got, "≥", wanted, got >= wanted})
}

// judge sets the targets beside what was measured.
func (r *report) judge() {
	for _, t := range []*table{r.sideBySide, r.scale, r.failover} {
		for _, row := range t.Rows {
			for _, column := range t.Columns[1:] {
				r.judgeRatio(row, column, t.Columns[0])
			}
		}
	}
	for _, row := range r.flip.Rows {
		r.judgeFlip(row)
	}
}

func (r *report) judgeRatio(row *row, column, base string) {
	what := fmt.Sprintf("%s, %s, %s : %s", row.Scenario, row.Figure, column, base)
	got := row.ratio(column, base).median
	switch {
	case row.Scenario == failoverScenario:
		r.atMost(what, got, mostFailover)
	case row.Figure == processorTime:
		r.atMost(what, got, mostProcessorTime)
	case row.Figure == requestsPerSecond:
		r.atLeast(what, got, leastThroughput)
	case row.Figure == firstEvent:
		// Noise is how far rounds are from each other.
		q := row.ratio(column, base)
		r.atMost(what, got, 1+max(leastNoticedLatency, (q.high-q.low)/2))
	case row.Figure == peak:
		r.atMost(what, got, mostMemory)
	}
}

// judgeFlip looks at the first form alone: the second one retries nothing.
func (r *report) judgeFlip(row *row) {
	what, got := row.Scenario+", "+row.Figure, slices.Max(row.Rounds[itself.name])
	if row.Figure == clientErrors {
		r.atMost(what, got, 0)
	} else {
		r.atMost(what, got, mostFurtherHits)
	}
}

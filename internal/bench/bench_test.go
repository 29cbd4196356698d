package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

// TestRun keeps the bench from going stale. It measures nothing that counts.
func TestRun(t *testing.T) {
	if os.Getenv("CREDENTIAL_POOL_CADDY") == "" {
		t.Log("CREDENTIAL_POOL_CADDY is not set: building Caddy")
	}
	o := options{rounds: 1, duration: 200 * time.Millisecond, only: []string{"get-1", "post-16", "upload-16", "download-16", "stream", "failover", "flip-429", "flip-401", "memory"}}
	r, err := run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range []*table{r.sideBySide, r.failover, r.flip} {
		for _, row := range table.Rows {
			for _, column := range table.Columns {
				if len(row.Rounds[column]) != 1 {
					t.Errorf("%s, %s, %s: got %v, want one figure", row.Scenario, row.Figure, column, row.Rounds[column])
				}
			}
		}
	}
	for _, target := range r.Targets {
		if strings.HasPrefix(target.What, "flip") && !target.Met {
			t.Errorf("%s: got %v, want %s %v", target.What, target.Got, target.Sign, target.Wanted)
		}
	}
	for _, want := range []string{"| get-1 | requests/s |", "| failover | p50, ms |", "### Targets"} {
		if !strings.Contains(r.markdown(), want) {
			t.Errorf("the report lacks %q:\n%s", want, r.markdown())
		}
	}
}

// Command bench measures Caddy with this plugin beside plain Caddy: the same
// binary, with reverse_proxy alone, with credential_pool that has an upstream,
// and with one that reverse_proxy follows, before the same mock upstream on
// loopback. From the root:
//
//	go -C internal/bench run .
//
// builds Caddy as xcaddy.json says and prints Markdown tables of medians and
// ratios, and which targets they meet. CREDENTIAL_POOL_CADDY names a binary
// that is there already. Processor time and memory are read from /proc, so they
// are left out on other systems than Linux.
//
// All that is compared is run once in each round, in changing order, and a
// ratio is the median of the rounds' own ratios: two processors that load,
// Caddy and upstream share with others waver by more than what is looked for.
// For the same reason processor time says more than time on the clock. It is
// taken of all that is compared at once, so that they share what disturbs them.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are what the flags say.
type options struct {
	rounds   int
	duration time.Duration
	only     []string // names of scenarios; empty for all
	heavy    bool
	profiles string
}

// Bounds of the options, so that no run is without end.
const (
	maxRounds   = 1000
	maxDuration = time.Minute
)

func main() {
	log.SetFlags(0)
	var o options
	flag.IntVar(&o.rounds, "rounds", 25, "how often each measurement is made")
	flag.DurationVar(&o.duration, "duration", 300*time.Millisecond, "how long one measurement takes")
	flag.BoolVar(&o.heavy, "heavy", false, "also measure memory with fifty uploads of 1 GiB and with 10,000 idle streams")
	flag.StringVar(&o.profiles, "profiles", "", "an existing folder for CPU profiles of Caddy under each load; profiling costs, so the figures are void")
	only := flag.String("only", "", "comma-separated names of what to measure: "+strings.Join(scenarioNames(), ", "))
	asJSON := flag.Bool("json", false, "print all figures as JSON")
	flag.Parse()
	if *only != "" {
		o.only = strings.Split(*only, ",")
	}
	if err := o.check(flag.Args()); err != nil {
		log.Fatal(err)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	report, err := run(ctx, o)
	stop()
	if err != nil {
		log.Fatal(err)
	}
	if err := write(report, *asJSON); err != nil {
		log.Fatal(err)
	}
}

func (o options) check(args []string) error {
	switch {
	case len(args) > 0:
		return fmt.Errorf("unexpected argument: %s", args[0])
	case o.rounds < 1 || o.rounds > maxRounds:
		return fmt.Errorf("rounds: it must be from 1 to %d", maxRounds)
	case o.duration < 10*time.Millisecond || o.duration > maxDuration:
		return fmt.Errorf("duration: it must be from 10ms to %s", maxDuration)
	}
	for _, name := range o.only {
		if !slices.Contains(scenarioNames(), name) {
			return fmt.Errorf("only: unknown name %q; known: %s", name, strings.Join(scenarioNames(), ", "))
		}
	}
	return nil
}

func write(r *report, asJSON bool) error {
	if !asJSON {
		_, err := fmt.Print(r.markdown())
		return err
	}
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "\t")
	return e.Encode(r)
}

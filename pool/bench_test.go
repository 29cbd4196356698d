package pool_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

func TestAcquire_andASuccessAllocateNothing(t *testing.T) {
	for _, n := range []int{2, 1000} {
		p := newBed(t, manyNames(n)...)
		p.acquire()
		if allocs := testing.AllocsPerRun(100, func() { p.succeed(p.acquire()) }); allocs != 0 {
			t.Errorf("%d members: %v allocations", n, allocs)
		}
	}
}

func manyNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprint("m", i)
	}
	return names
}

func BenchmarkAcquire_alone(b *testing.B) {
	for _, n := range []int{2, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := newBed(b, manyNames(n)...)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := p.Acquire(p.now, ""); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkFailover takes a lease, fails it, and takes the next member's.
func BenchmarkFailover(b *testing.B) {
	for _, n := range []int{2, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			state := pool.NewState("bench", nil)
			p := pool.New(pool.Config{Members: manyNames(n)}, state)
			for _, name := range manyNames(n) {
				p.SetCredential(name, "id")
			}
			now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
			b.ReportAllocs()
			for b.Loop() {
				now = now.Add(time.Minute)
				l, err := p.Acquire(now, "")
				if err != nil {
					b.Fatal(err)
				}
				l.Report(now, pool.Verdict{Meaning: pool.RateLimited, Wait: time.Second, Reason: "429"})
				if next, err := p.Acquire(now, ""); err != nil || next.Member() == l.Member() {
					b.Fatalf("%v after a failover from %s", err, l.Member())
				}
			}
		})
	}
}

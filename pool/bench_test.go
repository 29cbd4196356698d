package pool_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

// busyBed is a pool in which the active member is out for that many keys.
func busyBed(t testing.TB, members, keys int) *bed {
	b := newBed(t, manyNames(members)...)
	for i := range keys {
		b.failFor(b.acquire(), fmt.Sprint("model:kind-", i), time.Hour)
	}
	b.acquire()
	return b
}

func TestAcquire_andASuccessAllocateNothing(t *testing.T) {
	for _, n := range []int{2, 1000} {
		for _, p := range []*bed{newBed(t, manyNames(n)...), busyBed(t, n, 32)} {
			for _, key := range []string{"", "model:gpt-5"} {
				p.acquireFor(key)
				if allocs := testing.AllocsPerRun(100, func() { p.succeed(p.acquireFor(key)) }); allocs != 0 {
					t.Errorf("%d members, %q: %v allocations", n, key, allocs)
				}
			}
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

// BenchmarkAcquire takes leases for a request without a key, for one with a key
// that nobody is out for, and for that among as many benches for keys as there
// can be; then for one that the active member is out for.
func BenchmarkAcquire(b *testing.B) {
	for _, n := range []int{2, 1000} {
		clean, busy, full := newBed(b, manyNames(n)...), busyBed(b, n, 3), busyBed(b, n, 32)
		for _, c := range []struct {
			name, key string
			pool      *bed
		}{
			{"noKey", "", clean},
			{"key", "model:claude-sonnet-4", clean},
			{"noKeyAmong3", "", busy},
			{"keyAmong3", "model:claude-sonnet-4", busy},
			{"keyAmong32", "model:claude-sonnet-4", full},
			{"benchedKey", "model:kind-2", busy},
		} {
			b.Run(fmt.Sprint(c.name, "/", n), func(b *testing.B) {
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if _, err := c.pool.Acquire(c.pool.now, c.key); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
	}
}

// BenchmarkAcquire_andReport adds the report of a success.
func BenchmarkAcquire_andReport(b *testing.B) {
	for _, n := range []int{2, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := newBed(b, manyNames(n)...)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					l, err := p.Acquire(p.now, "model:gpt-5")
					if err != nil {
						b.Error(err)
						return
					}
					l.Report(p.now, pool.Verdict{Meaning: pool.OK})
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

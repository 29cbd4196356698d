package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// What is counted at a flip.
const (
	clientErrors = "errors that clients saw"
	furtherHits  = "requests to the account after its first refusal"
)

const flipConnections = 16

// measureFlip has the active account refuse all of a sudden, while 16
// connections are busy. In every other round the upstream takes a moment to
// answer, so that all connections have a request under way when it refuses.
func measureFlip(status int) func(context.Context, *bench, int) error {
	name := fmt.Sprintf("flip-%d", status)
	return func(ctx context.Context, b *bench, round int) error {
		delay := time.Duration(round%2) * 5 * time.Millisecond
		for _, s := range inTurn([]*setup{itself, next}, round) {
			c, err := b.caddy(ctx, s)
			if err != nil {
				return err
			}
			failed, further, err := b.flip(ctx, c, status, delay)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			b.report.flip.add(name, clientErrors, s.name, float64(failed))
			b.report.flip.add(name, furtherHits, s.name, float64(further))
		}
		return nil
	}
}

func (b *bench) flip(ctx context.Context, c *caddy, status int, delay time.Duration) (failed int, further int64, err error) {
	active, err := c.active(ctx)
	if err != nil {
		return 0, 0, err
	}
	l := load{
		address:     c.address,
		request:     request(http.MethodPost, pathSmall, 1<<10),
		connections: flipConnections,
		duration:    b.duration,
	}
	defer b.upstream.refuse(nil)
	b.upstream.refuse(&refusal{delay: delay}) // nobody, but with the delay
	bad := &refusal{authorization: authorization(active), status: status, delay: delay}
	var timer *time.Timer
	got, err := l.run(ctx, func() error {
		timer = time.AfterFunc(b.duration/3, func() { b.upstream.refuse(bad) })
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	timer.Stop()
	refused := bad.answered.Load()
	if refused == 0 {
		return 0, 0, errors.New("the active account was not asked any more")
	}
	return got.failed, refused - 1, c.recover(ctx, active)
}

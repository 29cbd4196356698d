package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// errStorageSilent is returned for a call of a storage that takes too long.
var errStorageSilent = errors.New("the storage did not answer")

// patient bounds what is waited for a call of a storage: some do not listen to
// their context. A call that is given up goes on, and until it has ended the
// next one waits for its result instead of making another: a storage that hangs
// is not asked ever more, and an older write never comes after a newer one. The
// zero value is ready; it is not safe for concurrent use.
type patient[T any] struct {
	underWay chan outcome[T]
	giveUp   context.CancelFunc // ends the context of the call under way
}

type outcome[T any] struct {
	value T
	err   error
}

// call returns what f returns, or [errStorageSilent] after the limit.
func (p *patient[T]) call(ctx context.Context, limit time.Duration, f func(context.Context) (T, error)) (T, error) {
	if p.underWay == nil {
		p.underWay = make(chan outcome[T], 1)
		var callCtx context.Context
		callCtx, p.giveUp = context.WithCancel(context.WithoutCancel(ctx))
		go func(done chan<- outcome[T]) {
			value, err := f(callCtx)
			done <- outcome[T]{value, err}
		}(p.underWay)
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	defer p.giveUp()
	var none T
	select {
	case done := <-p.underWay:
		p.underWay = nil
		return done.value, done.err
	case <-timer.C:
		return none, fmt.Errorf("%w within %s", errStorageSilent, limit)
	case <-ctx.Done():
		return none, fmt.Errorf("%w: %w", errStorageSilent, ctx.Err())
	}
}

// within is a single call whose result nobody waits for once it is given up.
func within[T any](ctx context.Context, limit time.Duration, f func(context.Context) (T, error)) (T, error) {
	return new(patient[T]).call(ctx, limit, f)
}

// unless returns what f returns, unless the context ends before: then f is left
// to itself.
func unless[T any](ctx context.Context, f func() (T, error)) (T, error) {
	done := make(chan outcome[T], 1)
	go func() {
		value, err := f()
		done <- outcome[T]{value, err}
	}()
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}

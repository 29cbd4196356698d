package caddymodule

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

// Notifier passes notices on to somewhere else. It is implemented by the
// modules of the namespace credential_pool.notifiers.
type Notifier interface {
	// Start makes it ready to pass notices on. It must not send anything before
	// that: a configuration that is provisioned may still be thrown away.
	Start()

	// Notify takes a notice. It must neither block nor call back; what can't be
	// sent at once is queued, with a bound. It is not called before Start or
	// after Stop.
	Notify(Notice)

	// Stop passes on what is queued until the context ends, and drops the rest.
	Stop(context.Context)
}

const (
	// dispatchPatience bounds the wait for pending notices at shutdown. They
	// take no time unless the handler of a Caddy event hangs.
	dispatchPatience = 2 * time.Second

	// notifierPatience is what the notifiers are given together at shutdown.
	notifierPatience = 5 * time.Second
)

// auditActions are the names of the kinds of notice in the audit log.
var auditActions = map[pool.EventKind]string{
	pool.Failover:          "cred_failover",
	pool.Exhausted:         "pool_exhausted",
	pool.Recovered:         "pool_recovered",
	pool.Rotated:           "pool_rotated",
	pool.Parked:            "member_parked",
	pool.MemberRecovered:   "member_recovered",
	pool.CredentialMissing: "cred_missing",
	pool.Refreshed:         "cred_refreshed",
	pool.RefreshFailed:     "cred_refresh_failed",
}

// caddyEvents is the way to Caddy's events app.
type caddyEvents struct {
	emit func(name string, data map[string]any)

	// started is closed when the whole configuration has started. Caddy starts
	// apps in any order, and events before that get lost, or worse: the events
	// app adds its handlers in Start, and does not lock them.
	started <-chan struct{}
}

// eventEmitter returns the way to the events app of a configuration. It is to
// be called in Provision.
func eventEmitter(ctx caddy.Context) (caddyEvents, error) {
	mod, err := ctx.App("events")
	if err != nil {
		return caddyEvents{}, fmt.Errorf("getting events app: %w", err)
	}
	app, ok := mod.(*caddyevents.App)
	if !ok {
		return caddyEvents{}, fmt.Errorf("events app has unexpected type %T", mod)
	}
	started := startedHandler{make(chan struct{})}
	if err := app.On("started", started); err != nil {
		return caddyEvents{}, fmt.Errorf("waiting for the configuration to start: %w", err)
	}
	emit := func(name string, data map[string]any) { app.Emit(ctx, name, data) }
	return caddyEvents{emit, started.started}, nil
}

// startedHandler closes its channel at the event that says that the
// configuration has started, which comes once. It is a struct because the
// events app logs its handlers as JSON.
type startedHandler struct{ started chan struct{} }

// Handle implements caddyevents.Handler.
func (h startedHandler) Handle(context.Context, caddy.Event) error {
	close(h.started)
	return nil
}

// dispatcher tells the notices of the process on behalf of one running
// configuration: to its notifiers, its logs, the metrics, and as Caddy events.
// It works in a goroutine of its own, so no request and no pool waits for any
// of them.
type dispatcher struct {
	log       *noticeLog
	notifiers []Notifier
	logger    *zap.Logger
	audit     *zap.Logger
	events    caddyEvents

	stopping chan struct{}
	ctx      context.Context // ends when pending notices are no longer waited for
	cancel   context.CancelFunc
	done     chan struct{}
}

// newDispatcher makes a dispatcher that is yet to be started. The audit log is
// the logger named audit below the one given.
func newDispatcher(log *noticeLog, notifiers []Notifier, logger *zap.Logger, events caddyEvents) *dispatcher {
	// Looked up here, since a pool that tells an event must not wait for a file.
	instanceID()
	return &dispatcher{log: log, notifiers: notifiers, logger: logger, audit: logger.Named("audit"), events: events}
}

// start starts the notifiers, and the dispatching once the whole configuration
// has started: one that fails to start tells nothing.
func (d *dispatcher) start() {
	for _, n := range d.notifiers {
		n.Start()
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.stopping, d.done = make(chan struct{}), make(chan struct{})
	go d.run()
}

// stop dispatches what is pending, gives the notifiers a few seconds for what
// they have queued, and ends both. It returns at once if start was not called.
func (d *dispatcher) stop() {
	if d == nil || d.cancel == nil {
		return
	}
	close(d.stopping)
	select {
	case <-d.done:
	case <-time.After(dispatchPatience):
		d.logger.Error("not waiting any longer for the handler of an event; pending notices may get lost")
	}
	d.cancel()

	ctx, cancel := context.WithTimeout(context.Background(), notifierPatience)
	defer cancel()
	var wg sync.WaitGroup
	for _, n := range d.notifiers {
		wg.Go(func() { n.Stop(ctx) })
	}
	wg.Wait()
}

func (d *dispatcher) run() {
	defer close(d.done)
	if !d.inCharge() {
		return
	}
	for {
		select {
		case n := <-d.log.pending:
			d.dispatch(n)
		case <-d.stopping:
			d.drain()
			return
		}
		if d.ctx.Err() != nil {
			return
		}
	}
}

// inCharge waits until the configuration has started. It reports false if it
// is stopped before: then what is pending is left to another one.
func (d *dispatcher) inCharge() bool {
	select {
	case <-d.events.started:
		return true
	case <-d.stopping:
	}
	select {
	case <-d.events.started:
		return true
	default:
		return false
	}
}

// drain dispatches what is pending.
func (d *dispatcher) drain() {
	for d.ctx.Err() == nil {
		select {
		case n := <-d.log.pending:
			d.dispatch(n)
		default:
			return
		}
	}
}

// dispatch tells one notice. The event comes last, since its handlers run in
// this goroutine and take as long as they like.
func (d *dispatcher) dispatch(n Notice) {
	for _, to := range d.notifiers {
		to.Notify(n)
	}
	fields := n.fields()
	switch n.Kind {
	case pool.Failover, pool.Exhausted, pool.CredentialMissing, pool.RefreshFailed:
		d.logger.Warn(n.Message, fields...)
	case pool.Recovered, pool.Rotated, pool.Parked, pool.MemberRecovered, pool.Refreshed:
		d.logger.Info(n.Message, fields...)
	}
	d.audit.Info(n.Message, append(fields, zap.String("action", auditActions[n.Kind]))...)
	counters.notice(n.Kind, outcomeTold)
	d.sendEvent(n)
}

// sendEvent emits the Caddy event. A panic of a handler must not take the
// whole server down.
func (d *dispatcher) sendEvent(n Notice) {
	defer func() {
		if r := recover(); r != nil {
			d.logger.Error("the handler of an event panicked",
				zap.String("notice", n.ID), zap.Any("panic", r), zap.Stack("stack"))
		}
	}()
	d.events.emit("credential_pool."+string(n.Kind), n.eventData())
}

// fields are the notice in a log line.
func (n Notice) fields() []zap.Field {
	fields := []zap.Field{
		zap.String("notice", n.ID),
		zap.String("kind", string(n.Kind)),
		zap.String("pool", n.Pool),
		zap.String("from", n.From),
		zap.String("to", n.To),
		zap.String("reason", n.Reason),
		zap.String("meaning", string(n.Meaning)),
		zap.String("key", n.Key),
		zap.Bool("repeated", n.Repeated),
		zap.Int("suppressed", n.Suppressed),
		zap.String("instance", n.Instance),
	}
	if !n.Until.IsZero() {
		fields = append(fields, zap.String("until", n.Until.Format(time.RFC3339)))
	}
	return fields
}

// eventData is the notice as the data of a Caddy event: the keys of its JSON,
// each one always there, so that no placeholder like {event.data.to} is left
// unreplaced in a handler's command.
func (n Notice) eventData() map[string]any {
	until := ""
	if !n.Until.IsZero() {
		until = n.Until.Format(time.RFC3339)
	}
	return map[string]any{
		"id":         n.ID,
		"time":       n.Time.Format(time.RFC3339),
		"kind":       string(n.Kind),
		"pool":       n.Pool,
		"from":       n.From,
		"to":         n.To,
		"reason":     n.Reason,
		"meaning":    string(n.Meaning),
		"key":        n.Key,
		"repeated":   n.Repeated,
		"until":      until,
		"suppressed": n.Suppressed,
		"instance":   n.Instance,
		"message":    n.Message,
	}
}

// Interface guard
var _ caddyevents.Handler = startedHandler{}

package caddymodule

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

// witness is a notifier, and an emitter of events, that keeps what it got.
type witness struct {
	mu  sync.Mutex
	got []string
}

func (r *witness) Start()               { r.add("start") }
func (r *witness) Notify(n Notice)      { r.add("notify " + n.Pool) }
func (r *witness) Stop(context.Context) { r.add("stop") }

func (r *witness) emit(name string, data map[string]any) {
	r.add(fmt.Sprintf("event %s %s", name, data["pool"]))
}

func (r *witness) add(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, s)
}

func (r *witness) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

func testEvent(kind pool.EventKind, name string) pool.Event {
	return pool.Event{Kind: kind, Time: time.Now(), Pool: name, From: "work", To: "home", Reason: "429", Meaning: pool.RateLimited}
}

// started is the events app of a configuration that has started.
func started(emit func(string, map[string]any)) caddyEvents {
	ch := make(chan struct{})
	close(ch)
	return caddyEvents{emit, ch}
}

func TestDispatcher_notifiersFirstEventLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, r := newNoticeLog(), new(witness)
		d := newDispatcher(l, []Notifier{r}, zap.NewNop(), started(r.emit))
		d.start()
		l.put(testEvent(pool.Failover, "a"))
		l.put(testEvent(pool.Rotated, "b"))
		synctest.Wait()
		d.stop()
		want := []string{
			"start",
			"notify a", "event credential_pool.failover a",
			"notify b", "event credential_pool.rotated b",
			"stop",
		}
		if got := r.all(); !slices.Equal(got, want) {
			t.Errorf("got %q\nwant %q", got, want)
		}
	})
}

func TestDispatcher_logsAndAudits(t *testing.T) {
	core, logs := observer.New(zapcore.DebugLevel)
	told := counters.notices.WithLabelValues(string(pool.Exhausted), outcomeTold)
	before := testutil.ToFloat64(told)
	d := newDispatcher(newNoticeLog(), nil, zap.New(core).Named("credential_pool"), started(func(string, map[string]any) {}))
	levels := map[pool.EventKind]zapcore.Level{
		pool.Failover:          zapcore.WarnLevel,
		pool.Exhausted:         zapcore.WarnLevel,
		pool.CredentialMissing: zapcore.WarnLevel,
		pool.Recovered:         zapcore.InfoLevel,
		pool.Rotated:           zapcore.InfoLevel,
		pool.Parked:            zapcore.InfoLevel,
		pool.MemberRecovered:   zapcore.InfoLevel,
		pool.Refreshed:         zapcore.InfoLevel,
		pool.RefreshFailed:     zapcore.WarnLevel,
	}
	for _, kind := range pool.EventKinds {
		n := newNotice(testEvent(kind, "openai"), "caddy-1")
		d.dispatch(n)
		lines := logs.TakeAll()
		if len(lines) != 2 {
			t.Fatalf("%s: %d log lines, want one and one for the audit", kind, len(lines))
		}
		if l := lines[0]; l.LoggerName != "credential_pool" || l.Level != levels[kind] || l.Message != n.Message {
			t.Errorf("%s: logged by %s at %s: %s", kind, l.LoggerName, l.Level, l.Message)
		}
		audit := lines[1]
		fields := audit.ContextMap()
		if audit.LoggerName != "credential_pool.audit" || audit.Level != zapcore.InfoLevel ||
			fields["action"] != auditActions[kind] || fields["pool"] != "openai" || fields["from"] != "work" ||
			fields["to"] != "home" || fields["reason"] != "429" || fields["instance"] != "caddy-1" || fields["notice"] != n.ID {
			t.Errorf("%s: audited by %s at %s as %v", kind, audit.LoggerName, audit.Level, fields)
		}
	}
	if got := testutil.ToFloat64(told) - before; got != 1 {
		t.Errorf("%v notices counted as told, want 1", got)
	}
}

func TestDispatcher_twoOfThemTellEachNoticeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, r := newNoticeLog(), new(witness)
		older := newDispatcher(l, nil, zap.NewNop(), started(r.emit))
		newer := newDispatcher(l, nil, zap.NewNop(), started(r.emit))
		older.start()
		newer.start()
		for i := range 100 {
			l.put(testEvent(pool.Parked, fmt.Sprint("p", i)))
			if i == 50 {
				older.stop()
			}
		}
		newer.stop()
		got := r.all()
		slices.Sort(got)
		if len(got) != 100 || len(slices.Compact(got)) != 100 {
			t.Errorf("100 notices were told as %d events", len(got))
		}
	})
}

func TestDispatcher_stopTellsWhatIsPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, r := newNoticeLog(), new(witness)
		for range 100 {
			l.put(testEvent(pool.Parked, "p"))
		}
		d := newDispatcher(l, nil, zap.NewNop(), started(r.emit))
		d.start()
		d.stop()
		if got := len(r.all()); got != 100 {
			t.Errorf("%d of 100 pending notices were told", got)
		}
	})
}

func TestDispatcher_tellsNothingBeforeTheConfigurationHasStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, r := newNoticeLog(), new(witness)
		l.put(testEvent(pool.Parked, "p"))
		ch := make(chan struct{})
		failed := newDispatcher(l, nil, zap.NewNop(), caddyEvents{r.emit, make(chan struct{})})
		slow := newDispatcher(l, nil, zap.NewNop(), caddyEvents{r.emit, ch})
		failed.start()
		slow.start()
		synctest.Wait()
		failed.stop()
		if got := r.all(); len(got) != 0 {
			t.Errorf("told too early: %q", got)
		}
		close(ch)
		synctest.Wait()
		if got := r.all(); len(got) != 1 {
			t.Errorf("told %q, want the one notice", got)
		}
		slow.stop()
	})
}

func TestDispatcher_stopWithoutStart(t *testing.T) {
	r := new(witness)
	newDispatcher(newNoticeLog(), []Notifier{r}, zap.NewNop(), started(r.emit)).stop()
	(*dispatcher)(nil).stop()
	if got := r.all(); len(got) != 0 {
		t.Errorf("a notifier that was not started got %q", got)
	}
}

func TestDispatcher_hangingEventHandlerDelaysNeitherNotifiersNorShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, r := newNoticeLog(), new(witness)
		release := make(chan struct{})
		d := newDispatcher(l, []Notifier{r}, zap.NewNop(), started(func(string, map[string]any) { <-release }))
		d.start()
		l.put(testEvent(pool.Exhausted, "a"))
		l.put(testEvent(pool.Exhausted, "b"))
		synctest.Wait()
		if got := r.all(); !slices.Contains(got, "notify a") {
			t.Errorf("while the handler of its event hangs, the notice is not passed on: %q", got)
		}
		begin := time.Now()
		d.stop()
		if took := time.Since(begin); took != dispatchPatience {
			t.Errorf("stop took %s, want %s", took, dispatchPatience)
		}
		close(release)
		synctest.Wait()
		if got := r.all(); got[len(got)-1] != "stop" {
			t.Errorf("a notifier was called after it was stopped: %q", got)
		}
		if len(l.pending) != 1 {
			t.Errorf("%d notices left for the next dispatcher, want 1", len(l.pending))
		}
	})
}

func TestDispatcher_survivesAPanicOfAnEventHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.ErrorLevel)
		l, r := newNoticeLog(), new(witness)
		d := newDispatcher(l, nil, zap.New(core), started(func(name string, data map[string]any) {
			if data["pool"] == "a" {
				panic("handler")
			}
			r.emit(name, data)
		}))
		d.start()
		l.put(testEvent(pool.Parked, "a"))
		l.put(testEvent(pool.Parked, "b"))
		d.stop()
		if got := r.all(); !slices.Equal(got, []string{"event credential_pool.parked b"}) {
			t.Errorf("after a panic: %q", got)
		}
		if logs.FilterMessageSnippet("panicked").Len() != 1 {
			t.Error("the panic is not logged")
		}
	})
}

func TestNotice_eventHasEveryKeyOfTheJSON(t *testing.T) {
	data := newNotice(testEvent(pool.Failover, "p"), "i").eventData()
	for key := range strings.FieldsSeq("id time kind pool from to reason meaning until suppressed instance message") {
		if _, ok := data[key]; !ok {
			t.Errorf("the event has no %s", key)
		}
	}
}

func init() {
	caddy.RegisterModule(new(testEmitter))
	caddy.RegisterModule(testHandler{})
}

// testEmitter is an app that dispatches one notice as soon as it may, and
// testHandler is the event handler that gets it.
type (
	testEmitter struct{ dispatcher *dispatcher }
	testHandler struct{}
)

var eventsOfCaddy = make(chan caddy.Event, 10)

func (*testEmitter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "credential_pool_test_emitter", New: func() caddy.Module { return new(testEmitter) }}
}

func (e *testEmitter) Provision(ctx caddy.Context) error {
	events, err := eventEmitter(ctx)
	if err != nil {
		return err
	}
	l := newNoticeLog()
	l.put(testEvent(pool.Failover, "openai"))
	e.dispatcher = newDispatcher(l, nil, zap.NewNop(), events)
	return nil
}

func (e *testEmitter) Start() error {
	e.dispatcher.start()
	return nil
}

func (e *testEmitter) Stop() error {
	e.dispatcher.stop()
	return nil
}

func (testHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.credential_pool_test", New: func() caddy.Module { return new(testHandler) }}
}

func (testHandler) Handle(_ context.Context, e caddy.Event) error {
	eventsOfCaddy <- e
	return nil
}

func TestDispatcher_eventsReachHandlersOfTheEventsApp(t *testing.T) {
	config := `{
		"admin": {"disabled": true, "config": {"persist": false}},
		"apps": {
			"credential_pool_test_emitter": {},
			"events": {"subscriptions": [{
				"events": ["credential_pool.failover"],
				"handlers": [{"handler": "credential_pool_test"}]
			}]}
		}
	}`
	for range 10 { // Caddy starts its apps in random order
		if err := caddy.Load([]byte(config), true); err != nil {
			t.Fatal(err)
		}
		if err := caddy.Stop(); err != nil {
			t.Fatal(err)
		}
		select {
		case e := <-eventsOfCaddy:
			if e.Name() != "credential_pool.failover" || e.Data["pool"] != "openai" ||
				e.Origin() == nil || e.Origin().CaddyModule().ID != "credential_pool_test_emitter" {
				t.Errorf("got %s of %v: %v", e.Name(), e.Origin(), e.Data)
			}
		default:
			t.Fatal("no event")
		}
	}
}

package caddymodule

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

// webhookSecretOf makes a secret of n bytes.
func webhookSecretOf(fill byte, n int) string {
	return "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{fill}, n))
}

// newTestWebhook provisions a webhook with the secrets, and with a log that can
// be read.
func newTestWebhook(t *testing.T, target string, secrets ...string) (*Webhook, *observer.ObservedLogs) {
	t.Helper()
	w := &Webhook{URL: target}
	for i, s := range secrets {
		path := fmt.Sprintf("%s/secret%d", t.TempDir(), i)
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		w.Secrets = append(w.Secrets, "{file."+path+"}")
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := w.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Cleanup() })
	core, logs := observer.New(zapcore.DebugLevel)
	w.logger = zap.New(core)
	return w, logs
}

// webhookAttempt is an attempt that reached the receiver.
type webhookAttempt struct {
	at     time.Time
	header http.Header
	body   []byte
}

// webhookReceiver answers attempts without a network and keeps them.
type webhookReceiver struct {
	answer func(n int, req *http.Request) (*http.Response, error) // n counts from 1

	mu  sync.Mutex
	got []webhookAttempt
}

func (r *webhookReceiver) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.got = append(r.got, webhookAttempt{time.Now(), req.Header.Clone(), body})
	n := len(r.got)
	r.mu.Unlock()
	return r.answer(n, req)
}

func (r *webhookReceiver) deliveries() []webhookAttempt {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

// pools returns the pools of the notices that the receiver got.
func (r *webhookReceiver) pools(t *testing.T) []string {
	t.Helper()
	got := r.deliveries()
	names := make([]string, len(got))
	for i, d := range got {
		var n Notice
		if err := json.Unmarshal(d.body, &n); err != nil {
			t.Fatal(err)
		}
		names[i] = n.Pool
	}
	return names
}

func answerWith(code int, header ...string) (*http.Response, error) {
	res := &http.Response{StatusCode: code, Header: make(http.Header), Body: http.NoBody}
	for i := 0; i+1 < len(header); i += 2 {
		res.Header.Set(header[i], header[i+1])
	}
	return res, nil
}

// alwaysAnswer answers every attempt with the status.
func alwaysAnswer(code int, header ...string) *webhookReceiver {
	return &webhookReceiver{answer: func(int, *http.Request) (*http.Response, error) { return answerWith(code, header...) }}
}

// hangingReceiver answers no attempt.
func hangingReceiver() *webhookReceiver {
	return &webhookReceiver{answer: func(_ int, req *http.Request) (*http.Response, error) {
		<-req.Context().Done()
		return nil, req.Context().Err()
	}}
}

func noticeOf(name string) Notice { return newNotice(testEvent(pool.Parked, name), "caddy-1") }

// outcomes returns how many notices had that outcome since it was called.
func outcomes(outcome string) func() float64 {
	c := counters.notices.WithLabelValues(string(pool.Parked), outcome)
	before := testutil.ToFloat64(c)
	return func() float64 { return testutil.ToFloat64(c) - before }
}

const testTarget = "https://hooks.example.com/c4n4ry?k=c4n4ry"

func TestWebhook_verifiesWithTheReferenceLibrary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		older, newer := webhookSecretOf(1, 24), webhookSecretOf(2, 64)
		w, _ := newTestWebhook(t, testTarget, older, newer)
		r := alwaysAnswer(http.StatusNoContent)
		w.client.Transport = r
		delivered := outcomes(outcomeDelivered)
		w.Start()
		n := noticeOf("openai")
		w.Notify(n)
		synctest.Wait()
		w.Stop(t.Context())

		got := r.deliveries()
		if len(got) != 1 || delivered() != 1 {
			t.Fatalf("%d deliveries, %v counted; want 1", len(got), delivered())
		}
		d := got[0]
		assertJSON(t, n, string(d.body))
		if d.header.Get("Content-Type") != "application/json" || d.header.Get("User-Agent") != "caddy-credential-pool" || d.header.Get("Webhook-Id") != n.ID {
			t.Errorf("headers %v", d.header)
		}
		for name, secret := range map[string]string{"older": older, "newer": newer} {
			if err := verifySigned(t, secret, d.body, d.header); err != nil {
				t.Errorf("%s secret: %v", name, err)
			}
		}
		if verifySigned(t, webhookSecretOf(3, 24), d.body, d.header) == nil {
			t.Error("a foreign secret verifies")
		}
		for i := range d.body {
			flipped := slices.Clone(d.body)
			flipped[i] ^= 1
			if verifySigned(t, older, flipped, d.header) == nil {
				t.Fatalf("verifies with byte %d flipped", i)
			}
		}
		time.Sleep(5*time.Minute + time.Second)
		if err := verifySigned(t, older, d.body, d.header); !errors.Is(err, standardwebhooks.ErrMessageTooOld) {
			t.Errorf("an old delivery verifies: %v", err)
		}
	})
}

func verifySigned(t *testing.T, secret string, body []byte, header http.Header) error {
	t.Helper()
	v, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	return v.Verify(body, header)
}

func TestWebhook_repeatsWithDoublingWaitsThenGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		secret := webhookSecretOf(1, 32)
		w, logs := newTestWebhook(t, testTarget, secret)
		r := alwaysAnswer(http.StatusInternalServerError)
		w.client.Transport = r
		retried, failed := outcomes(outcomeRetried), outcomes(outcomeFailed)
		w.Start()
		n := noticeOf("openai")
		w.Notify(n)
		time.Sleep(time.Hour)

		var waits []int
		got := r.deliveries()
		for i, d := range got {
			if d.header.Get("Webhook-Id") != n.ID {
				t.Errorf("attempt %d has the id %s", i+1, d.header.Get("Webhook-Id"))
			}
			if stamp := d.header.Get("Webhook-Timestamp"); stamp != strconv.FormatInt(d.at.Unix(), 10) {
				t.Errorf("attempt %d at %d has the timestamp %s", i+1, d.at.Unix(), stamp)
			}
			if i > 0 {
				waits = append(waits, int(d.at.Sub(got[i-1].at).Seconds()))
			}
		}
		if want := []int{1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300}; !slices.Equal(waits, want) {
			t.Errorf("waits %v, want %v", waits, want)
		}
		if retried() != 11 || failed() != 1 {
			t.Errorf("%v attempts counted as retried, %v as failed; want 11 and 1", retried(), failed())
		}
		if logs.FilterLevelExact(zapcore.WarnLevel).Len() != 11 || logs.FilterMessageSnippet("given up").Len() != 1 {
			t.Errorf("attempts are not in the log: %v", logs.All())
		}
		w.Notify(noticeOf("next"))
		synctest.Wait()
		if names := r.pools(t); names[len(names)-1] != "next" {
			t.Error("a notice that was given up holds up the next")
		}
		w.Stop(t.Context())
	})
}

func TestWebhook_waitBeforeTheNextAttempt(t *testing.T) {
	for _, tc := range []struct {
		name       string
		code       int
		retryAfter string
		want       time.Duration // 0: no further attempt
	}{
		{"seconds", 429, "7", 7 * time.Second},
		{"date", 503, "Sat, 01 Jan 2000 00:01:30 GMT", 91 * time.Second},
		{"bounded", 503, "86400", time.Hour},
		{"date in the past", 503, "Sat, 01 Jan 1999 00:00:00 GMT", time.Second},
		{"zero", 503, "0", time.Second},
		{"negative", 503, "-5", time.Second},
		{"nonsense", 503, "soon", time.Second},
		{"too large", 503, "99999999999999999999", time.Second},
		{"bad request", 400, "", time.Second},
		{"redirect", 307, "", time.Second},
		{"not modified", 304, "", time.Second},
		{"gone", 410, "3", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, _ := newTestWebhook(t, testTarget, webhookSecretOf(1, 32))
				r := &webhookReceiver{answer: func(n int, _ *http.Request) (*http.Response, error) {
					if n == 1 {
						return answerWith(tc.code, "Retry-After", tc.retryAfter, "Location", "https://elsewhere.example.com/")
					}
					return answerWith(200)
				}}
				w.client.Transport = r
				w.Start()
				begin := time.Now() // midnight, 1 January 2000
				w.Notify(noticeOf("openai"))
				time.Sleep(2 * time.Hour)
				w.Stop(t.Context())
				got := r.deliveries()
				switch {
				case tc.want == 0 && len(got) != 1:
					t.Errorf("%d attempts, want 1", len(got))
				case tc.want > 0 && (len(got) != 2 || got[1].at.Sub(begin) != tc.want):
					t.Errorf("attempts %d; want a second one after %s", len(got), tc.want)
				}
			})
		})
	}
}

func TestWebhook_attemptEndsAfterItsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, logs := newTestWebhook(t, testTarget, webhookSecretOf(1, 32))
		r := hangingReceiver()
		w.client.Transport = r
		w.Start()
		w.Notify(noticeOf("openai"))
		time.Sleep(webhookTimeout + webhookFirstWait)
		synctest.Wait()
		if got := len(r.deliveries()); got != 2 {
			t.Errorf("%d attempts after the first one's timeout and wait, want 2", got)
		}
		if line := logs.All()[0]; line.ContextMap()["error"] != "no answer within 15s" {
			t.Errorf("logged %v", line.ContextMap())
		}
		w.Stop(t.Context())
	})
}

func TestWebhook_hangingReceiverFillsABoundedQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, logs := newTestWebhook(t, testTarget, webhookSecretOf(1, 32))
		open := make(chan struct{})
		r := &webhookReceiver{answer: func(_ int, req *http.Request) (*http.Response, error) {
			select {
			case <-open:
				return answerWith(200)
			case <-req.Context().Done():
				return nil, req.Context().Err()
			}
		}}
		w.client.Transport = r
		dropped := outcomes(outcomeDropped)
		w.Start()
		w.Notify(noticeOf("p0"))
		synctest.Wait() // it hangs
		begin := time.Now()
		for i := 1; i <= webhookQueue+7; i++ {
			w.Notify(noticeOf(fmt.Sprint("p", i)))
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("Notify took %s", took)
		}
		if dropped() != 7 {
			t.Errorf("%v drops counted, want 7", dropped())
		}
		if got := logs.FilterMessageSnippet("queue is full").Len(); got != 1 {
			t.Errorf("the full queue is logged %d times, want 1", got)
		}
		close(open)
		synctest.Wait()
		w.Stop(t.Context())
		names := r.pools(t)
		if len(names) != webhookQueue+1 || names[1] != "p8" || names[webhookQueue] != "p1007" {
			t.Errorf("%d notices delivered, %s to %s; want the newest", len(names), names[1], names[len(names)-1])
		}
		again := logs.FilterMessageSnippet("delivers again").All()
		if len(again) != 1 || again[0].ContextMap()["dropped"] != int64(7) {
			t.Errorf("the end of the episode is logged as %v", again)
		}
	})
}

func TestWebhook_hangingReceiverDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad, _ := newTestWebhook(t, testTarget, webhookSecretOf(1, 32))
		good, _ := newTestWebhook(t, testTarget+"/other", webhookSecretOf(1, 32))
		bad.client.Transport = hangingReceiver()
		r := alwaysAnswer(200)
		good.client.Transport = r
		l, told := newNoticeLog(), new(witness)
		d := newDispatcher(l, []Notifier{bad, good}, zap.NewNop(), started(told.emit))
		d.start()
		for i := range 3 {
			l.put(testEvent(pool.Parked, fmt.Sprint("p", i)))
		}
		synctest.Wait() // no time passes
		if got := r.pools(t); !slices.Equal(got, []string{"p0", "p1", "p2"}) {
			t.Errorf("the other receiver got %q", got)
		}
		if got := len(told.all()); got != 3 {
			t.Errorf("%d events, want 3", got)
		}
		begin := time.Now()
		d.stop()
		if took := time.Since(begin); took != notifierPatience {
			t.Errorf("stop took %s, want %s", took, notifierPatience)
		}
	})
}

func TestWebhook_stopDropsWhatCannotBeSentAndSaysHowMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, logs := newTestWebhook(t, testTarget, webhookSecretOf(1, 32))
		w.client.Transport = hangingReceiver()
		dropped := outcomes(outcomeDropped)
		w.Start()
		for range 10 {
			w.Notify(noticeOf("openai"))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		begin := time.Now()
		w.Stop(ctx)
		if took := time.Since(begin); took != 5*time.Second {
			t.Errorf("Stop took %s", took)
		}
		lines := logs.FilterLevelExact(zapcore.ErrorLevel).All()
		if len(lines) != 1 || lines[0].ContextMap()["dropped"] != int64(10) || dropped() != 10 {
			t.Errorf("%v drops counted; logged %v", dropped(), lines)
		}
	})
}

func TestWebhook_theNextConfigGoesOnWithWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		secret := webhookSecretOf(1, 32)
		before, logs := newTestWebhook(t, testTarget, secret)
		before.client.Transport = alwaysAnswer(503)
		dropped := outcomes(outcomeDropped)
		before.Start()
		for _, name := range []string{"a", "b"} {
			before.Notify(noticeOf(name))
		}
		synctest.Wait() // a waits for its second attempt

		after, _ := newTestWebhook(t, testTarget, secret)
		r := alwaysAnswer(200)
		after.client.Transport = r
		after.Start()
		after.Notify(noticeOf("c"))
		synctest.Wait()
		if got := r.pools(t); len(got) != 0 {
			t.Errorf("%q went out while the webhook before was in charge", got)
		}
		begin := time.Now()
		before.Stop(t.Context())
		synctest.Wait()
		if took := time.Since(begin); took != 0 {
			t.Errorf("it took %s", took)
		}
		if got := r.pools(t); !slices.Equal(got, []string{"a", "b", "c"}) {
			t.Errorf("the receiver got %q", got)
		}
		after.Stop(t.Context())
		if dropped() != 0 || logs.FilterLevelExact(zapcore.ErrorLevel).Len() != 0 {
			t.Errorf("%v dropped; logged %v", dropped(), logs.All())
		}
	})
}

func TestWebhook_aConfigChangeWaitsForNoHangingReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		secret := webhookSecretOf(1, 32)
		before, _ := newTestWebhook(t, testTarget, secret)
		before.client.Transport = hangingReceiver()
		before.Start()
		before.Notify(noticeOf("a"))
		before.Notify(noticeOf("b"))
		synctest.Wait()
		after, _ := newTestWebhook(t, testTarget, secret)
		r := alwaysAnswer(200)
		after.client.Transport = r
		after.Start()
		begin := time.Now()
		before.Stop(t.Context())
		if took := time.Since(begin); took != 0 {
			t.Errorf("Stop took %s", took)
		}
		time.Sleep(webhookTimeout)
		synctest.Wait()
		if got := r.pools(t); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("the receiver got %q", got)
		}
		after.Stop(t.Context())
	})
}

// The webhook of the config before may be in an attempt for longer than Stop is
// given.
func TestWebhook_stopCountsWhatWasNeverItsTurnToSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		secret := webhookSecretOf(1, 32)
		before, _ := newTestWebhook(t, testTarget, secret)
		before.client.Transport = hangingReceiver()
		before.Start()
		before.Notify(noticeOf("a"))
		synctest.Wait()
		after, logs := newTestWebhook(t, testTarget, secret)
		after.Start()
		before.Stop(t.Context())
		after.Notify(noticeOf("b"))
		after.Notify(noticeOf("c"))

		dropped := outcomes(outcomeDropped)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		after.Stop(ctx)
		lines := logs.FilterLevelExact(zapcore.ErrorLevel).All()
		if len(lines) != 1 || lines[0].ContextMap()["dropped"] != int64(2) || dropped() != 2 {
			t.Errorf("%v drops counted; logged %v", dropped(), lines)
		}
		before.stopSending()
		<-before.done
	})
}

// A config that fails to start is stopped while the one before goes on.
func TestWebhook_aConfigThatFailsToStartLeavesTheQueueAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		secret := webhookSecretOf(1, 32)
		running, _ := newTestWebhook(t, testTarget, secret)
		r := alwaysAnswer(200)
		running.client.Transport = r
		running.Start()
		failed, _ := newTestWebhook(t, testTarget, secret)
		failed.client.Transport = alwaysAnswer(503)
		failed.Start()
		failed.Stop(t.Context())
		if err := failed.Cleanup(); err != nil {
			t.Fatal(err)
		}
		running.Notify(noticeOf("a"))
		synctest.Wait()
		if got := r.pools(t); !slices.Equal(got, []string{"a"}) {
			t.Errorf("the receiver got %q", got)
		}
		running.Stop(t.Context())
	})
}

func TestWebhook_stopTriesOnceMoreWithoutWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, logs := newTestWebhook(t, testTarget, webhookSecretOf(1, 32))
		r := &webhookReceiver{answer: func(n int, _ *http.Request) (*http.Response, error) {
			if n == 1 {
				return answerWith(503, "Retry-After", "600")
			}
			return answerWith(200)
		}}
		w.client.Transport = r
		w.Start()
		w.Notify(noticeOf("a"))
		w.Notify(noticeOf("b"))
		synctest.Wait() // a waits for its second attempt
		begin := time.Now()
		w.Stop(t.Context())
		if took := time.Since(begin); took != 0 {
			t.Errorf("Stop took %s", took)
		}
		if got := r.pools(t); !slices.Equal(got, []string{"a", "a", "b"}) {
			t.Errorf("the receiver got %q", got)
		}
		if logs.FilterLevelExact(zapcore.ErrorLevel).Len() != 0 {
			t.Errorf("logged %v", logs.All())
		}
	})
}

func TestWebhook_provisionSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := newTestWebhook(t, testTarget, webhookSecretOf(1, 32))
		r := alwaysAnswer(200)
		w.client.Transport = r
		w.Notify(noticeOf("openai"))
		time.Sleep(time.Hour)
		if len(r.deliveries()) != 0 {
			t.Error("a webhook that was not started sends")
		}
	})
}

func TestWebhook_redirectIsNotFollowed(t *testing.T) {
	followed := make(chan struct{}, 10)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed <- struct{}{} }))
	defer elsewhere.Close()
	for _, code := range []int{301, 302, 303, 307, 308} {
		first := httptest.NewServer(http.RedirectHandler(elsewhere.URL, code))
		w, _ := newTestWebhook(t, first.URL, webhookSecretOf(1, 32))
		w.sending = t.Context()
		if err := w.attempt("notice_x", []byte("{}")); err == nil || err.Error() != fmt.Sprintf("status %d", code) {
			t.Errorf("%d: %v", code, err)
		}
		w.client.CloseIdleConnections()
		first.Close()
	}
	if len(followed) != 0 {
		t.Error("a redirect was followed")
	}
}

func TestWebhook_deliversOverHTTP(t *testing.T) {
	secret := webhookSecretOf(1, 32)
	results := make(chan error, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		results <- verifySigned(t, secret, body, req.Header)
	}))
	defer server.Close()
	w, _ := newTestWebhook(t, server.URL+"/hook", secret)
	w.Start()
	w.Notify(noticeOf("openai"))
	w.Stop(t.Context())
	select {
	case err := <-results:
		if err != nil {
			t.Error(err)
		}
	default:
		t.Error("nothing was delivered")
	}
}

func TestWebhook_urlIsInNoLogLine(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refusing := closed.Addr().String()
	closed.Close()
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		// What is no HTTP at all stands in the error's text.
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		fmt.Fprintf(buf, "nonsense of %s\r\n\r\n", req.RequestURI)
		buf.Flush()
		conn.Close()
	}))
	defer echo.Close()

	for name, target := range map[string]string{
		"refused":      "http://user:c4n4ry@" + refusing + "/c4n4ry?k=c4n4ry",
		"unknown host": "http://c4n4ry.invalid/c4n4ry",
		"not HTTP":     echo.URL + "/c4n4ry?k=c4n4ry",
		"not TLS":      strings.Replace(echo.URL, "http:", "https:", 1) + "/c4n4ry",
	} {
		t.Run(name, func(t *testing.T) {
			w, logs := newTestWebhook(t, target, webhookSecretOf(1, 32))
			if name == "unknown host" {
				w.client.Transport = &webhookReceiver{answer: func(int, *http.Request) (*http.Response, error) {
					return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "c4n4ry.invalid"}}
				}}
			}
			w.Start()
			w.Notify(noticeOf("openai"))
			w.Stop(t.Context())
			w.sending = t.Context()
			err := w.attempt("notice_x", []byte("{}"))
			if err == nil {
				t.Fatal("the attempt succeeds")
			}
			text := err.Error()
			for _, line := range logs.All() {
				text += fmt.Sprintln(line.Message, line.ContextMap())
			}
			host := strings.TrimPrefix(echo.URL, "http://")
			for _, secret := range []string{"c4n4ry", refusing, host} {
				if strings.Contains(text, secret) {
					t.Errorf("%s is in %s", secret, text)
				}
			}
		})
	}
}

func TestWebhook_badConfigIsRefusedWithoutNamingSecrets(t *testing.T) {
	good := webhookSecretOf(1, 32)
	for _, tc := range []struct {
		name, url, secret, want string
	}{
		{"no url", "", good, "url: "},
		{"no scheme", "c4n4ry.example.com/x", good, "url: it must be an http or https URL with a host"},
		{"other scheme", "ftp://c4n4ry.example.com/x", good, "url: it must be"},
		{"no host", "https:///c4n4ry", good, "url: it must be"},
		{"no URL at all", "https://c4n4ry:c4n4ry:c4n4ry", good, "url: it must be"},
		{"control character", "https://h.example.com/c4n4ry\x01", good, "url: it must be"},
		{"unset placeholder", "{env.WEBHOOK_TEST_UNSET}", good, "url: {env.WEBHOOK_TEST_UNSET} "},
		{"no prefix", "https://h", strings.TrimPrefix(good, "whsec_"), "secret: number 1: it must be"},
		{"raw", "https://h", "c4n4ry", "secret: number 1: it must be"},
		{"no base64", "https://h", "whsec_c4n4ry!", "secret: number 1: it must be"},
		{"too short", "https://h", webhookSecretOf(1, 23), "secret: number 1: it must be"},
		{"too long", "https://h", webhookSecretOf(1, 65), "secret: number 1: it must be"},
		{"empty", "https://h", "", "secret: number 1: "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Setenv("WEBHOOK_TEST_SECRET", tc.secret)
			w := &Webhook{URL: tc.url, Secrets: []string{"{env.WEBHOOK_TEST_SECRET}"}}
			err := provisionWebhook(t, w)
			if err == nil || !strings.HasPrefix(err.Error(), tc.want) {
				t.Fatalf("error %v, want one that begins with %q", err, tc.want)
			}
			if strings.Contains(err.Error(), "c4n4ry") || (tc.secret != "" && strings.Contains(err.Error(), tc.secret)) {
				t.Errorf("the error holds a secret: %v", err)
			}
		})
	}
	t.Run("no secret", func(t *testing.T) {
		err := provisionWebhook(t, &Webhook{URL: "https://h"})
		if err == nil || !strings.Contains(err.Error(), "at least one is required") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("secret in the config itself", func(t *testing.T) {
		err := provisionWebhook(t, &Webhook{URL: "https://h", Secrets: []string{good}})
		if err == nil || strings.Contains(err.Error(), good) {
			t.Errorf("error %v", err)
		}
	})
}

func provisionWebhook(t *testing.T, w *Webhook) error {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	return w.Provision(ctx)
}

func TestWebhook_caddyfile(t *testing.T) {
	w := new(Webhook)
	d := caddyfile.NewTestDispenser("webhook {env.HOOK} {\n secret {env.A}\n secret {env.B}\n}")
	if err := w.UnmarshalCaddyfile(d); err != nil {
		t.Fatal(err)
	}
	assertJSON(t, w, `{"url":"{env.HOOK}","secret":["{env.A}","{env.B}"]}`)

	for input, want := range map[string]string{
		"webhook":                                     "exactly one argument expected",
		"webhook https://h c4n4ry":                    "exactly one argument expected",
		"webhook https://h {\n secret\n}":             "secret: exactly one argument expected",
		"webhook https://h {\n secret c4n4ry more\n}": "secret: exactly one argument expected",
		"webhook https://h {\n secrets x\n}":          "secrets; known: secret",
	} {
		err := new(Webhook).UnmarshalCaddyfile(caddyfile.NewTestDispenser(input))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "c4n4ry") {
			t.Errorf("%q: error %v, want %q", input, err, want)
		}
	}
}

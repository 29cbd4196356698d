package caddymodule

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
)

// text returns n bytes of which each stretch is different.
func text(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// testRecorder returns a recorder, and a check that runs last: that it has given
// back all that it took.
func testRecorder(t *testing.T, body io.Reader, limit, max int64) (*recorder, *budget) {
	b := &budget{max: max}
	r := newRecorder(body, limit, b)
	t.Cleanup(func() {
		r.close()
		if used := b.used.Load(); used != 0 {
			t.Errorf("%d bytes were not given back", used)
		}
	})
	return r, b
}

func mustAttempt(t *testing.T, r *recorder) io.ReadCloser {
	t.Helper()
	body, err := r.attempt()
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func mustRead(t *testing.T, r io.Reader, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		t.Fatal(err)
	}
	return b
}

func mustReadAll(t *testing.T, r io.Reader) []byte {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func wantBytes(t *testing.T, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Fatalf("got %d bytes, want %d, or others", len(got), len(want))
	}
}

func TestRecorder_everyAttemptGetsTheWholeBody(t *testing.T) {
	for _, size := range []int{0, 1, smallChunk - 1, smallChunk, smallChunk + 1, smallChunk + largeChunk, 1 << 20} {
		want := text(size)
		for name, body := range map[string]io.Reader{
			"plain":     bytes.NewReader(want),
			"eof early": iotest.DataErrReader(bytes.NewReader(want)),
			"halves":    iotest.HalfReader(bytes.NewReader(want)),
		} {
			r, _ := testRecorder(t, body, 2<<20, 4<<20)
			for i := range 4 {
				attempt := mustAttempt(t, r)
				if i == 1 { // one that leaves in the middle
					mustRead(t, attempt, size/2)
				} else {
					wantBytes(t, mustReadAll(t, attempt), want)
				}
				if err := attempt.Close(); err != nil {
					t.Error(name, err)
				}
			}
		}
	}
}

func TestRecorder_readsOnWhereTheFirstAttemptLeft(t *testing.T) {
	want := text(100_000)
	r, _ := testRecorder(t, bytes.NewReader(want), 1<<20, 1<<20)
	first := mustAttempt(t, r)
	wantBytes(t, mustRead(t, first, 50_000), want[:50_000])
	// The first attempt has not closed its body yet.
	second := mustAttempt(t, r)
	if n, err := first.Read(make([]byte, 1)); n != 0 || !errors.Is(err, http.ErrBodyReadAfterClose) {
		t.Errorf("the first attempt reads on: %d, %v", n, err)
	}
	if err := first.Close(); err != nil { // must not end the second's
		t.Error(err)
	}
	wantBytes(t, mustReadAll(t, second), want)
}

func TestRecorder_doesNotReadAhead(t *testing.T) {
	source := strings.NewReader("abc")
	r, b := testRecorder(t, source, 10, 1<<20)
	mustAttempt(t, r)
	attempt := mustAttempt(t, r)
	if n, err := attempt.Read(nil); n != 0 || err != nil {
		t.Errorf("an empty read gives %d, %v", n, err)
	}
	if source.Len() != 3 || b.used.Load() != 0 {
		t.Error("something was read, or reserved, before an attempt asked for it")
	}
}

func TestRecorder_errorStandsWhereItCame(t *testing.T) {
	broken := errors.New("client gone")
	r, _ := testRecorder(t, io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(broken)), 10, 1<<20)
	for range 3 {
		attempt := mustAttempt(t, r)
		for range 2 { // the error stays
			got, err := io.ReadAll(attempt)
			if !errors.Is(err, broken) {
				t.Fatalf("error %v", err)
			}
			wantBytes(t, got, []byte("abc")[:len(got)])
		}
	}
}

func TestRecorder_limit(t *testing.T) {
	want := text(100_000)
	for _, test := range []struct {
		name       string
		limit, max int64
		replayable bool
	}{
		{"just fits", 100_000, 1 << 20, true},
		{"outgrown", 99_999, 1 << 20, false},
		{"off", 0, 1 << 20, false},
		{"budget just fits", 100_000, smallChunk + 3*largeChunk, true},
		{"budget used up", 100_000, smallChunk + 3*largeChunk - 1, false},
		{"no budget", 100_000, 0, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, b := testRecorder(t, bytes.NewReader(want), test.limit, test.max)
			wantBytes(t, mustReadAll(t, mustAttempt(t, r)), want) // streams on in any case
			if got := r.replayable(); got != test.replayable {
				t.Errorf("replayable: %v", got)
			}
			if used := b.used.Load(); (used != 0) != test.replayable {
				t.Errorf("%d bytes are taken", used)
			}
			if _, err := r.attempt(); (err == nil) != test.replayable {
				t.Errorf("second attempt: %v", err)
			} else if err != nil && !errors.Is(err, errNotReplayable) {
				t.Error(err)
			}
		})
	}
}

func TestRecorder_budgetIsShared(t *testing.T) {
	b := &budget{max: smallChunk}
	first, second := newRecorder(strings.NewReader("first"), 10, b), newRecorder(strings.NewReader("second"), 10, b)
	mustReadAll(t, mustAttempt(t, first))
	wantBytes(t, mustReadAll(t, mustAttempt(t, second)), []byte("second"))
	if !first.replayable() || second.replayable() {
		t.Error("the first one takes what there is")
	}
	first.close()
	third := newRecorder(strings.NewReader("third"), 10, b)
	mustReadAll(t, mustAttempt(t, third))
	if !third.replayable() {
		t.Error("what the first one gave back is not used")
	}
	second.close()
	third.close()
	if b.used.Load() != 0 {
		t.Error(b.used.Load())
	}
}

func TestRecorder_stopKeepsWhatTheAttemptHasYetToRead(t *testing.T) {
	want := text(200_000)
	r, b := testRecorder(t, bytes.NewReader(want), 1<<20, 1<<20)
	mustRead(t, mustAttempt(t, r), 100_000)
	attempt := mustAttempt(t, r)
	got := mustRead(t, attempt, 50_000)
	r.stop()
	r.stop()
	if used := b.used.Load(); used == 0 || used > 50_000+2*largeChunk {
		t.Errorf("%d bytes are kept for 50,000 yet to read", used)
	}
	got = append(got, mustRead(t, attempt, 50_000)...)
	if used := b.used.Load(); used != 0 {
		t.Errorf("%d bytes are kept for nobody", used)
	}
	wantBytes(t, append(got, mustReadAll(t, attempt)...), want)
	if b.used.Load() != 0 || r.replayable() {
		t.Error("it goes on recording")
	}
}

func TestRecorder_afterStop(t *testing.T) {
	t.Run("a consumed body is not sent as an empty one", func(t *testing.T) {
		r, b := testRecorder(t, strings.NewReader("abc"), 10, 1<<20)
		attempt := mustAttempt(t, r)
		mustReadAll(t, attempt)
		attempt.Close()
		r.stop()
		if b.used.Load() != 0 {
			t.Error("memory is held for nobody")
		}
		if _, err := r.attempt(); !errors.Is(err, errNotReplayable) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("an untouched body can be sent", func(t *testing.T) {
		r, _ := testRecorder(t, strings.NewReader("abc"), 10, 1<<20)
		mustAttempt(t, r).Close()
		r.stop()
		wantBytes(t, mustReadAll(t, mustAttempt(t, r)), []byte("abc"))
		if _, err := r.attempt(); !errors.Is(err, errNotReplayable) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("an empty body can be sent again", func(t *testing.T) {
		r, _ := testRecorder(t, strings.NewReader(""), 10, 1<<20)
		mustReadAll(t, mustAttempt(t, r))
		r.stop()
		wantBytes(t, mustReadAll(t, mustAttempt(t, r)), nil)
	})
}

func TestRecorder_closeEndsEverything(t *testing.T) {
	r, b := testRecorder(t, strings.NewReader("abc"), 10, 1<<20)
	attempt := mustAttempt(t, r)
	mustRead(t, attempt, 2)
	r.close()
	r.close()
	if b.used.Load() != 0 {
		t.Error("memory is held")
	}
	if n, err := attempt.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("it reads on: %d, %v", n, err)
	}
	if _, err := r.attempt(); !errors.Is(err, errNotReplayable) {
		t.Errorf("error %v", err)
	}
	fresh := newRecorder(strings.NewReader("abc"), 10, b)
	fresh.close()
	if _, err := fresh.attempt(); !errors.Is(err, errNotReplayable) {
		t.Errorf("error %v", err)
	}
}

// result is what a Read in a goroutine gave.
type result struct {
	bytes []byte
	err   error
}

func goRead(r io.Reader, n int) <-chan result {
	done := make(chan result, 1)
	go func() {
		b := make([]byte, n)
		n, err := r.Read(b)
		done <- result{b[:n], err}
	}()
	return done
}

func TestRecorder_hangingRead(t *testing.T) {
	// In each case the first attempt has read "abc" and its next Read hangs.
	hang := func(t *testing.T, limit int64, body func(t *testing.T, r *recorder, b *budget, first io.Closer, client *io.PipeWriter, hanging <-chan result)) {
		synctest.Test(t, func(t *testing.T) {
			source, client := io.Pipe()
			r, b := testRecorder(t, source, limit, 1<<20)
			first := mustAttempt(t, r)
			go client.Write([]byte("abc"))
			mustRead(t, first, 3)
			hanging := goRead(first, 2*smallChunk)
			synctest.Wait()
			body(t, r, b, first, client, hanging)
			client.Close()
		})
	}
	write := func(t *testing.T, client io.Writer, s string) {
		t.Helper()
		if _, err := io.WriteString(client, s); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("its bytes are the next attempt's", func(t *testing.T) {
		hang(t, 1000, func(t *testing.T, r *recorder, _ *budget, first io.Closer, client *io.PipeWriter, hanging <-chan result) {
			first.Close() // does not wait
			second := mustAttempt(t, r)
			wantBytes(t, mustRead(t, second, 3), []byte("abc"))
			waiting := goRead(second, 100)
			synctest.Wait()
			select {
			case got := <-waiting:
				t.Fatalf("the second attempt overtook it: %q, %v", got.bytes, got.err)
			default:
			}
			write(t, client, "def")
			if got := <-hanging; len(got.bytes) != 0 || !errors.Is(got.err, http.ErrBodyReadAfterClose) {
				t.Errorf("the first attempt got %q, %v", got.bytes, got.err)
			}
			if got := <-waiting; string(got.bytes) != "def" || got.err != nil {
				t.Errorf("the second attempt got %q, %v", got.bytes, got.err)
			}
			go func() {
				io.WriteString(client, "ghi")
				client.Close()
			}()
			wantBytes(t, mustReadAll(t, second), []byte("ghi"))
			wantBytes(t, mustReadAll(t, mustAttempt(t, r)), []byte("abcdefghi"))
		})
	})
	t.Run("its error is the next attempt's", func(t *testing.T) {
		hang(t, 1000, func(t *testing.T, r *recorder, _ *budget, _ io.Closer, client *io.PipeWriter, hanging <-chan result) {
			second := mustAttempt(t, r)
			gone := errors.New("gone")
			client.CloseWithError(gone)
			<-hanging
			got, err := io.ReadAll(second)
			if string(got) != "abc" || !errors.Is(err, gone) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	})
	t.Run("it is kept though it ends the recording", func(t *testing.T) {
		hang(t, 5, func(t *testing.T, r *recorder, b *budget, _ io.Closer, client *io.PipeWriter, hanging <-chan result) {
			second := mustAttempt(t, r)
			write(t, client, "def")
			<-hanging
			if r.replayable() {
				t.Error("the limit is passed")
			}
			wantBytes(t, mustRead(t, second, 6), []byte("abcdef"))
			if b.used.Load() != 0 {
				t.Error("memory is held for nobody")
			}
		})
	})
	t.Run("it is kept though the budget is used up", func(t *testing.T) {
		hang(t, 1<<20, func(t *testing.T, r *recorder, b *budget, _ io.Closer, client *io.PipeWriter, hanging <-chan result) {
			b.max = smallChunk
			second := mustAttempt(t, r)
			late := text(smallChunk)
			write(t, client, string(late))
			<-hanging
			if r.replayable() || b.used.Load() != smallChunk+largeChunk {
				t.Errorf("replayable %v, %d bytes are taken", r.replayable(), b.used.Load())
			}
			wantBytes(t, mustRead(t, second, 3+len(late)), append([]byte("abc"), late...))
			if b.used.Load() != 0 {
				t.Error("memory is held for nobody")
			}
		})
	})
	t.Run("it is kept after the recording ended", func(t *testing.T) {
		hang(t, 1000, func(t *testing.T, r *recorder, b *budget, _ io.Closer, client *io.PipeWriter, hanging <-chan result) {
			second := mustAttempt(t, r)
			mustRead(t, second, 3)
			r.stop()
			if b.used.Load() != 0 {
				t.Error("memory is held for nobody")
			}
			write(t, client, "def")
			<-hanging
			wantBytes(t, mustRead(t, second, 3), []byte("def"))
			waiting := goRead(second, 100)
			write(t, client, "ghi")
			if got := <-waiting; string(got.bytes) != "ghi" {
				t.Errorf("got %q, %v", got.bytes, got.err)
			}
			if b.used.Load() != 0 {
				t.Error("memory is held for nobody")
			}
		})
	})
	t.Run("an attempt that waits for it can be closed", func(t *testing.T) {
		hang(t, 1000, func(t *testing.T, r *recorder, _ *budget, _ io.Closer, client *io.PipeWriter, hanging <-chan result) {
			second := mustAttempt(t, r)
			mustRead(t, second, 3)
			waiting := goRead(second, 100)
			synctest.Wait()
			second.Close()
			if got := <-waiting; len(got.bytes) != 0 || !errors.Is(got.err, http.ErrBodyReadAfterClose) {
				t.Errorf("got %q, %v", got.bytes, got.err)
			}
			write(t, client, "def")
			<-hanging
			wantBytes(t, mustRead(t, mustAttempt(t, r), 6), []byte("abcdef"))
		})
	})
	t.Run("the end of the request does not wait for it", func(t *testing.T) {
		hang(t, 1000, func(t *testing.T, r *recorder, b *budget, _ io.Closer, client *io.PipeWriter, hanging <-chan result) {
			second := mustAttempt(t, r)
			mustRead(t, second, 3)
			waiting := goRead(second, 100)
			synctest.Wait()
			r.close()
			if got := <-waiting; got.err == nil {
				t.Errorf("got %q", got.bytes)
			}
			write(t, client, "def")
			<-hanging
			if b.used.Load() != 0 {
				t.Error("what comes late is kept")
			}
		})
	})
}

// The first member answers before it has read the body, and the client is slow:
// net/http's Read for the first attempt hangs while the second is made.
func TestRecorder_earlyAnswerOfARealUpstream(t *testing.T) {
	early := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		// Otherwise the server would read the body before it answers.
		answer := http.NewResponseController(w)
		if err := answer.EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusTooManyRequests)
		if err := answer.Flush(); err != nil {
			t.Error(err)
		}
	}))
	defer early.Close()
	got := make(chan []byte, 1)
	upstream := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- b
	}))
	defer upstream.Close()

	source, client := net.Pipe()
	defer source.Close()
	want := text(300_000)
	r, _ := testRecorder(t, source, 1<<20, 2<<20)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	attempt := func(url string) *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, mustAttempt(t, r))
		if err != nil {
			t.Fatal(err)
		}
		res, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	go func() {
		client.Write(want[:10])
	}()
	res := attempt(early.URL)
	res.Body.Close()
	if res.StatusCode != http.StatusTooManyRequests {
		t.Fatal(res.Status)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		client.Write(want[10:])
		client.Close()
	})
	res = attempt(upstream.URL)
	res.Body.Close()
	wg.Wait()
	wantBytes(t, <-got, want)
}

// FuzzRecorder runs a script against a recorder: each byte is a step of the
// attempts, or of the client. Whatever the order, an attempt gets a prefix of the
// body, without a gap.
func FuzzRecorder(f *testing.F) {
	f.Add([]byte{1, 9, 2, 9, 0, 9, 9}, uint16(100), uint16(9000))
	f.Add([]byte{0, 1, 1, 3, 0, 2, 2, 1, 1, 1, 4, 1, 2}, uint16(5000), uint16(5000))
	f.Add([]byte{0, 2, 0, 1, 1, 2, 1, 0, 1, 2, 4, 1, 1, 1, 1}, uint16(60000), uint16(4096))
	f.Fuzz(func(t *testing.T, script []byte, limit, max uint16) {
		if len(script) > 200 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			want := text(70_000)
			source, client := io.Pipe()
			b := &budget{max: int64(max)}
			r := newRecorder(source, int64(limit), b)

			type reader struct {
				io.ReadCloser
				got     []byte
				pending <-chan result
			}
			var readers []*reader
			collect := func() {
				synctest.Wait()
				for i, rd := range readers {
					if rd.pending == nil {
						continue
					}
					select {
					case res := <-rd.pending:
						rd.pending = nil
						rd.got = append(rd.got, res.bytes...)
						if !bytes.HasPrefix(want, rd.got) {
							t.Fatalf("attempt %d got other bytes", i)
						}
						if errors.Is(res.err, io.EOF) && len(rd.got) != len(want) {
							t.Fatalf("attempt %d ended after %d bytes", i, len(rd.got))
						}
					default:
					}
				}
			}
			offered, writing, stopped := 0, make(chan struct{}, 1), false
			for _, step := range script {
				size := 1 + int(step)*int(step)%9000
				switch step % 8 {
				case 0: // a further attempt
					replayable := r.replayable()
					c, err := r.attempt()
					if (err == nil) != replayable {
						t.Fatalf("replayable %v, but %v", replayable, err)
					}
					if err == nil {
						readers = append(readers, &reader{ReadCloser: c})
					}
				case 1, 2, 3: // the current attempt reads
					if n := len(readers); n > 0 && readers[n-1].pending == nil {
						readers[n-1].pending = goRead(readers[n-1], size)
					}
				case 4, 5: // the client sends
					select {
					case writing <- struct{}{}:
						chunk := want[offered:min(offered+size, len(want))]
						offered += len(chunk)
						end := offered == len(want)
						go func() {
							client.Write(chunk)
							if end {
								client.Close()
							}
							<-writing
						}()
					default:
					}
				case 6:
					if n := len(readers); n > 0 {
						readers[n-1].Close()
					}
				case 7:
					if step > 200 {
						r.stop()
						stopped = true
					}
				}
				collect()
				if stopped && r.replayable() && r.offset > 0 {
					t.Fatal("it records after stop")
				}
			}

			// In the end the last attempt, if still open, gets the whole rest.
			if n := len(readers); n > 0 {
				last := readers[n-1]
				go func() {
					writing <- struct{}{}
					client.Write(want[offered:])
					client.Close()
				}()
				collect()
				r.mu.Lock()
				open := r.current == last.ReadCloser
				r.mu.Unlock()
				if open && last.pending == nil {
					rest, err := io.ReadAll(last)
					if err != nil || !bytes.Equal(append(last.got, rest...), want) {
						t.Fatalf("the last attempt got %d bytes, %v", len(last.got)+len(rest), err)
					}
				}
			}
			r.close()
			source.Close()
			synctest.Wait()
			if b.used.Load() != 0 {
				t.Fatalf("%d bytes were not given back", b.used.Load())
			}
		})
	})
}

func BenchmarkRecorder(b *testing.B) {
	body := text(16 << 10)
	shared := &budget{max: 1 << 30}
	buf := make([]byte, 32<<10)
	b.ReportAllocs()
	for b.Loop() {
		r := newRecorder(bytes.NewReader(body), 1<<20, shared)
		attempt, _ := r.attempt()
		for {
			if _, err := attempt.Read(buf); err != nil {
				break
			}
		}
		attempt.Close()
		r.stop()
		r.close()
	}
}

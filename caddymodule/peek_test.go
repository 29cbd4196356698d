package caddymodule

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"
)

// encodings are the codings that can be read, by name, and how to apply them.
var encodings = map[string]func(io.Writer) io.WriteCloser{
	"identity": func(w io.Writer) io.WriteCloser { return nopWriteCloser{w} },
	"gzip":     func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
	"deflate":  func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) },
	"raw deflate": func(w io.Writer) io.WriteCloser {
		fw, _ := flate.NewWriter(w, flate.DefaultCompression)
		return fw
	},
	"zstd": func(w io.Writer) io.WriteCloser {
		zw, _ := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
		return zw
	},
}

type nopWriteCloser struct{ io.Writer }

func (nopWriteCloser) Close() error { return nil }

func encode(tb testing.TB, encoding string, plain []byte) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := encodings[encoding](&b)
	if _, err := w.Write(plain); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// contentEncoding is what a server calls the encoding.
func contentEncoding(encoding string) string { return strings.TrimPrefix(encoding, "raw ") }

// countedBody counts how often it was closed.
type countedBody struct {
	io.Reader
	closed atomic.Int32
}

func (b *countedBody) Close() error {
	b.closed.Add(1)
	if c, ok := b.Reader.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

func errorAnswer(body io.Reader, codings ...string) (*http.Response, *countedBody) {
	counted := &countedBody{Reader: body}
	return &http.Response{
		StatusCode: http.StatusForbidden, ContentLength: -1, Body: counted,
		Header: http.Header{"Content-Encoding": codings},
	}, counted
}

func TestPeek_decodesForReadingOnly(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	plain := []byte(`{"error":{"code":"insufficient_quota"}}`)
	for encoding := range encodings {
		raw := encode(t, encoding, plain)
		for chunking, wrap := range map[string]func(io.Reader) io.Reader{
			"whole":     func(r io.Reader) io.Reader { return r },
			"bytes":     iotest.OneByteReader,
			"eof early": iotest.DataErrReader,
		} {
			t.Run(encoding+", "+chunking, func(t *testing.T) {
				res, body := errorAnswer(wrap(bytes.NewReader(raw)), contentEncoding(encoding))
				back, got := peek(res, peekBytes, time.Minute, nil)
				if !bytes.Equal(got, plain) {
					t.Errorf("read %q", got)
				}
				wantBytes(t, mustReadAll(t, back.Body), raw)
				if err := back.Body.Close(); err != nil || body.closed.Load() != 1 {
					t.Errorf("closed %d times, %v", body.closed.Load(), err)
				}
				if _, err := back.Body.Read(make([]byte, 1)); !errors.Is(err, http.ErrBodyReadAfterClose) {
					t.Errorf("read after close: %v", err)
				}
			})
		}
	}
}

func TestPeek_severalCodings(t *testing.T) {
	plain := []byte("quota exhausted")
	gz := encode(t, "gzip", plain)
	both := encode(t, "zstd", gz)
	for _, test := range []struct {
		name    string
		codings []string
		body    []byte
		want    []byte
	}{
		{"in one line", []string{"gzip, zstd"}, both, plain},
		{"in two lines", []string{"gzip", "zstd"}, both, plain},
		{"in other case, with identity", []string{"Identity , GZIP,\tZstd"}, both, plain},
		{"in the wrong order", []string{"zstd, gzip"}, both, nil},
		{"alias", []string{"x-gzip"}, gz, plain},
		{"three", []string{"gzip, zstd, gzip"}, encode(t, "gzip", both), nil},
		{"unknown", []string{"br"}, plain, nil},
		{"unknown below", []string{"br, gzip"}, gz, nil},
		{"identity", []string{"identity"}, plain, plain},
		{"empty", []string{""}, plain, plain},
		{"none", nil, plain, plain},
	} {
		t.Run(test.name, func(t *testing.T) {
			res, _ := errorAnswer(bytes.NewReader(test.body), test.codings...)
			back, got := peek(res, peekBytes, time.Minute, nil)
			if !bytes.Equal(got, test.want) {
				t.Errorf("read %q, want %q", got, test.want)
			}
			wantBytes(t, mustReadAll(t, back.Body), test.body)
		})
	}
}

func TestPeek_brokenAndCutOffBodies(t *testing.T) {
	plain := []byte(strings.Repeat("insufficient_quota ", 1000))
	for encoding := range encodings {
		raw := encode(t, encoding, plain)
		for name, body := range map[string][]byte{
			"cut off": raw[:len(raw)-5],
			"empty":   {},
			"wrong":   []byte("no such coding"),
			"broken":  append(append([]byte(nil), raw[:len(raw)/2]...), 0xff, 0xff, 0xff),
		} {
			res, _ := errorAnswer(bytes.NewReader(body), contentEncoding(encoding))
			back, got := peek(res, peekBytes, time.Minute, nil)
			// Broken data may say anything before it is noticed.
			if name == "cut off" && !bytes.HasPrefix(plain, got) {
				t.Errorf("%s, %s: read %d bytes, or others", encoding, name, len(got))
			}
			wantBytes(t, mustReadAll(t, back.Body), body)
		}
	}
	// What comes before the cut is read.
	gz := encode(t, "gzip", plain)
	if got := decode(gz[:len(gz)-5], []string{"gzip"}, peekBytes); !bytes.Contains(got, []byte("insufficient_quota")) {
		t.Errorf("read %q", got)
	}
}

func TestPeek_bounds(t *testing.T) {
	t.Run("no more of the body is read", func(t *testing.T) {
		want := text(peekBytes + 1000)
		source := bytes.NewReader(want)
		res, _ := errorAnswer(source)
		back, got := peek(res, peekBytes, time.Minute, nil)
		wantBytes(t, got, want[:peekBytes])
		if source.Len() != 1000 {
			t.Errorf("%d bytes are left", source.Len())
		}
		wantBytes(t, mustReadAll(t, back.Body), want)
	})
	t.Run("no more is decoded", func(t *testing.T) {
		bomb := make([]byte, 1<<20)
		for encoding := range encodings {
			if encoding == "identity" {
				continue
			}
			if got := decode(encode(t, encoding, bomb), []string{contentEncoding(encoding)}, peekBytes); len(got) != peekBytes {
				t.Errorf("%s: %d bytes", encoding, len(got))
			}
			twice := encode(t, "gzip", encode(t, encoding, bomb))
			if got := decode(twice, []string{contentEncoding(encoding), "gzip"}, peekBytes); len(got) > peekBytes {
				t.Errorf("%s twice: %d bytes", encoding, len(got))
			}
		}
	})
	t.Run("no window above 8 MiB", func(t *testing.T) {
		var b bytes.Buffer
		w, err := zstd.NewWriter(&b, zstd.WithWindowSize(16<<20), zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		// Longer than the window, and flushed, so that the frame states it.
		w.Write([]byte("quota"))
		w.Flush()
		w.Write(make([]byte, (16<<20)+1))
		w.Close()
		if got := decode(b.Bytes(), []string{"zstd"}, peekBytes); len(got) != 0 {
			t.Errorf("%d bytes", len(got))
		}
	})
}

func TestPeek_leavesAnswersWithoutABodyAlone(t *testing.T) {
	untouchable := func() *http.Response {
		res, _ := errorAnswer(iotest.ErrReader(errors.New("the body was read")))
		return res
	}
	for name, change := range map[string]func(*http.Response){
		"nil":            func(r *http.Response) { r.Body = nil },
		"no body":        func(r *http.Response) { r.Body = http.NoBody },
		"length 0":       func(r *http.Response) { r.ContentLength = 0 },
		"HEAD":           func(r *http.Response) { r.Request = &http.Request{Method: http.MethodHead} },
		"other protocol": func(r *http.Response) { r.StatusCode = http.StatusSwitchingProtocols },
	} {
		res := untouchable()
		change(res)
		body := res.Body
		if back, got := peek(res, peekBytes, time.Minute, nil); back != res || res.Body != body || got != nil {
			t.Errorf("%s: touched", name)
		}
	}
}

func TestPeek_errorIsGivenBackWhereItCame(t *testing.T) {
	broken := errors.New("reset")
	res, _ := errorAnswer(io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(broken)))
	back, seen := peek(res, peekBytes, time.Minute, nil)
	got, err := io.ReadAll(back.Body)
	if string(seen) != "abc" || string(got) != "abc" || !errors.Is(err, broken) {
		t.Errorf("saw %q, got %q, %v", seen, got, err)
	}
}

func TestPeek_slowBody(t *testing.T) {
	// The body is read on while the Read that hangs is under way, or after it.
	for _, pause := range []time.Duration{0, 3 * time.Second} {
		slowBody(t, pause)
	}
}

func slowBody(t *testing.T, pause time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		source, upstream := io.Pipe()
		want := []byte("abcdefghij")
		var taken atomic.Int32
		go func() {
			for _, c := range want {
				upstream.Write([]byte{c})
				taken.Add(1)
				time.Sleep(time.Second)
			}
			upstream.Close()
		}()
		start := time.Now()
		res, _ := errorAnswer(source)
		back, seen := peek(res, peekBytes, 1500*time.Millisecond, nil)
		if took := time.Since(start); took != 1500*time.Millisecond || string(seen) != "ab" {
			t.Errorf("saw %q in %v", seen, took)
		}
		// The Read that hangs brings "c", and nothing after it is asked for early.
		time.Sleep(pause)
		if taken.Load() > 3 {
			t.Errorf("%d bytes were taken before anybody read on", taken.Load())
		}
		wantBytes(t, mustReadAll(t, back.Body), want)
		back.Body.Close()
	})
}

func TestPeek_closeEndsAReadThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, _ := io.Pipe()
		res, _ := errorAnswer(source)
		back, seen := peek(res, peekBytes, time.Second, nil)
		if len(seen) != 0 {
			t.Errorf("saw %q", seen)
		}
		waiting := goRead(back.Body, 10)
		synctest.Wait()
		back.Body.Close()
		if got := <-waiting; got.err == nil {
			t.Errorf("got %q", got.bytes)
		}
		// The bubble does not end before the goroutine of the peek has.
	})
}

// hangingTrailers sets the trailers of its answer at its end, as net/http's
// bodies do.
type hangingTrailers struct {
	io.ReadCloser
	res *http.Response
}

func (h *hangingTrailers) Read(p []byte) (int, error) {
	n, err := h.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		h.res.Trailer["X-Sum"] = []string{"1"}
		h.res.Trailer["X-Unannounced"] = []string{"2"}
	}
	return n, err
}

func TestPeek_trailersComeWithTheEndThatTheReaderSees(t *testing.T) {
	for name, wait := range map[string]time.Duration{"in time": time.Minute, "too late": time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source, upstream := io.Pipe()
				res, _ := errorAnswer(nil)
				res.Trailer = http.Header{"X-Sum": nil}
				res.Body = &hangingTrailers{source, res}
				go func() {
					upstream.Write([]byte("abc"))
					time.Sleep(2 * time.Second)
					upstream.Close()
				}()
				back, _ := peek(res, peekBytes, wait, nil)
				time.Sleep(2 * time.Second) // the late end comes while the trailers are looked at
				for range back.Trailer {
					if len(back.Trailer) != 1 {
						t.Errorf("trailers before the end: %v", back.Trailer)
					}
				}
				wantBytes(t, mustReadAll(t, back.Body), []byte("abc"))
				if back.Trailer.Get("X-Sum") != "1" || back.Trailer.Get("X-Unannounced") != "2" {
					t.Errorf("trailers %v", back.Trailer)
				}
			})
		})
	}
}

func TestDiscard_keepsTheConnection(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	for _, test := range []struct {
		name   string
		size   int
		peeked bool
		reused bool
	}{
		{"small", 1000, false, true},
		{"small, peeked at", 1000, true, true},
		{"as large as allowed", peekBytes, false, true},
		{"large", 10 * peekBytes, false, false},
		{"large, peeked at", 10 * peekBytes, true, false},
	} {
		for _, chunked := range []bool{false, true} {
			var connections atomic.Int32
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if chunked {
					w.(http.Flusher).Flush()
				}
				w.Write(make([]byte, test.size))
			}))
			server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					connections.Add(1)
				}
			}
			server.Start()
			transport := &http.Transport{DisableCompression: true}
			for range 2 {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
				if err != nil {
					t.Fatal(err)
				}
				res, err := transport.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				if test.peeked {
					res, _ = peek(res, peekBytes, time.Minute, nil)
				}
				discard(res)
				for discards.Load() != 0 {
					time.Sleep(time.Millisecond)
				}
			}
			if got := connections.Load() == 1; got != test.reused {
				t.Errorf("%s, chunked %v: %d connections", test.name, chunked, connections.Load())
			}
			transport.CloseIdleConnections()
			server.Close()
		}
	}
}

func TestDiscard_givesUpOnASlowBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, _ := io.Pipe()
		res, body := errorAnswer(source)
		discard(res) // does not wait
		synctest.Wait()
		if body.closed.Load() != 0 {
			t.Error("closed at once")
		}
		time.Sleep(peekTime)
		synctest.Wait()
		if body.closed.Load() == 0 || discards.Load() != 0 {
			t.Errorf("closed %d times, %d discards", body.closed.Load(), discards.Load())
		}
	})
}

func TestDiscard_closesAtOnceWhatCannotBeDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hanging := func() (*http.Response, *countedBody) {
			source, _ := io.Pipe()
			return errorAnswer(source)
		}
		res, body := hanging()
		res.ContentLength = peekBytes + 1
		discard(res)
		if body.closed.Load() != 1 {
			t.Error("a large body is drained")
		}
		res, body = hanging()
		res.ContentLength = 0
		discard(res)
		if body.closed.Load() != 1 {
			t.Error("an empty body is drained")
		}
		res, body = errorAnswer(strings.NewReader("abc"))
		res, _ = peek(res, peekBytes, time.Minute, nil)
		discard(res)
		if body.closed.Load() != 1 {
			t.Error("a body is drained that was read to its end")
		}
		for range maxDiscards {
			res, _ = hanging()
			discard(res)
		}
		res, body = hanging()
		discard(res)
		if body.closed.Load() != 1 || discards.Load() != maxDiscards {
			t.Errorf("%d discards at once", discards.Load())
		}
		time.Sleep(peekTime)
		synctest.Wait()
		if discards.Load() != 0 {
			t.Errorf("%d discards stay", discards.Load())
		}
		discard(&http.Response{})
	})
}

// FuzzPeek: whatever is in the body, and however it comes, it is given back byte
// for byte.
func FuzzPeek(f *testing.F) {
	plain := []byte(strings.Repeat(`{"code":"quota_exceeded"}`, 20))
	for encoding := range encodings {
		f.Add(encode(f, encoding, plain), contentEncoding(encoding), []byte{1, 0, 200}, uint16(100), uint8(3))
	}
	f.Add(plain, "gzip, deflate", []byte{}, uint16(0), uint8(0))
	f.Add(plain, "identity", []byte{1, 2, 3, 4, 5, 6, 7}, uint16(65535), uint8(2))
	f.Add(plain, "br", []byte{255}, uint16(65535), uint8(255))
	f.Fuzz(func(t *testing.T, body []byte, coding string, chunks []byte, limit uint16, size uint8) {
		synctest.Test(t, func(t *testing.T) {
			source, upstream := io.Pipe()
			go func() {
				// A chunk each 100 ms: the peek ends in the middle of one.
				rest := body
				for _, n := range chunks {
					chunk := rest[:min(int(n), len(rest))]
					rest = rest[len(chunk):]
					upstream.Write(chunk)
					time.Sleep(100 * time.Millisecond)
				}
				upstream.Write(rest)
				upstream.Close()
			}()
			res, _ := errorAnswer(source, coding)
			start := time.Now()
			back, seen := peek(res, int(limit), 450*time.Millisecond, nil)
			if time.Since(start) > 450*time.Millisecond {
				t.Fatal("the peek took longer")
			}
			if len(seen) > int(limit) {
				t.Fatalf("saw %d bytes", len(seen))
			}
			var got bytes.Buffer
			if _, err := io.CopyBuffer(struct{ io.Writer }{&got}, back.Body, make([]byte, int(size)+1)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), body) {
				t.Fatalf("gave back %d bytes of %d, or others", got.Len(), len(body))
			}
			back.Body.Close()
		})
	})
}

package e2e

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// raw sends what is given and reads one answer. It is for requests that Go's
// client does not make.
func (c *caddy) raw(request string) *http.Response {
	c.t.Helper()
	conn := must(net.Dial("tcp", "127.0.0.1:"+c.port))
	c.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	go func() { _, _ = io.WriteString(conn, request) }()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

func TestFault_connectionHeaderDoesNotStripTheCredential(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		form func(*caddy) config
		key  string
	}{
		"with an upstream":           {func(*caddy) config { return config{} }, "Authorization"},
		"with an upstream, as a key": {func(*caddy) config { return config{pool: "inject header X-Api-Key {credential}"} }, "X-Api-Key"},
		"without an upstream":        {func(c *caddy) config { return config{handler: c.secondForm()} }, "Authorization"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCaddy(t, "work", "home")
			c.start(tt.form(c))
			for _, connection := range []string{"authorization, x-api-key", "Authorization", "keep-alive, X-API-KEY , AUTHORIZATION"} {
				c.upstream.forget()
				a := c.raw("GET / HTTP/1.1\r\nHost: 127.0.0.1:" + c.port + "\r\nConnection: " + connection +
					"\r\nAuthorization: Bearer " + c.phantom + "\r\n\r\n")
				equal(t, "status", a.StatusCode, 200)
				equal(t, "the upstream sees", c.upstream.served(), "[work]")
				equal(t, "in "+tt.key, c.upstream.seen()[0].header.Get(tt.key) != "", true)
			}
		})
	}
}

func TestFault_wrongPhantomGoesNowhere(t *testing.T) {
	t.Parallel()
	for name, form := range map[string]func(*caddy) config{
		"with an upstream":    func(*caddy) config { return config{} },
		"without an upstream": func(c *caddy) config { return config{handler: c.secondForm()} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCaddy(t, "work", "home")
			c.start(form(c))
			for what, authorization := range map[string]string{
				"none":            "",
				"wrong":           "Authorization: Bearer phantom-of-somebody-else\r\n",
				"empty":           "Authorization: Bearer \r\n",
				"no scheme":       "Authorization: " + c.phantom + "\r\n",
				"a part":          "Authorization: Bearer " + c.phantom[:20] + "\r\n",
				"more":            "Authorization: Bearer " + c.phantom + "x\r\n",
				"8 kibibytes":     "Authorization: Bearer " + strings.Repeat("x", 8<<10) + "\r\n",
				"the credential":  "Authorization: Bearer " + c.secrets["work"] + "\r\n",
				"another header":  "X-Api-Key: " + c.phantom + "\r\n",
				"a query":         "X-Nothing: 1\r\n",
				"as basic":        "Authorization: Basic " + c.phantom + "\r\n",
				"twice the empty": "Authorization: \r\nAuthorization: \r\n",
			} {
				// The body is announced and not sent: who waits for it fails.
				res := c.raw("POST /?key=" + c.phantom + " HTTP/1.1\r\nHost: 127.0.0.1:" + c.port +
					"\r\nExpect: 100-continue\r\nContent-Length: 100\r\n" + authorization + "\r\n")
				if res.StatusCode != http.StatusUnauthorized || res.Header.Get("WWW-Authenticate") == "" ||
					res.Header.Get("Content-Type") != "application/json" {
					t.Errorf("%s: got %d %.300v", what, res.StatusCode, res.Header)
				}
			}
			equal(t, "upstream hits", len(c.upstream.seen()), 0)
			c.is("work", "ready")
		})
	}
}

func TestFault_traceAndConnectAreRefused(t *testing.T) {
	t.Parallel()
	for name, form := range map[string]func(*caddy) config{
		"with an upstream":    func(*caddy) config { return config{} },
		"without an upstream": func(c *caddy) config { return config{handler: c.secondForm()} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCaddy(t, "work", "home")
			c.start(form(c))
			rest := " HTTP/1.1\r\nHost: 127.0.0.1:" + c.port + "\r\nAuthorization: Bearer " + c.phantom + "\r\n"
			for what, request := range map[string]string{
				"TRACE":           "TRACE /" + rest + "\r\n",
				"CONNECT":         "CONNECT 127.0.0.1:" + c.port + rest + "\r\n",
				"another upgrade": "GET /" + rest + "Connection: upgrade\r\nUpgrade: h2c\r\n\r\n",
			} {
				equal(t, what, c.raw(request).StatusCode, http.StatusMethodNotAllowed)
			}
			equal(t, "upstream hits", len(c.upstream.seen()), 0)
		})
	}
}

func TestClient_itsOwnCredentialsDoNotReachTheUpstream(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, config{pool: "inject header X-Api-Key {credential}"}, "work", "home")
	req := c.request(http.MethodGet, "/?a=1&token="+c.phantom+"&b=2", "", "X-Api-Key", c.phantom,
		"Proxy-Authorization", "Basic eDp5", "Api-Key", "another", "Cookie", "a=1; t="+c.phantom+"; b=2", "X-Custom", c.phantom)
	served(t, c.do(req), "work")
	h := c.upstream.seen()[0]
	equal(t, "query", h.path, "/?a=1&b=2")
	equal(t, "cookie", h.header.Get("Cookie"), "a=1; b=2")
	for _, name := range []string{"Authorization", "Proxy-Authorization", "Api-Key", "X-Custom"} {
		equal(t, name, h.header.Get(name), "")
	}
}

func TestClient_anyIsLetInOnlyIfSaid(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work")
	c.start(config{handler: "credential_pool api " + c.upstream.URL + " {\nallow_any_client\n}"})
	served(t, c.do(must(http.NewRequest(http.MethodGet, c.url("/"), nil))), "work")
	if err := c.load(config{handler: "credential_pool api " + c.upstream.URL}); err == nil || !strings.Contains(err.Error(), "allow_any_client") {
		t.Errorf("got %v, want an error that says what is missing", err)
	}
}

// digest answers with the size and the hash of the body.
func digest(w http.ResponseWriter, r *http.Request) {
	h := sha256.New()
	n, _ := io.Copy(h, r.Body)
	_, _ = fmt.Fprint(w, n, " ", hex.EncodeToString(h.Sum(nil)))
}

// zeros reads as many zeros as anybody wants.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestFault_bodyBeyondTheReplayLimit(t *testing.T) {
	t.Parallel()
	const size = 256 << 20
	upload := func(c *caddy) answer {
		req := c.request(http.MethodPost, "/upload", "")
		req.Body, req.ContentLength = io.NopCloser(io.LimitReader(zeros{}, size)), size
		return c.do(req)
	}
	c := startCaddy(t, config{door: "replay_limit 1MiB"}, "work", "home")
	served(t, c.get("/"), "work")
	c.upstream.answer("work", digest)
	before := c.peak()
	h := sha256.New()
	_, _ = io.CopyN(h, zeros{}, size)
	equal(t, "upload", upload(c).body, fmt.Sprint(size, " ", hex.EncodeToString(h.Sum(nil))))
	if grown := c.peak() - before; grown > size/4 {
		t.Errorf("memory grew by %d MiB", grown>>20)
	}

	c.upstream.forget()
	c.upstream.answer("work", status429)
	a := upload(c)
	equal(t, "answer", a.status, 429)
	equal(t, "attempts", c.upstream.served(), "[work]")
	served(t, c.get("/"), "home")
}

func TestClient_bodyIsSentAgainByteForByte(t *testing.T) {
	t.Parallel()
	const size = 5 << 20
	c := startCaddy(t, config{}, "work", "home")
	c.upstream.answer("home", digest)
	h := sha256.New()
	_, _ = io.CopyN(h, zeros{}, size)
	want := fmt.Sprint(size, " ", hex.EncodeToString(h.Sum(nil)))
	for name, refuse := range map[string]http.HandlerFunc{
		"refused after the body":   status429,
		"refused without the body": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) },
		"refused in the midst of it": func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.CopyN(io.Discard, r.Body, size/2)
			w.WriteHeader(429)
		},
	} {
		c.upstream.answer("work", refuse)
		for _, length := range []int64{size, -1} {
			c.want(200, http.MethodPost, "/credential_pool/pools/api/members/work/recover", "", nil)
			if c.active() != "work" {
				c.want(200, http.MethodPost, "/credential_pool/pools/api/rotate", `{"to":"work"}`, nil)
			}
			req := c.request(http.MethodPost, "/upload", "")
			req.Body, req.ContentLength = io.NopCloser(io.LimitReader(zeros{}, size)), length
			a := c.do(req)
			equal(t, name, fmt.Sprint(a.status, " ", a.body), "200 "+want)
		}
	}
}

func TestFault_clientLeavesInMidAnswer(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, config{}, "work", "home")
	var left atomic.Int32
	c.upstream.answer("work", func(w http.ResponseWriter, r *http.Request) {
		for n := 0; r.Context().Err() == nil; n++ {
			event(w, n)
			time.Sleep(time.Millisecond)
		}
		left.Add(1)
	})
	before := c.goroutines()
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		res, err := c.client.Do(c.request(http.MethodGet, "/", "").WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.ReadFull(res.Body, make([]byte, 100))
		cancel()
		_ = res.Body.Close()
	}
	eventually(t, "the upstream sees the clients leave", func() bool { return left.Load() == 20 })
	eventually(t, "no goroutine is left", func() bool { return c.goroutines() <= before+5 })
	c.is("work", "ready")
	equal(t, "notices", c.notices(), "[]")
}

func TestFault_clientLeavesInMidRetry(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, config{}, "work", "home", "spare")
	held := newGate(t)
	before := c.goroutines()
	c.upstream.answer("work", status429)
	c.upstream.answer("home", held.before(status(200)))
	for range 20 {
		c.want(200, http.MethodPost, "/credential_pool/pools/api/members/work/recover", "", nil)
		if c.active() != "work" {
			c.want(200, http.MethodPost, "/credential_pool/pools/api/rotate", `{"to":"work"}`, nil)
			c.want(200, http.MethodPost, "/credential_pool/pools/api/members/home/recover", "", nil)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = c.try(c.request(http.MethodPost, "/", "a question").WithContext(ctx))
		}()
		held.wait(t, 1)
		cancel()
		<-done
	}
	held.open()
	eventually(t, "no goroutine is left", func() bool { return c.goroutines() <= before+5 })
	c.is("home", "ready")
	c.is("spare", "ready")
	equal(t, "active", c.active(), "home")
	c.upstream.answer("home", nil)
	served(t, c.get("/"), "home")
}

func TestFault_panicInALaterHandler(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home")
	// abort panics, as every handler does that wants the connection cut.
	c.start(config{
		handler: strings.Replace(c.secondForm(), "reverse_proxy", "@cut path /cut\n\tabort @cut\n\treverse_proxy", 1),
		global:  "\torder abort after credential_pool",
	})
	for range 50 {
		if a, err := c.try(c.request(http.MethodGet, "/cut", "")); err == nil {
			t.Errorf("got %d, want a cut connection", a.status)
		}
	}
	served(t, c.get("/"), "work")
	c.want(200, http.MethodPost, "/credential_pool/pools/api/rotate", "", nil)
	served(t, c.get("/"), "home")
}

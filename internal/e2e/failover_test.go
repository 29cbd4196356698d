package e2e

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

func TestFailover_isNotSeenByTheClient(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string]http.HandlerFunc{
		"429":                 status(429),
		"401":                 status(401),
		"403 about a quota":   refusal(403, `{"error":{"code":"insufficient_quota"}}`),
		"403 about its limit": refusal(403, `{"error":{"code":"rate_limit_exceeded"}}`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startCaddy(t, config{}, "work", "home")
			c.upstream.answer("work", refuse)

			served(t, c.do(c.request(http.MethodPost, "/v1/chat?n=1", "a question")), "home")
			equal(t, "attempts", c.upstream.served(), "[work home]")
			equal(t, "active", c.active(), "home")
			c.is("work", "cooling")

			served(t, c.get("/"), "home")
			equal(t, "attempts", c.upstream.served(), "[work home home]")
			code := name[:3]
			equal(t, "notices", c.notices(), "[failover work>home "+code+"]")
			equal(t, "retries", c.metric(`retries_total{pool="api"}`), 1)
			eventually(t, "an audit line", func() bool {
				return strings.Contains(string(c.log.all()), `"logger":"credential_pool.audit"`) &&
					strings.Contains(string(c.log.all()), `"action":"cred_failover"`)
			})
		})
	}
}

func TestFailover_withoutAnUpstreamIsForTheNextRequest(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string]http.HandlerFunc{
		"by status": status(429, "Retry-After", "60"),
		"by body":   refusal(403, `{"error":{"code":"insufficient_quota"}}`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCaddy(t, "work", "home")
			c.start(config{handler: c.secondForm()})
			c.upstream.answer("work", refuse)
			if a := c.get("/"); a.status == http.StatusOK {
				t.Errorf("got %d, want the upstream's refusal", a.status)
			}
			served(t, c.get("/"), "home")
			equal(t, "attempts", c.upstream.served(), "[work home]")
		})
	}
}

func TestFault_limitedAccountReturnsAndTheOtherStaysActive(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, config{}, "work", "home")
	c.upstream.answer("work", status(429, "Retry-After", "2"))
	began := time.Now()
	served(t, c.get("/"), "home")
	c.is("work", "cooling")
	c.upstream.answer("work", nil)
	eventually(t, "work is ready again", func() bool { return c.member("work").State == "ready" })
	if took := time.Since(began); took < 2*time.Second || took > 4*time.Second {
		t.Errorf("work was back after %s, want 2s", took)
	}
	served(t, c.get("/"), "home")
	equal(t, "active", c.active(), "home")
}

func TestFault_oddRetryAfterIsBounded(t *testing.T) {
	t.Parallel()
	const week = 7 * 24 * time.Hour
	c := startCaddy(t, config{}, "work", "home")
	for _, tt := range []struct {
		name   string
		values []string
		want   time.Duration // within a few seconds
	}{
		{"a date to come", []string{time.Now().Add(90 * time.Second).UTC().Format(http.TimeFormat)}, 90 * time.Second},
		{"a date in the past", []string{"Wed, 21 Oct 2015 07:28:00 GMT"}, time.Minute},
		{"negative", []string{"-1"}, time.Minute},
		{"an exponent", []string{"1e9"}, time.Minute},
		{"a word", []string{"abc"}, time.Minute},
		{"thirty years", []string{"1000000000"}, week},
		{"beyond any integer", []string{strings.Repeat("9", 40)}, week},
		{"twice", []string{"5", "30"}, 30 * time.Second},
		{"twice, one odd", []string{"40", "abc"}, 40 * time.Second},
		{"nothing", []string{"0"}, time.Second},
	} {
		header := make([]string, 0, 4)
		for _, v := range tt.values {
			header = append(header, "Retry-After", v)
		}
		c.upstream.answer("work", status(429, header...))
		began := time.Now()
		served(t, c.get("/"), "home")
		wait := c.member("work").Until.Sub(began)
		if tt.want > time.Second && (wait < tt.want-2*time.Second || wait > tt.want+4*time.Second) {
			t.Errorf("%s: benched for %s, want %s", tt.name, wait, tt.want)
		} else if wait > tt.want+4*time.Second {
			t.Errorf("%s: benched for %s, want at most %s", tt.name, wait, tt.want)
		}
		c.want(http.StatusOK, http.MethodPost, "/credential_pool/pools/api/members/work/recover", "", nil)
		c.want(http.StatusOK, http.MethodPost, "/credential_pool/pools/api/rotate", `{"to":"work","park_for":"1s"}`, nil)
		c.want(http.StatusOK, http.MethodPost, "/credential_pool/pools/api/members/home/recover", "", nil)
	}
}

func TestFault_brokenUpstreamIsNotTheAccountsFault(t *testing.T) {
	t.Parallel()
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		want   int
	}{
		"503":     {status(503, "Retry-After", "60"), 503},
		"502":     {status(502), 502},
		"reset":   {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 502},
		"timeout": {func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body); hang(w, r) }, 504},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startCaddy(t, config{door: "transport http {\nresponse_header_timeout 1s\n}"}, "work", "home")
			c.upstream.answer("work", tt.answer)
			a := c.do(c.request(http.MethodPost, "/", "a question"))
			equal(t, "status", a.status, tt.want)
			equal(t, "attempts", c.upstream.served(), "[work]")
			equal(t, "active", c.active(), "work")
			c.is("work", "ready")
			c.is("home", "ready")
		})
	}
}

func TestFault_refusalThatIsNotAboutQuotaIsPassedOn(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, config{}, "work", "home")
	body := `{"error":"forbidden scope"}`
	c.upstream.answer("work", refusal(403, body))
	a := c.get("/")
	equal(t, "answer", a.status, 403)
	equal(t, "body", a.body, body)
	equal(t, "attempts", c.upstream.served(), "[work]")
	c.is("work", "ready")
}

func TestFault_crowdBeforeAnExhaustedPool(t *testing.T) {
	t.Parallel()
	const crowd = 500
	for mode, upstreamHits := range map[string]int{"serve": crowd, "reject": 0} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			c := startCaddy(t, config{door: "on_exhausted " + mode}, "work", "home")
			for _, account := range c.accounts {
				c.upstream.answer(account, status(429))
			}
			// Whoever discovers it gets the upstream's own answer.
			if a := c.get("/"); a.status != 429 || a.body != "status 429" || a.header.Get("Retry-After") == "" {
				t.Errorf("got %d %q, Retry-After %q", a.status, a.body, a.header.Get("Retry-After"))
			}
			equal(t, "attempts", c.upstream.served(), "[work home]")
			c.upstream.forget()
			before := []time.Time{c.member("work").Until, c.member("home").Until}

			var all sync.WaitGroup
			var odd atomic.Int32
			for range crowd {
				all.Go(func() {
					a, err := c.try(c.request(http.MethodPost, "/", "a question"))
					if err != nil || a.status != 429 || a.header.Get("Retry-After") == "" || strings.Contains(a.body, "work") {
						odd.Add(1)
					}
				})
			}
			all.Wait()
			equal(t, "answers other than an honest 429", odd.Load(), 0)
			equal(t, "upstream hits", len(c.upstream.seen()), upstreamHits)
			equal(t, "benches", []time.Time{c.member("work").Until, c.member("home").Until}, before)
			// What home refused in the same way may be the request's fault.
			equal(t, "failures in a row", []int{c.member("work").Failures, c.member("home").Failures}, "[1 0]")
			equal(t, "notices", c.notices(), "[failover work>home 429 exhausted home> 429]")
		})
	}
}

func TestFault_crowdThatDiscoversExhaustion(t *testing.T) {
	t.Parallel()
	const crowd = 500
	c := startCaddy(t, config{}, "work", "home")
	for _, account := range c.accounts {
		c.upstream.answer(account, status(429))
	}
	var all sync.WaitGroup
	for range crowd {
		all.Go(func() {
			if a, err := c.try(c.request(http.MethodPost, "/", "a question")); err != nil || a.status != 429 {
				t.Errorf("got %d, %v", a.status, err)
			}
		})
	}
	all.Wait()
	if hits := len(c.upstream.seen()); hits > 2*crowd {
		t.Errorf("%d upstream hits for %d requests to two members", hits, crowd)
	}
	if failed := c.member("home").Failures; failed > 1 { // 1 if a request has begun with home
		t.Errorf("home has failed %d times in a row", failed)
	}
	equal(t, "work's failures in a row", c.member("work").Failures, 1)
	equal(t, "notices", c.notices(), "[failover work>home 429 exhausted home> 429]")
	equal(t, "exhausted", c.metric(`exhausted_total{pool="api"}`), 1)
}

func TestFault_slowBodyOfARefusal(t *testing.T) {
	t.Parallel()
	slow := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(code)
			for range 60 {
				_, _ = io.WriteString(w, "x")
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
					return
				case <-time.After(time.Second):
				}
			}
		}
	}
	t.Run("is not waited for where the status decides", func(t *testing.T) {
		t.Parallel()
		c := startCaddy(t, config{}, "work", "home")
		c.upstream.answer("work", slow(429))
		began := time.Now()
		served(t, c.get("/"), "home")
		if took := time.Since(began); took > time.Second {
			t.Errorf("the failover took %s", took)
		}
	})
	t.Run("is given back after two seconds where it decides", func(t *testing.T) {
		t.Parallel()
		c := startCaddy(t, config{}, "work", "home")
		c.upstream.answer("work", slow(403))
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		began := time.Now()
		res, err := c.client.Do(c.request(http.MethodGet, "/", "").WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if took := time.Since(began); res.StatusCode != 403 || took < time.Second || took > 4*time.Second {
			t.Errorf("got %d after %s, want 403 after 2s", res.StatusCode, took)
		}
		body := make([]byte, 4)
		if _, err := io.ReadFull(res.Body, body); err != nil || string(body) != "xxxx" {
			t.Errorf("got %q, %v", body, err)
		}
		c.is("work", "ready")
	})
}

func TestFault_compressedRefusal(t *testing.T) {
	t.Parallel()
	squeeze := map[string]func(string) []byte{
		"gzip": func(s string) []byte {
			var b bytes.Buffer
			w := gzip.NewWriter(&b)
			_, _ = io.WriteString(w, s)
			_ = w.Close()
			return b.Bytes()
		},
		"zstd": func(s string) []byte {
			return must(zstd.NewWriter(nil)).EncodeAll([]byte(s), nil)
		},
	}
	for coding, compress := range squeeze {
		t.Run(coding, func(t *testing.T) {
			t.Parallel()
			c := startCaddy(t, config{}, "work", "home")
			refuse := func(body []byte) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					if accepted := r.Header.Get("Accept-Encoding"); accepted != "gzip, zstd" {
						t.Errorf("Accept-Encoding: %q", accepted)
					}
					w.Header().Set("Content-Encoding", coding)
					w.WriteHeader(403)
					_, _ = w.Write(body)
				}
			}
			ask := c.request(http.MethodGet, "/", "", "Accept-Encoding", "gzip, br, zstd")
			passed := compress(`{"error":"forbidden scope"}`)
			c.upstream.answer("work", refuse(passed))
			a := c.do(ask)
			equal(t, "status", a.status, 403)
			equal(t, "coding", a.header.Get("Content-Encoding"), coding)
			equal(t, "body is unchanged", a.body == string(passed), true)
			c.is("work", "ready")

			c.upstream.answer("work", refuse(compress(strings.Repeat(" ", 4096)+`{"code":"insufficient_quota"}`)))
			served(t, c.do(ask), "home")
		})
	}
}

func TestFault_upstreamEchoesTheCredential(t *testing.T) {
	t.Parallel()
	for name, form := range map[string]func(*caddy) config{
		"with an upstream": func(*caddy) config { return config{} },
		// At debug level, reverse_proxy itself logs the upstream's headers.
		"without an upstream": func(c *caddy) config { return config{handler: c.secondForm(), quiet: true} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCaddy(t, "work", "home")
			c.start(form(c))
			secret := c.secrets["work"]
			c.upstream.answer("work", func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Link", "</style.css>; rel=preload; key="+secret)
				w.WriteHeader(http.StatusEarlyHints)
				w.Header().Del("Link")
				w.Header().Set("Trailer", "X-Trailing, X-Trailing-Kept")
				w.Header().Set("X-Echo", r.Header.Get("Authorization"))
				w.Header().Set("Set-Cookie", "key="+secret)
				w.Header().Set("Location", "/?key="+url.QueryEscape(secret))
				w.Header().Set("X-Path", "/"+url.PathEscape(secret))
				w.Header().Set("X-Quoted", strconv.Quote(secret))
				for n, before := range []string{"", ":", "u:"} {
					w.Header().Set(fmt.Sprint("X-Basic-", n), "Basic "+base64.StdEncoding.EncodeToString([]byte(before+secret)))
					w.Header().Set(fmt.Sprint("X-Url-", n), base64.RawURLEncoding.EncodeToString([]byte(before+secret)))
				}
				w.Header().Set("X-Other", "kept")
				_, _ = io.WriteString(w, "an answer")
				w.Header().Set("X-Trailing", r.Header.Get("Authorization"))
				w.Header().Set("X-Trailing-Kept", "kept")
				w.Header().Set(http.TrailerPrefix+"X-Late", secret)
			})
			a := c.get("/")
			equal(t, "status", a.status, 200)
			equal(t, "another header", a.header.Get("X-Other"), "kept")
			equal(t, "another trailer", a.trailer.Get("X-Trailing-Kept"), "kept")
			for _, h := range []http.Header{a.header, a.trailer} {
				for _, name := range []string{"X-Echo", "Set-Cookie", "Location", "X-Path", "X-Quoted", "X-Basic-0", "X-Basic-1", "X-Basic-2", "X-Url-0", "X-Url-1", "X-Url-2", "X-Trailing", "X-Late"} {
					equal(t, name, h.Get(name), "")
				}
			}
		})
	}
}

func TestFault_upstreamEchoesTheCredentialInItsStatusLine(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home")
	c.start(config{door: "header_down X-Status {rp.status_text}"})
	line := "HTTP/1.1 200 as you like, " + c.secrets["work"]
	c.upstream.answer("work", func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, _ = io.WriteString(conn, line+"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			_ = conn.Close()
		}
	})
	a := c.get("/")
	equal(t, "status", a.status, 200)
	equal(t, "status line", a.header.Get("X-Status"), "200 OK")
	line = "HTTP/1.1 2x0 " + c.secrets["work"] // and one that is none
	equal(t, "status of a broken line", c.get("/").status, 502)
}

func TestFault_redirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	asked := false
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer elsewhere.Close()
	c := startCaddy(t, config{}, "work", "home")
	for _, code := range []int{301, 302, 307, 308} {
		c.upstream.answer("work", status(code, "Location", elsewhere.URL))
		a := c.do(c.request(http.MethodPost, "/", "a question"))
		equal(t, "status", a.status, code)
		equal(t, "location", a.header.Get("Location"), elsewhere.URL)
	}
	equal(t, "asked elsewhere", asked, false)
}

func TestFault_lateRefusalsOfTheAccountThatWasLeft(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, config{}, "work", "home", "spare")
	late := newGate(t)
	c.upstream.answer("work", late.before(status(429, "Retry-After", "60")))
	answers := make(chan answer, 2)
	for range 2 {
		go func() {
			a, _ := c.try(c.request(http.MethodGet, "/", ""))
			answers <- a
		}()
	}
	late.wait(t, 2)
	c.upstream.answer("work", status(429, "Retry-After", "60"))
	served(t, c.get("/"), "home")
	late.open()
	for range 2 {
		served(t, <-answers, "home")
	}
	c.is("home", "ready")
	equal(t, "home's failures", c.member("home").Failures, 0)
	equal(t, "work's failures", c.member("work").Failures, 1)
	equal(t, "active", c.active(), "home")
	equal(t, "notices", c.notices(), "[failover work>home 429]")
}

func TestFault_rotateDuringAFailoverKeepsThePark(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, config{}, "work", "home", "spare")
	late := newGate(t)
	c.upstream.answer("work", late.before(status(429, "Retry-After", "1")))
	answers := make(chan answer, 1)
	go func() {
		a, _ := c.try(c.request(http.MethodGet, "/", ""))
		answers <- a
	}()
	late.wait(t, 1)
	c.want(http.StatusOK, http.MethodPost, "/credential_pool/pools/api/rotate", `{"park_for":"10m"}`, nil)
	late.open()
	served(t, <-answers, "home")
	c.is("work", "cooling") // cooling outranks parked
	eventually(t, "the cooling ends", func() bool { return c.member("work").State != "cooling" })
	m := c.member("work")
	if m.State != "parked" || time.Until(m.Until) < 9*time.Minute {
		t.Errorf("work is %s until %s, want parked for 10 minutes", m.State, m.Until)
	}
	equal(t, "active", c.active(), "home")
}

func TestRetries_endWhereConfigured(t *testing.T) {
	t.Parallel()
	for retries, want := range map[int]string{0: "[a]", 1: "[a b]", 3: "[a b c d]"} {
		t.Run(fmt.Sprint(retries), func(t *testing.T) {
			t.Parallel()
			c := startCaddy(t, config{door: fmt.Sprintf("retries %d", retries)}, "a", "b", "c", "d", "e")
			for _, account := range c.accounts {
				c.upstream.answer(account, status(429))
			}
			a := c.do(c.request(http.MethodPost, "/", "a question"))
			equal(t, "status", a.status, 429)
			equal(t, "attempts", c.upstream.served(), want)
		})
	}
}

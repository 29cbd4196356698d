package caddymodule

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

// upstream is an API that answers each credential as it is told to, and keeps
// account of what it was sent.
type upstream struct {
	*httptest.Server
	mu      sync.Mutex
	answers map[string]http.HandlerFunc // by the value of Authorization or X-Api-Key
	hits    []hit
}

type hit struct {
	credential string
	method     string
	header     http.Header
	query      string
	body       string
}

func newUpstream(t *testing.T) *upstream {
	u := &upstream{answers: make(map[string]http.HandlerFunc)}
	u.Server = httptest.NewServer(http.HandlerFunc(u.serve))
	t.Cleanup(u.Close)
	return u
}

func (u *upstream) serve(w http.ResponseWriter, r *http.Request) {
	credential := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if credential == "" {
		credential = r.Header.Get("X-Api-Key")
	}
	u.mu.Lock()
	answer := u.answers[credential]
	u.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	u.mu.Lock()
	u.hits = append(u.hits, hit{credential, r.Method, r.Header.Clone(), r.URL.RawQuery, string(body)})
	u.mu.Unlock()
	if answer == nil {
		_, _ = fmt.Fprintf(w, "ok %s", body)
		return
	}
	answer(w, r)
}

// on sets how a credential is answered; nil means well.
func (u *upstream) on(credential string, answer http.HandlerFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answers[credential] = answer
}

// seen returns the hits since the last call.
func (u *upstream) seen() []hit {
	u.mu.Lock()
	defer u.mu.Unlock()
	hits := u.hits
	u.hits = nil
	return hits
}

func (u *upstream) credentials() string {
	var cs []string
	for _, h := range u.seen() {
		cs = append(cs, h.credential)
	}
	return strings.Join(cs, " ")
}

func status(code int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Add(header[i], header[i+1])
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, http.StatusText(code))
	}
}

// door is a running Caddy with one pool of two members, a and b, whose
// credentials are credential-a and credential-b.
type door struct {
	t     *testing.T
	url   string
	admin string
	pool  string
}

const phantom = "phantom-of-the-tests"

// open starts Caddy in this process. In the directive, UPSTREAM stands for the
// upstream's address and POOL for the pool's name.
func open(t *testing.T, u *upstream, poolWords, directive string) *door {
	t.Helper()
	t.Setenv("TEST_CREDENTIAL_A", "credential-a")
	t.Setenv("TEST_CREDENTIAL_B", "credential-b")
	d := &door{t: t, url: "http://" + freeAddress(t), admin: freeAddress(t), pool: uniqueName()}
	d.load(poolWords, directive, u, filepath.Join(t.TempDir(), "storage"))
	t.Cleanup(func() { _ = caddy.Stop() })
	return d
}

func (d *door) load(poolWords, directive string, u *upstream, storage string) {
	d.t.Helper()
	if !strings.Contains(poolWords, "member") {
		poolWords = "member a {env.TEST_CREDENTIAL_A}\nmember b {env.TEST_CREDENTIAL_B}\n" + poolWords
	}
	text := fmt.Sprintf(`{
	admin %s
	storage file_system %s
	log {
		output discard
	}
	credential_pool {
		pool %s {
			%s
		}
	}
}
%s {
	%s
}
`, d.admin, storage, d.pool, poolWords, d.url,
		strings.NewReplacer("UPSTREAM", strings.TrimPrefix(u.URL, "http://"), "POOL", d.pool).Replace(directive))
	load(d.t, text)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func uniqueName() string {
	b := make([]byte, 4)
	_, _ = rand.Read(b)
	return "p" + hex.EncodeToString(b)
}

// do sends a request with the phantom.
func (d *door) do(method, path, body string, header ...string) (*http.Response, string) {
	d.t.Helper()
	req, err := http.NewRequestWithContext(d.t.Context(), method, d.url+path, strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+phantom)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	// A load replaces Caddy's servers, and the old ones may cut a connection that
	// they have only just taken.
	for n := 0; n < 3 && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)); n++ {
		req.Body, _ = req.GetBody()
		res, err = http.DefaultTransport.RoundTrip(req)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return res, string(b)
}

func (d *door) want(code int) string {
	d.t.Helper()
	res, body := d.do(http.MethodPost, "/v1/x", "hello")
	if res.StatusCode != code {
		d.t.Fatalf("status %d, want %d: %s", res.StatusCode, code, body)
	}
	return body
}

const withUpstream = "credential_pool POOL UPSTREAM {\nclient agent " + phantom + "\nOPTIONS\n}"

func directive(options ...string) string {
	return strings.Replace(withUpstream, "OPTIONS", strings.Join(options, "\n"), 1)
}

const withoutUpstream = "credential_pool POOL {\nclient agent " + phantom + "\n}\nreverse_proxy UPSTREAM"

func TestFailover_theClientSeesOnlySuccess(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write([]byte(`{"error":{"code":"insufficient_quota"}}`))
	_ = z.Close()
	for name, refusal := range map[string]http.HandlerFunc{
		"429": status(429, "Retry-After", "60"),
		"401": status(401),
		"403 by body": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"code":"rate_limit_exceeded"}`, http.StatusForbidden)
		},
		"403 zipped": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.WriteHeader(403)
			_, _ = w.Write(zipped.Bytes())
		},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			d := open(t, u, "", directive())
			u.on("credential-a", refusal)
			if body := d.want(200); body != "ok hello" {
				t.Errorf("body %q", body)
			}
			d.want(200)
			if got := u.credentials(); got != "credential-a credential-b credential-b" {
				t.Errorf("the upstream saw %s", got)
			}
		})
	}
}

func TestFailover_doesNotFollowWhatIsNotTheMembersFault(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"503":           status(503, "Retry-After", "60"),
		"502":           status(502),
		"403 forbidden": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "forbidden scope", http.StatusForbidden) },
		"404":           status(404),
		"redirect":      status(302, "Location", "http://127.0.0.1:1/"),
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			d := open(t, u, "", directive())
			u.on("credential-a", answer)
			res, _ := d.do(http.MethodPost, "/", "x")
			if res.StatusCode < 300 {
				t.Errorf("status %d", res.StatusCode)
			}
			if got := u.credentials(); got != "credential-a" {
				t.Errorf("the upstream saw %s", got)
			}
			u.on("credential-a", nil)
			d.want(200)
			if got := u.credentials(); got != "credential-a" {
				t.Errorf("afterwards it saw %s", got)
			}
		})
	}
}

func TestFailover_aBrokenConnectionIsNotRetried(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "", directive())
	u.on("credential-a", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	d.want(502)
	if got := u.credentials(); got != "credential-a" {
		t.Errorf("the upstream saw %s", got)
	}
}

func TestExhausted_serve(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "", directive())
	u.on("credential-a", status(429))
	u.on("credential-b", status(429))
	res, _ := d.do(http.MethodPost, "/", "x")
	if res.StatusCode != 429 || res.Header.Get("Retry-After") == "" {
		t.Errorf("status %d, Retry-After %q", res.StatusCode, res.Header.Get("Retry-After"))
	}
	u.seen()
	d.want(429)
	if got := len(u.seen()); got != 1 {
		t.Errorf("an exhausted pool made %d attempts", got)
	}
	u.on("credential-a", nil)
	d.want(200) // the one that is back first has recovered early
	d.want(200)
	if got := u.credentials(); got != "credential-a credential-a" {
		t.Errorf("the upstream saw %s", got)
	}
}

// The header of an answer whose body decides goes out before the body is read, so
// it can only tell what earlier answers have said.
func TestExhausted_withoutUpstreamsTellsTheWaitWhereTheBodyDecides(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "provider openai", withoutUpstream)
	refuse := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(429)
		_, _ = io.WriteString(w, `{"error":{"type":"insufficient_quota","code":"insufficient_quota"}}`)
	}
	u.on("credential-a", refuse)
	u.on("credential-b", refuse)
	for n, told := range []bool{false, false, true} {
		res, _ := d.do(http.MethodGet, "/", "")
		if res.StatusCode != 429 || (res.Header.Get("Retry-After") != "") != told {
			t.Errorf("request %d: status %d, Retry-After %q", n+1, res.StatusCode, res.Header.Get("Retry-After"))
		}
	}
}

func TestExhausted_reject(t *testing.T) {
	for refusal, want := range map[int]int{429: 429, 401: 503} {
		u := newUpstream(t)
		d := open(t, u, "", directive("on_exhausted reject"))
		u.on("credential-a", status(refusal))
		u.on("credential-b", status(refusal))
		d.want(refusal) // the request that finds out gets the upstream's answer
		u.seen()
		res, body := d.do(http.MethodGet, "/", "")
		if res.StatusCode != want || !json.Valid([]byte(body)) {
			t.Errorf("after %d: status %d: %s", refusal, res.StatusCode, body)
		}
		if (res.Header.Get("Retry-After") != "") != (want == 429) {
			t.Errorf("after %d: Retry-After %q", refusal, res.Header.Get("Retry-After"))
		}
		if len(u.seen()) != 0 {
			t.Errorf("after %d: something went upstream", refusal)
		}
		_ = caddy.Stop()
	}
}

func TestRetries_areBounded(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "", directive("retries 0"))
	u.on("credential-a", status(429))
	d.want(429)
	d.want(200)
	if got := u.credentials(); got != "credential-a credential-b" {
		t.Errorf("the upstream saw %s", got)
	}
}

func TestReplayLimit_aLargerBodyIsNotRetried(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "", directive("replay_limit 1KiB"))
	u.on("credential-a", status(429))
	res, _ := d.do(http.MethodPost, "/", strings.Repeat("x", 4096))
	if res.StatusCode != 429 {
		t.Errorf("status %d", res.StatusCode)
	}
	if res.Header.Get("Retry-After") != "" {
		t.Error("Retry-After, though another member is ready")
	}
	d.want(200)
}

func TestDoor_letsOnlyClientsIn(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "", directive())
	for name, authorization := range map[string]string{
		"none": "", "wrong": "Bearer wrong-phantom", "empty": "Bearer ", "prefix": "Bearer " + phantom[:10], "no scheme": phantom,
		"long": "Bearer " + strings.Repeat("x", 8000),
	} {
		res, _ := d.do(http.MethodPost, "/", "x", "Authorization", authorization)
		if res.StatusCode != 401 || res.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: status %d", name, res.StatusCode)
		}
	}
	if res, _ := d.do(http.MethodTrace, "/", ""); res.StatusCode != 405 {
		t.Errorf("TRACE: status %d", res.StatusCode)
	}
	if res, _ := d.do(http.MethodGet, "/", "", "Connection", "Upgrade", "Upgrade", "h2c"); res.StatusCode != 405 {
		t.Errorf("upgrade to h2c: status %d", res.StatusCode)
	}
	if len(u.seen()) != 0 {
		t.Error("something went upstream")
	}
}

func TestDoor_aClientThatWaitsForA100GetsThe401(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "", directive())
	conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: "+strings.TrimPrefix(d.url, "http://")+"\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n")
	_ = conn.SetReadDeadline(time.Now().Add(3 * time.Second))
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 401 ") {
		t.Errorf("the client got %q, %v", line, err)
	}
}

func TestOutgoing_holdsTheMembersCredentialOnly(t *testing.T) {
	for form, text := range map[string]string{"with upstream": directive(), "without": withoutUpstream} {
		t.Run(form, func(t *testing.T) {
			u := newUpstream(t)
			d := open(t, u, "", text)
			res, _ := d.do(http.MethodPost, "/?key="+phantom+"&q=1", "x",
				"Connection", "authorization, x-api-key", "X-Api-Key", "the client's", "X-Other", phantom,
				"Cookie", "a=1; token="+phantom+"; b=2", "Accept-Encoding", "br, gzip;q=0.5, *")
			if res.StatusCode != 200 {
				t.Fatalf("status %d", res.StatusCode)
			}
			h := u.seen()[0]
			if h.credential != "credential-a" {
				t.Errorf("credential %q", h.credential)
			}
			if s := fmt.Sprint(h.header, h.query); strings.Contains(s, phantom) || strings.Contains(s, "the client's") {
				t.Errorf("the client's own went upstream: %s", s)
			}
			if got := h.header.Get("Cookie"); got != "a=1; b=2" {
				t.Errorf("cookie %q", got)
			}
			if got := h.header.Get("Accept-Encoding"); got != "gzip;q=0.5" {
				t.Errorf("Accept-Encoding %q", got)
			}
			if h.query != "q=1" {
				t.Errorf("query %q", h.query)
			}
		})
	}
}

func TestIncoming_headersThatHoldTheCredentialAreRemoved(t *testing.T) {
	for form, text := range map[string]string{"with upstream": directive(), "without": withoutUpstream} {
		t.Run(form, func(t *testing.T) {
			u := newUpstream(t)
			d := open(t, u, "", text)
			u.on("credential-a", status(200, "X-Echo", "Bearer credential-a", "X-Fine", "yes"))
			res, _ := d.do(http.MethodGet, "/", "")
			if res.Header.Get("X-Echo") != "" || res.Header.Get("X-Fine") != "yes" {
				t.Errorf("header %v", res.Header)
			}
		})
	}
}

func TestInject_anotherHeader(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "inject header X-Api-Key {credential}", directive())
	res, _ := d.do(http.MethodGet, "/", "", "Authorization", "", "X-Api-Key", phantom)
	if res.StatusCode != 200 {
		t.Fatalf("status %d", res.StatusCode)
	}
	d.want(200) // a bearer token will do too
	for _, h := range u.seen() {
		if h.header.Get("X-Api-Key") != "credential-a" || h.header.Get("Authorization") != "" {
			t.Errorf("header %v", h.header)
		}
	}
}

func TestWithoutUpstream_failsOverForTheNextRequest(t *testing.T) {
	for name, refusal := range map[string]http.HandlerFunc{
		"by status": status(429),
		"by body":   func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "quota exhausted", http.StatusForbidden) },
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			d := open(t, u, "", withoutUpstream)
			u.on("credential-a", refusal)
			if res, body := d.do(http.MethodPost, "/", "x"); res.StatusCode < 400 || body == "" {
				t.Errorf("status %d, body %q", res.StatusCode, body)
			}
			d.want(200)
			if got := u.credentials(); got != "credential-a credential-b" {
				t.Errorf("the upstream saw %s", got)
			}
		})
	}
}

func TestReload_keepsBenchesAndPointer(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "", directive())
	u.on("credential-a", status(429))
	d.want(200)
	u.on("credential-a", nil)
	u.seen()
	other := filepath.Join(t.TempDir(), "other")
	d.load("park_for 1m", directive(), u, other)
	d.want(200)
	if got := u.credentials(); got != "credential-b" {
		t.Errorf("after the reload the upstream saw %s", got)
	}
	// The storage that the new config has knows it, too.
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	d.load("", directive(), u, other)
	d.want(200)
	if got := u.credentials(); got != "credential-b" {
		t.Errorf("after a restart the upstream saw %s", got)
	}
}

func TestRestart_keepsBenchesAndPointer(t *testing.T) {
	u := newUpstream(t)
	storage := filepath.Join(t.TempDir(), "storage")
	d := open(t, u, "", directive())
	d.load("", directive(), u, storage)
	u.on("credential-a", status(429))
	d.want(200)
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	u.on("credential-a", nil)
	u.seen()
	d.load("", directive(), u, storage)
	d.want(200)
	if got := u.credentials(); got != "credential-b" {
		t.Errorf("after the restart the upstream saw %s", got)
	}
}

func TestStream_isNotHeldBack(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "", directive())
	u.on("credential-a", status(429))
	next := make(chan struct{})
	u.on("credential-b", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Trailer", "X-Sum")
		for range 3 {
			_, _ = io.WriteString(w, "data: x\n\n")
			w.(http.Flusher).Flush()
			<-next
		}
		w.Header().Set("X-Sum", "3")
	})
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, d.url, strings.NewReader("x"))
	req.Header.Set("Authorization", "Bearer "+phantom)
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for range 3 {
		for lines.Scan() && lines.Text() == "" {
		}
		if lines.Text() != "data: x" {
			t.Fatalf("line %q", lines.Text())
		}
		next <- struct{}{}
	}
	for lines.Scan() {
	}
	if res.Trailer.Get("X-Sum") != "3" {
		t.Errorf("trailer %v", res.Trailer)
	}
}

func TestInterim_fromARefusedAttemptDoesNotReachTheClient(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "", directive())
	hints := func(link string, then int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", link)
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(then)
		}
	}
	u.on("credential-a", hints("</a>", 429))
	u.on("credential-b", hints("</b>", 200))
	conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n", strings.TrimPrefix(d.url, "http://"), phantom)
	raw, _ := io.ReadAll(conn)
	if got := string(raw); strings.Count(got, "HTTP/1.1 103") != 1 || strings.Contains(got, "</a>") || strings.Count(got, "</b>") != 2 {
		t.Errorf("the client got:\n%s", got)
	}
}

func TestTransport_failsWithoutThePool(t *testing.T) {
	u := newUpstream(t)
	d := open(t, u, "", "reverse_proxy UPSTREAM {\ntransport credential_pool\n}")
	d.want(502)
	if len(u.seen()) != 0 {
		t.Error("something went upstream")
	}
}

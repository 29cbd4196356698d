package caddymodule

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// A canary is a secret that is looked for wherever it must not be.
const (
	canaryA     = "canary/A+secret-0123456789"
	canaryB     = "canary/B+secret-9876543210"
	canaryField = "canary/field+1234567"
)

// canaries are the secrets in the forms in which they could leak.
func canaries() []string {
	var forms []string
	for _, secret := range []string{canaryA, canaryB, canaryField} {
		forms = append(forms, secret, url.QueryEscape(secret), url.PathEscape(secret),
			strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(secret)), "=")[:20],
			strings.TrimRight(base64.URLEncoding.EncodeToString([]byte(secret)), "=")[:20])
	}
	return forms
}

// site is a Caddy with its log in a file, at debug level.
type site struct {
	t     *testing.T
	door  string
	admin string
	pool  string
	log   string
	seen  transcript // all that clients and the operator got
}

func openSite(t *testing.T, u *upstream, level string) *site {
	t.Helper()
	dir := t.TempDir()
	s := &site{t: t, door: freeAddress(t), admin: freeAddress(t), pool: uniqueName(), log: filepath.Join(dir, "log")}
	text := fmt.Sprintf(`{
	admin %s
	metrics
	storage file_system %s
	log {
		output file %s
		level %s
	}
	credential_pool {
		pool %s {
			member a
			member b
			inject header X-Api-Key {credential}
			inject header X-Account {credential.account_id}
		}
	}
}
http://%s {
	log
	credential_pool %s %s {
		client agent %s
	}
}
`, s.admin, filepath.Join(dir, "storage"), s.log, level, s.pool, s.door, s.pool, strings.TrimPrefix(u.URL, "http://"), phantom)
	load(t, text)
	t.Cleanup(func() { _ = caddy.Stop() })
	return s
}

// operate makes a request to the admin API.
func (s *site) operate(method, path, body string) (int, string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, "http://"+s.admin+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	return s.take(req)
}

// transcript is written by many at once.
type transcript struct {
	mu sync.Mutex
	b  strings.Builder
}

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(p)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}

func (s *site) take(req *http.Request) (int, string) {
	s.t.Helper()
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	fmt.Fprintln(&s.seen, res.StatusCode, res.Header, string(b))
	return res.StatusCode, string(b)
}

func (s *site) get(path string) (int, string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, "http://"+s.door+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("X-Api-Key", phantom)
	return s.take(req)
}

func (s *site) put(member, secret string) {
	s.t.Helper()
	body := fmt.Sprintf(`{"kind":"static","secret":%q,"fields":{"account_id":%q}}`, secret, canaryField)
	if code, answer := s.operate(http.MethodPut, "/credential_pool/credentials/"+s.pool+"/"+member, body); code != 200 {
		s.t.Fatalf("put: %d %s", code, answer)
	}
}

func TestCanaries_areNowhereButUpstream(t *testing.T) {
	for _, level := range []string{"DEBUG", "INFO"} {
		t.Run(level, func(t *testing.T) {
			u := newUpstream(t)
			s := openSite(t, u, level)
			if code, _ := s.get("/"); code != 503 {
				t.Fatalf("a pool without credentials answers %d", code)
			}
			s.put("a", canaryA)
			s.put("b", canaryB)
			u.on(canaryA, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Echo", r.Header.Get("X-Api-Key"))
				w.Header().Set("Link", "<"+r.Header.Get("X-Account")+">")
				w.WriteHeader(http.StatusEarlyHints)
				w.Header().Set("Retry-After", "1")
				w.WriteHeader(429)
			})
			if code, _ := s.get("/"); code != 200 {
				t.Fatalf("status %d", code)
			}

			// A client that leaves in mid-stream makes reverse_proxy log the
			// outgoing headers at the default level.
			left := make(chan struct{})
			u.on(canaryB, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Echo", r.Header.Get("X-Api-Key"))
				for {
					if _, err := io.WriteString(w, "data: x\n\n"); err != nil || r.Context().Err() != nil {
						close(left)
						return
					}
					w.(http.Flusher).Flush()
					time.Sleep(time.Millisecond)
				}
			})
			conn, err := net.Dial("tcp", s.door)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = fmt.Fprintf(conn, "GET /stream HTTP/1.1\r\nHost: %s\r\nX-Api-Key: %s\r\n\r\n", s.door, phantom)
			first := make([]byte, 4096)
			n, _ := conn.Read(first)
			s.seen.Write(first[:n])
			_ = conn.Close()
			<-left

			u.on(canaryB, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
			s.get("/broken")
			for _, do := range [][2]string{
				{"GET", "/config/"},
				{"GET", "/metrics"},
				{"GET", "/credential_pool/pools"},
				{"GET", "/credential_pool/credentials"},
				{"GET", "/credential_pool/credentials/" + s.pool + "/a"},
				{"GET", "/credential_pool/notices"},
				{"POST", "/credential_pool/pools/" + s.pool + "/rotate"},
				{"DELETE", "/credential_pool/credentials/" + s.pool + "/b"},
			} {
				s.operate(do[0], do[1], "")
			}
			s.operate("PUT", "/credential_pool/credentials/"+s.pool+"/b", `{"secret":"`+canaryB+`","secrets":"`+canaryA+`"}`)
			s.operate("PUT", "/credential_pool/credentials/"+s.pool+"/b", `{"secret":["`+canaryB+`"]}`)
			s.operate("PUT", "/credential_pool/credentials/"+s.pool+"/b", `{"secret":"`+canaryB+`\n"}`)
			u.seen()
			if err := caddy.Stop(); err != nil {
				t.Fatal(err)
			}

			log, err := os.ReadFile(s.log)
			if err != nil || !strings.Contains(string(log), "failed over") {
				t.Fatalf("the log tells of no failover: %v", err)
			}
			if level == "DEBUG" && !strings.Contains(string(log), "upstream roundtrip") {
				t.Error("the log is not at debug level")
			}
			for _, form := range canaries() {
				if strings.Contains(string(log), form) {
					t.Errorf("a secret stands in the log")
				}
				if strings.Contains(s.seen.String(), form) {
					t.Errorf("a secret stands in an answer")
				}
			}
		})
	}
}

func TestAdmin_refusesWhatItCanNotDo(t *testing.T) {
	u := newUpstream(t)
	s := openSite(t, u, "INFO")
	s.put("a", canaryA)
	s.put("b", canaryB)
	pool, credentials := "/credential_pool/pools/"+s.pool, "/credential_pool/credentials/"+s.pool
	for _, tc := range []struct {
		method, path, body string
		want               int
		says               string
	}{
		{"GET", "/credential_pool/pools/nope", "", 404, "there are: " + s.pool},
		{"GET", "/credential_pool/nope", "", 404, "GET /credential_pool/pools"},
		{"GET", pool + "/rotate", "", 405, "allowed: POST"},
		{"POST", credentials + "/a", "", 405, "allowed: GET, PUT, DELETE"},
		{"POST", pool + "/rotate", "{", 400, "JSON object with no keys but park_for, to"},
		{"POST", pool + "/rotate", `{"too":"b"}`, 400, "JSON object"},
		{"POST", pool + "/rotate", `{} {}`, 400, "something follows"},
		{"POST", pool + "/rotate", `{"park_for":"-1s"}`, 400, "a duration must be"},
		{"POST", pool + "/rotate", `{"park_for":5}`, 400, "a duration must be"},
		{"POST", pool + "/rotate", `{"to":"x"}`, 404, "there are: a, b"},
		{"POST", pool + "/members/x/park", "", 404, "there are: a, b"},
		{"POST", pool + "/members/a/park", `{"for":"1000000h"}`, 400, "a duration must be"},
		{"POST", pool + "/members/a/park", `{"reason":"a\nb"}`, 400, "one line"},
		{"GET", credentials + "/x", "", 404, s.pool + "/a, " + s.pool + "/b"},
		{"DELETE", credentials + "/x", "", 404, "no such credential"},
		{"PUT", credentials + "/Acme", "{}", 400, "member name"},
		{"PUT", credentials + "/" + strings.Repeat("x", 4096), "{}", 400, "member name"},
		{"PUT", credentials + "/%00", "{}", 400, "member name"},
		{"PUT", credentials + "/a", "", 400, "JSON object"},
		{"PUT", credentials + "/a", `{"kind":"static"}`, 400, "secret"},
		{"PUT", credentials + "/a", `{"kind":"magic","secret":"x"}`, 400, "kind"},
		{"PUT", credentials + "/a", `{"secret":"x","fields":{"A-B":"x"}}`, 400, "field"},
		{"GET", "/credential_pool/notices?limit=x", "", 400, "limit"},
	} {
		code, answer := s.operate(tc.method, tc.path, tc.body)
		if code != tc.want || !strings.Contains(answer, tc.says) {
			t.Errorf("%s %.80s %s\ngives %d %s\nwant %d, %s", tc.method, tc.path, tc.body, code, answer, tc.want, tc.says)
		}
		if !json.Valid([]byte(answer)) {
			t.Errorf("no JSON: %s", answer)
		}
	}
}

func TestAdmin_steersThePool(t *testing.T) {
	u := newUpstream(t)
	s := openSite(t, u, "INFO")
	s.put("a", canaryA)
	s.get("/")
	pool := "/credential_pool/pools/" + s.pool
	if code, answer := s.operate("POST", pool+"/rotate", ""); code != 409 {
		t.Errorf("rotate to a missing one: %d %s", code, answer)
	}
	s.put("b", canaryB)
	if code, answer := s.operate("POST", pool+"/rotate", `{"park_for":"5m"}`); code != 200 || !strings.Contains(answer, `"from":"a","to":"b","parked_until"`) {
		t.Errorf("rotate: %d %s", code, answer)
	}
	s.get("/")
	if got := u.credentials(); got != canaryA+" "+canaryB {
		t.Error("the rotate was not heeded by the next request")
	}
	if _, answer := s.operate("GET", pool, ""); !strings.Contains(answer, `"active":"b"`) || !strings.Contains(answer, `"state":"parked"`) {
		t.Errorf("status: %s", answer)
	}
	if code, answer := s.operate("POST", pool+"/members/a/recover", ""); code != 200 || !strings.Contains(answer, `"state":"ready"`) {
		t.Errorf("recover: %d %s", code, answer)
	}
	if code, _ := s.operate("DELETE", "/credential_pool/credentials/"+s.pool+"/b", ""); code != 204 {
		t.Errorf("delete: %d", code)
	}
	s.get("/")
	if got := u.credentials(); got != canaryA {
		t.Error("a deleted credential was used")
	}
	if _, answer := s.operate("GET", "/credential_pool/notices?limit=3", ""); !strings.Contains(answer, `"kind":"credential_missing"`) || !strings.Contains(answer, `"kind":"rotated"`) {
		t.Errorf("notices: %s", answer)
	}
}

package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// desk is a running app and the operator before it, who calls the handler of
// the admin API without a network.
type desk struct {
	t       testing.TB
	pool    string
	storage string
}

// openDesk runs a pool with these members, in the JSON of the config.
func openDesk(t testing.TB, members string) *desk {
	t.Helper()
	d := &desk{t: t, pool: uniqueName(), storage: t.TempDir()}
	config := fmt.Sprintf(`{
		"admin": {"disabled": true, "config": {"persist": false}},
		"logging": {"logs": {"default": {"writer": {"output": "discard"}}}},
		"storage": {"module": "file_system", "root": %q},
		"apps": {"credential_pool": {"pools": {%q: {"members": [%s]}}}}
	}`, d.storage, d.pool, members)
	if err := caddy.Load([]byte(config), true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caddy.Stop() })
	return d
}

// ask returns what Caddy would answer. POOL stands for the pool's name.
func (d *desk) ask(method, path, body string) *httptest.ResponseRecorder {
	d.t.Helper()
	r := httptest.NewRequestWithContext(d.t.Context(), method, strings.ReplaceAll(path, "POOL", d.pool), strings.NewReader(body))
	w := httptest.NewRecorder()
	if err := serveAdmin(w, r); err != nil {
		refused, ok := err.(caddy.APIError) //nolint:errorlint // Caddy takes a wrapped one for a 500
		if !ok {
			d.t.Fatalf("%s %s: the error is no caddy.APIError: %v", method, path, err)
		}
		w.WriteHeader(refused.HTTPStatus)
		_ = json.NewEncoder(w).Encode(refused)
	}
	return w
}

// want asks, and decodes the answer into a value if there is one.
func (d *desk) want(code int, method, path, body string, into ...any) string {
	d.t.Helper()
	w := d.ask(method, path, body)
	answer := w.Body.String()
	if w.Code != code {
		d.t.Fatalf("%s %s gives %d %s, want %d", method, path, w.Code, answer, code)
	}
	for _, v := range into {
		if err := json.Unmarshal([]byte(answer), v); err != nil {
			d.t.Fatalf("%s %s: %v: %s", method, path, err, answer)
		}
	}
	return answer
}

func (d *desk) put(members ...string) {
	d.t.Helper()
	for _, m := range members {
		d.want(200, "PUT", "/credential_pool/credentials/POOL/"+m, `{"secret":"`+canaryA+`"}`)
	}
}

const (
	twoMembers = `{"name":"a"},{"name":"b"}`
	poolURL    = "/credential_pool/pools/POOL"
	vaultURL   = "/credential_pool/credentials/POOL"
)

func TestAdmin_withoutAPoolInTheConfigIs503(t *testing.T) {
	d := openDesk(t, twoMembers)
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	d.want(503, "GET", "/credential_pool/pools", "")
	if err := caddy.Load([]byte(`{"admin":{"disabled":true,"config":{"persist":false}}}`), true); err != nil {
		t.Fatal(err)
	}
	d.want(503, "PUT", vaultURL+"/a", `{"secret":"x"}`)
	d.want(404, "GET", "/credential_pool/nope", "")
}

func TestAdmin_wrongMethodSaysWhichAreAllowed(t *testing.T) {
	d := openDesk(t, twoMembers)
	for path, allow := range map[string]string{
		"/credential_pool/pools":          "GET",
		poolURL:                           "GET",
		poolURL + "/rotate":               "POST",
		poolURL + "/members/a/park":       "POST",
		poolURL + "/members/a/recover":    "POST",
		"/credential_pool/credentials":    "GET",
		vaultURL + "/a":                   "GET, PUT, DELETE",
		vaultURL + "/a/try":               "POST",
		"/credential_pool/notices":        "GET",
		"/credential_pool/notices?limit":  "GET",
		"/credential_pool/phantom/POOL":   "GET",
		"/credential_pool/phantom/rotate": "GET, POST",
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "get"} {
			if slices.Contains(strings.Split(allow, ", "), method) {
				continue
			}
			w := d.ask(method, path, "")
			if w.Code != 405 || w.Header().Get("Allow") != allow {
				t.Errorf("%s %s gives %d, Allow %q; want 405, %q", method, path, w.Code, w.Header().Get("Allow"), allow)
			}
		}
	}
}

func TestAdmin_unknownNamesSayWhatExists(t *testing.T) {
	d := openDesk(t, twoMembers)
	if answer := d.want(404, "GET", vaultURL+"/x", ""); !strings.Contains(answer, "there are: none") {
		t.Errorf("of an empty vault: %s", answer)
	}
	d.put("a", "b")
	for _, tc := range [][3]string{
		{"GET", "/credential_pool/pools/nope", "there are: " + d.pool},
		{"POST", "/credential_pool/pools/nope/rotate", "there are: " + d.pool},
		{"POST", poolURL + "/members/x/park", "there are: a, b"},
		{"POST", poolURL + "/members/x/recover", "there are: a, b"},
		{"GET", vaultURL + "/x", "there are: " + d.pool + "/a, " + d.pool + "/b"},
		{"DELETE", vaultURL + "/x", "there are: " + d.pool + "/a, " + d.pool + "/b"},
		{"GET", "/credential_pool/phantom/nope", "there are: " + d.pool},
		{"GET", "/credential_pool/phantom/rotate", "there are: " + d.pool},
		{"GET", "/credential_pool/", "GET /credential_pool/pools, "},
		{"GET", vaultURL, "PUT /credential_pool/credentials/{pool}/{member}"},
	} {
		if answer := d.want(404, tc[0], tc[1], ""); !strings.Contains(answer, tc[2]) {
			t.Errorf("%s %s says %s; want %s", tc[0], tc[1], answer, tc[2])
		}
	}
}

func TestAdmin_bodyIsOneJSONObject(t *testing.T) {
	d := openDesk(t, twoMembers)
	d.put("a", "b")
	park := poolURL + "/members/a/park"
	for _, tc := range []struct {
		method, path, body string
		want               int
	}{
		{"POST", park, "", 200},
		{"POST", park, " \n", 200},
		{"POST", park, "{}", 200},
		{"POST", park, "{}\n", 200},
		{"POST", park, "null", 400},
		{"POST", park, "[]", 400},
		{"POST", park, `"5m"`, 400},
		{"POST", park, "{}{}", 400},
		{"POST", park, "{} x", 400},
		{"POST", park, `{"for":""}`, 400},
		{"POST", park, `{"for":"0s"}`, 400},
		{"POST", park, `{"for":null}`, 400},
		{"POST", park, `{"for":300}`, 400},
		{"POST", park, `{"for":"soon"}`, 400},
		{"POST", park, `{"for":"366d"}`, 400},
		{"POST", park, `{"for":"365d"}`, 200},
		{"POST", park, `{"reason":"` + strings.Repeat("x", 201) + `"}`, 400},
		{"POST", park, `{"reason":"` + strings.Repeat("x", 200) + `"}`, 200},
		{"POST", poolURL + "/members/a/recover", `{"for":"1h"}`, 400},
		{"POST", "/credential_pool/phantom/rotate", `{"pool":"x"}`, 400},
		{"POST", "/credential_pool/phantom/rotate", "{}", 200},
		{"PUT", vaultURL + "/a", "", 400},
		{"PUT", vaultURL + "/a", "null", 400},
		{"PUT", vaultURL + "/a", `{"secret":""}`, 400},
		{"PUT", vaultURL + "/a", `{"secret":"` + strings.Repeat("x", 32<<10) + `"}`, 200},
		{"PUT", vaultURL + "/a", `{"secret":"` + strings.Repeat("x", 32<<10+1) + `"}`, 400},
		{"PUT", vaultURL + "/a", `{"secret":"` + strings.Repeat("x", maxAdminBody) + `"}`, 413},
		{"PUT", vaultURL + "/..", `{"secret":"x"}`, 400},
		{"PUT", vaultURL + "/a%0a", `{"secret":"x"}`, 400},
		{"POST", vaultURL + "/a/try", `{"secret":"x"}`, 400},
		{"POST", vaultURL + "/a/try", "{}", 204},
		{"POST", vaultURL + "/A/try", "", 400},
	} {
		if w := d.ask(tc.method, tc.path, tc.body); w.Code != tc.want {
			t.Errorf("%s %s %.60q gives %d %.200s; want %d", tc.method, tc.path, tc.body, w.Code, w.Body, tc.want)
		}
	}
}

func TestAdmin_answersAreJSONWithTimesInUTC(t *testing.T) {
	d := openDesk(t, twoMembers)
	d.put("a", "b")
	w := d.ask("POST", poolURL+"/members/a/park", `{"for":"1h","reason":"lunch"}`)
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type %q", got)
	}
	var member map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &member); err != nil {
		t.Fatal(err)
	}
	until, err := time.Parse(time.RFC3339, fmt.Sprint(member["until"]))
	if err != nil || until.Location() != time.UTC || time.Until(until) > time.Hour {
		t.Errorf("until %v: %v", member["until"], err)
	}
	delete(member, "until")
	assertJSON(t, member, `{"active":false,"failures":0,"kind":"static","name":"a","position":0,"reason":"lunch","state":"parked"}`)

	d.want(200, "POST", poolURL+"/members/a/recover", "", &member)
	if _, ok := member["until"]; member["state"] != "ready" || ok {
		t.Errorf("recovered: %v", member)
	}
	var info map[string]any
	d.want(200, "PUT", vaultURL+"/b", `{"kind":"static","secret":"`+canaryB+`","fields":{"account_id":"`+canaryField+`"}}`, &info)
	if fmt.Sprintln(info["name"], info["kind"], info["fields"]) != d.pool+"/b static [account_id]\n" || info["id"] == "" {
		t.Errorf("put: %v", info)
	}
	if answer := d.want(204, "DELETE", vaultURL+"/b", ""); answer != "" {
		t.Errorf("delete answers %s", answer)
	}
}

func TestAdmin_credentialMayComeBeforeItsPool(t *testing.T) {
	d := openDesk(t, twoMembers)
	d.want(200, "PUT", "/credential_pool/credentials/later/a", `{"secret":"x"}`)
	d.want(200, "GET", "/credential_pool/credentials/later/a", "")
}

func TestAdmin_tryPutsNothing(t *testing.T) {
	d := openDesk(t, twoMembers)
	for _, name := range []string{"POOL/a", "later/a"} {
		d.want(204, "POST", "/credential_pool/credentials/"+name+"/try", "")
		d.want(404, "GET", "/credential_pool/credentials/"+name, "")
	}
	d.put("a")
	before := d.want(200, "GET", vaultURL+"/a", "")
	d.want(204, "POST", vaultURL+"/a/try", "")
	if after := d.want(200, "GET", vaultURL+"/a", ""); after != before {
		t.Errorf("the record was %s and is %s", before, after)
	}
}

func TestAdmin_putOnAnInlineMemberIsAConflict(t *testing.T) {
	t.Setenv("ADMIN_TEST_SPARE", canaryB)
	d := openDesk(t, `{"name":"spare","secret":"{env.ADMIN_TEST_SPARE}"}`)
	d.want(409, "PUT", vaultURL+"/spare", `{"secret":"x"}`)
	d.want(409, "POST", vaultURL+"/spare/try", "")
	d.want(404, "GET", vaultURL+"/spare", "")
}

func TestAdmin_vaultWithoutItsIdentityIsAConflict(t *testing.T) {
	d := openDesk(t, twoMembers)
	d.put("a")
	before := d.want(200, "GET", vaultURL+"/a", "")
	identity := filepath.Join(d.storage, identityFile(t, d.storage))
	if err := os.Rename(identity, identity+".away"); err != nil {
		t.Fatal(err)
	}
	d.want(409, "PUT", vaultURL+"/b", `{"secret":"x"}`)
	d.want(409, "POST", vaultURL+"/b/try", "")
	if answer := d.want(200, "GET", "/credential_pool/credentials", ""); !strings.Contains(answer, `"error":`) {
		t.Errorf("the list hides that a record can't be read: %s", answer)
	}
	d.want(409, "GET", "/credential_pool/phantom/POOL", "")
	d.want(409, "POST", "/credential_pool/phantom/rotate", "")
	if err := os.Rename(identity+".away", identity); err != nil {
		t.Fatal(err)
	}
	if after := d.want(200, "GET", vaultURL+"/a", ""); after != before {
		t.Errorf("the record was %s and is %s", before, after)
	}
}

// identityFile returns the file that the vault made at its first put.
func identityFile(t *testing.T, root string) string {
	t.Helper()
	var found string
	err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if strings.Contains(string(b), "AGE-SECRET-KEY-") {
			found, _ = filepath.Rel(root, path)
		}
		return err
	})
	if err != nil || found == "" {
		t.Fatalf("no identity in the storage: %v", err)
	}
	return found
}

func TestAdmin_poolOfOneHasNobodyToRotateTo(t *testing.T) {
	d := openDesk(t, `{"name":"a"}`)
	d.put("a")
	d.want(409, "POST", poolURL+"/rotate", "")
	var p poolView
	d.want(200, "GET", poolURL, "", &p)
	if m := p.Members[0]; p.Active != "a" || m.State != "ready" {
		t.Errorf("a rotate that was refused leaves %+v", p)
	}
}

func TestAdmin_parkingEveryoneLeavesAPoolThatServes(t *testing.T) {
	d := openDesk(t, twoMembers)
	d.put("a", "b")
	d.want(200, "POST", poolURL+"/members/a/park", "")
	d.want(200, "POST", poolURL+"/members/b/park", "")
	var p poolView
	d.want(200, "GET", poolURL, "", &p)
	if p.Active != "b" || p.Members[0].State != "parked" || p.Members[1].State != "parked" {
		t.Errorf("the pool is %+v", p)
	}
}

func TestAdmin_twoRotatesAtOnceAreTwoRotates(t *testing.T) {
	d := openDesk(t, twoMembers)
	d.put("a", "b")
	var all sync.WaitGroup
	from := make([]string, 2)
	for i := range from {
		all.Go(func() {
			var rot struct{ From string }
			w := d.ask("POST", poolURL+"/rotate", "")
			if err := json.Unmarshal(w.Body.Bytes(), &rot); err != nil || w.Code != 200 {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			from[i] = rot.From
		})
	}
	all.Wait()
	slices.Sort(from)
	if !slices.Equal(from, []string{"a", "b"}) {
		t.Errorf("rotated away from %q; want each once", from)
	}
}

func TestAdmin_foreignHostOrOriginChangesNothing(t *testing.T) {
	s := openSite(t, newUpstream(t), "INFO")
	s.put("a", canaryA)
	s.put("b", canaryB)
	path := "/credential_pool/pools/" + s.pool
	_, before := s.operate("GET", path, "")
	for _, tc := range []struct{ method, host, origin string }{
		{"POST", "attacker.example", ""},
		{"POST", "", "https://attacker.example"},
		{"POST", "", "null"},
		{"GET", "", ""},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tc.method, "http://"+s.admin+path+"/rotate", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if tc.host != "" {
			req.Host = tc.host
		}
		if tc.origin != "" {
			req.Header.Set("Origin", tc.origin)
		}
		if code, answer := s.take(req); code < 400 || code > 499 {
			t.Errorf("%+v gives %d %s", tc, code, answer)
		}
	}
	if _, after := s.operate("GET", path, ""); after != before {
		t.Errorf("the pool was %s and is %s", before, after)
	}
}

// FuzzAdminBody holds the API to its promise: no body makes a 500, and none is
// quoted.
func FuzzAdminBody(f *testing.F) {
	d := openDesk(f, twoMembers)
	d.put("a", "b")
	routes := [][2]string{
		{"POST", poolURL + "/rotate"},
		{"POST", poolURL + "/members/a/park"},
		{"POST", poolURL + "/members/a/recover"},
		{"PUT", vaultURL + "/a"},
		{"POST", "/credential_pool/phantom/rotate"},
	}
	for _, body := range []string{
		"", "{}", "null", "[]", "{", `{"to":"b","park_for":"5m"}`, `{"to":"SECRET"}`, `{"for":"1h","reason":"x"}`,
		`{"for":"SECRET"}`, `{"SECRET":1}`, `{"secret":"SECRET"}`, `{"secret":["SECRET"]}`, `{"secret":"SECRET"}SECRET`,
		`{"kind":"SECRET","secret":"x"}`, `{"secret":"x","fields":{"SECRET":"x"}}`, `{"secret":"SECRET\n"}`, "\xff",
	} {
		for route := range routes {
			f.Add(uint8(route), body)
		}
	}
	f.Fuzz(func(t *testing.T, route uint8, body string) {
		d := &desk{t: t, pool: d.pool, storage: d.storage}
		r := routes[int(route)%len(routes)]
		body = strings.ReplaceAll(body, "SECRET", canaryB)
		w := d.ask(r[0], r[1], body)
		if !slices.Contains([]int{200, 400, 404, 409, 413}, w.Code) || !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s %s %q gives %d %s", r[0], r[1], body, w.Code, w.Body)
		}
		if w.Code != 200 && strings.Contains(w.Body.String(), canaryB) {
			t.Errorf("%s %s quotes the body", r[0], r[1])
		}
	})
}

func TestAdmin_bodyThatBreaksOffIsRefused(t *testing.T) {
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/credential_pool/pools/x/rotate", io.NopCloser(brokenBody{}))
	if err := readBody(r, &struct{}{}, true); err == nil || strings.Contains(err.Error(), canaryA) {
		t.Errorf("error %v", err)
	}
}

type brokenBody struct{}

func (brokenBody) Read([]byte) (int, error) { return 0, errors.New(canaryA) }

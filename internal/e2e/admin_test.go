package e2e

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestAdmin_steersThePool(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, config{}, "work", "home", "spare")
	const pool = "/credential_pool/pools/api"

	var list struct {
		Pools []struct {
			Name, Provider, Active string
			Members                []member
		}
	}
	c.want(200, http.MethodGet, "/credential_pool/pools", "", &list)
	equal(t, "pools", len(list.Pools), 1)
	equal(t, "pool", []string{list.Pools[0].Name, list.Pools[0].Provider, list.Pools[0].Active}, "[api generic work]")
	equal(t, "member", list.Pools[0].Members[1], member{Name: "home", Position: 1, State: "ready", Kind: "static"})

	var rot struct {
		Pool, From, To string
		ParkedUntil    time.Time `json:"parked_until"`
	}
	c.want(200, http.MethodPost, pool+"/rotate", "", &rot)
	equal(t, "rotate", []string{rot.Pool, rot.From, rot.To}, "[api work home]")
	if left := time.Until(rot.ParkedUntil); left < 290*time.Second || left > 300*time.Second {
		t.Errorf("parked for %s, want 300s", left)
	}
	served(t, c.get("/"), "home")

	c.want(200, http.MethodPost, pool+"/rotate", `{"to":"spare","park_for":"1h"}`, &rot)
	equal(t, "rotate", []string{rot.From, rot.To}, "[home spare]")
	if left := time.Until(rot.ParkedUntil); left < 59*time.Minute || left > time.Hour {
		t.Errorf("parked for %s, want 1h", left)
	}
	c.want(200, http.MethodPost, pool+"/rotate", `{"to":"spare"}`, &rot) // it is active
	equal(t, "rotate", []string{rot.From, rot.To}, "[spare spare]")

	var m member
	c.want(200, http.MethodPost, pool+"/members/home/recover", "", &m)
	equal(t, "recovered", []string{m.Name, m.State}, "[home ready]")
	c.want(200, http.MethodPost, pool+"/members/spare/park", `{"for":"1h","reason":"invoice due"}`, &m)
	equal(t, "parked", []string{m.Name, m.State, m.Reason}, "[spare parked invoice due]")
	served(t, c.get("/"), "home") // the pointer moves at once
	c.want(404, http.MethodPost, pool+"/members/nobody/park", "", nil)
}

func TestFault_foreignRequestsOfTheAdminAPI(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, config{}, "work", "home")
	const rotate = "/credential_pool/pools/api/rotate"
	for name, change := range map[string]func(*http.Request){
		"host":   func(r *http.Request) { r.Host = "evil.example" },
		"origin": func(r *http.Request) { r.Header.Set("Origin", "https://evil.example"); r.Host = "evil.example" },
		"get":    func(r *http.Request) { r.Method = http.MethodGet },
		"head":   func(r *http.Request) { r.Method = http.MethodHead },
		"put":    func(r *http.Request) { r.Method = http.MethodPut },
		"a form of a web page": func(r *http.Request) {
			r.Header.Set("Origin", "https://evil.example")
			r.Header.Set("Sec-Fetch-Mode", "no-cors")
		},
	} {
		req := must(http.NewRequest(http.MethodPost, c.adminURL+rotate, nil))
		change(req)
		if a := c.do(req); a.status < 400 || a.status > 499 {
			t.Errorf("%s: got %d", name, a.status)
		}
	}
	equal(t, "active", c.active(), "work")
	c.is("work", "ready")
	equal(t, "notices", c.notices(), "[]")
}

func TestFault_everybodyIsParked(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, config{}, "work", "home")
	const members = "/credential_pool/pools/api/members/"
	c.want(200, http.MethodPost, members+"work/park", `{"for":"1h"}`, nil)
	c.want(200, http.MethodPost, members+"home/park", `{"for":"10m"}`, nil)
	equal(t, "status", c.get("/").status, 200) // a parked member is healthy
	c.is("work", "parked")
	c.is("home", "parked")
	for _, told := range c.notices() {
		if !strings.HasPrefix(told, "parked ") {
			t.Errorf("told %q", told)
		}
	}
}

func TestFault_rotateAPoolOfOne(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, config{}, "work")
	c.want(409, http.MethodPost, "/credential_pool/pools/api/rotate", "", nil)
	c.is("work", "ready")
	served(t, c.get("/"), "work")
	equal(t, "notices", c.notices(), "[]")
}

func TestFault_rotateTwiceAtOnce(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, config{}, "work", "home", "spare")
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() { c.want(200, http.MethodPost, "/credential_pool/pools/api/rotate", "", nil) })
	}
	both.Wait()
	equal(t, "active", c.active(), "spare")
	equal(t, "notices", c.notices(), "[rotated work>home operator rotated home>spare operator]")
	c.want(404, http.MethodPost, "/credential_pool/pools/api/rotate", `{"to":"nobody"}`, nil)
}

func TestFault_badRequestsOfTheAdminAPI(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home")
	c.start(config{members: "member work {env.KEY_work}\nmember home {env.KEY_home}\nmember away"})
	const (
		pool  = "/credential_pool/pools/api"
		creds = "/credential_pool/credentials/"
	)
	long := strings.Repeat("a", 4096)
	secret := c.canary()
	for _, tt := range []struct {
		code               int
		method, path, body string
		says               string
	}{
		{404, "GET", "/credential_pool/pools/nobody", "", "api"},
		{404, "POST", "/credential_pool/pools/nobody/rotate", "", "api"},
		{404, "POST", pool + "/members/nobody/park", "", "work"},
		{404, "POST", pool + "/members/nobody/recover", "", "work"},
		{404, "POST", pool + "/rotate", `{"to":"nobody"}`, "work"},
		{404, "GET", creds + "api/nobody", "", ""},
		{404, "DELETE", creds + "api/nobody", "", ""},
		{404, "GET", "/credential_pool/nothing", "", "/credential_pool/pools"},
		{404, "GET", "/credential_pool/", "", "/credential_pool/pools"},
		{404, "GET", "/credential_pool/pools/..%2F..%2F..%2Fetc%2Fpasswd", "", ""},
		{405, "POST", "/credential_pool/pools", "", ""},
		{405, "DELETE", pool, "", ""},
		{405, "GET", pool + "/rotate", "", ""},
		{405, "PATCH", creds + "api/away", "", ""},
		{405, "POST", "/credential_pool/notices", "", ""},
		{409, "POST", pool + "/members/away/recover", "", ""},
		{409, "POST", pool + "/rotate", `{"to":"away"}`, ""},
		{409, "PUT", creds + "api/work", `{"kind":"static","secret":"` + secret + `"}`, "config"},
		{400, "POST", pool + "/rotate", `{"to":`, ""},
		{400, "POST", pool + "/rotate", `[]`, ""},
		{400, "POST", pool + "/rotate", `"home"`, ""},
		{400, "POST", pool + "/rotate", `{"too":"home"}`, "to"},
		{400, "POST", pool + "/rotate", `{"to":"home"} {"to":"work"}`, ""},
		{400, "POST", pool + "/rotate", `{"park_for":"soon"}`, "duration"},
		{400, "POST", pool + "/rotate", `{"park_for":"-5m"}`, "duration"},
		{400, "POST", pool + "/rotate", `{"park_for":5}`, "duration"},
		{400, "POST", pool + "/members/work/park", `{"for":"1000000h"}`, "duration"},
		{400, "POST", pool + "/members/work/park", `{"for":"0s"}`, "duration"},
		{400, "POST", pool + "/members/work/park", `{"reason":"two\nlines"}`, "reason"},
		{400, "PUT", creds + "api/away", ``, ""},
		{400, "PUT", creds + "api/away", `{"kind":"static"}`, "secret"},
		{400, "PUT", creds + "api/away", `{"kind":"static","secret":""}`, "secret"},
		{400, "PUT", creds + "api/away", `{"kind":"magic","secret":"` + secret + `"}`, "kind"},
		{400, "PUT", creds + "api/away", `{"kind":"static","secret":"` + secret + `\r\nX: y"}`, ""},
		{400, "PUT", creds + "api/away", `{"kind":"static","secret":"` + secret + `","secrett":1}`, ""},
		{400, "PUT", creds + "api/away", `{"kind":"static","secret":["` + secret + `"]}`, ""},
		{400, "GET", "/credential_pool/notices?limit=-1", "", "limit"},
		{400, "GET", "/credential_pool/notices?limit=many", "", "limit"},
		// Names that a storage could take for something else.
		{400, "PUT", creds + "api/Acme", `{"kind":"static","secret":"` + secret + `"}`, "name"},
		{400, "PUT", creds + "Api/acme", `{"kind":"static","secret":"` + secret + `"}`, "name"},
		{400, "PUT", creds + "api/a%00b", `{"kind":"static","secret":"` + secret + `"}`, "name"},
		{400, "PUT", creds + "api/" + long, `{"kind":"static","secret":"` + secret + `"}`, "name"},
		{400, "PUT", creds + "api/a.b", `{"kind":"static","secret":"` + secret + `"}`, "name"},
		{400, "PUT", creds + "api/-a", `{"kind":"static","secret":"` + secret + `"}`, "name"},
		{400, "PUT", creds + "api/%C3%A4", `{"kind":"static","secret":"` + secret + `"}`, "name"},
		{400, "PUT", creds + "api/a%20b", `{"kind":"static","secret":"` + secret + `"}`, "name"},
		{400, "PUT", creds + "api/..%2F..%2Fx", `{"kind":"static","secret":"` + secret + `"}`, "name"},
	} {
		a := c.admin(tt.method, tt.path, tt.body)
		if a.status != tt.code || !strings.Contains(a.body, tt.says) || len(a.body) > 2000 {
			t.Errorf("%s %.60s %.40s: got %d %.300s, want %d that says %q", tt.method, tt.path, tt.body, a.status, a.body, tt.code, tt.says)
		}
		if tt.code == 405 && a.header.Get("Allow") == "" {
			t.Errorf("%s %s: no Allow", tt.method, tt.path)
		}
	}
	if a := c.admin(http.MethodPut, creds+"api/away", `{"secret":"`+strings.Repeat("x", 3<<20)+`"}`); a.status < 400 || a.status > 499 {
		t.Errorf("a body of 3 MiB: got %d", a.status)
	}
	equal(t, "active", c.active(), "work")
	equal(t, "notices", c.notices(), "[]")
	equal(t, "credentials", strings.TrimSpace(c.want(200, http.MethodGet, "/credential_pool/credentials", "", nil).body), `{"credentials":[]}`)
}

func TestFault_badNamesInTheConfig(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, config{}, "work")
	good := c.caddyfile(config{})
	for _, name := range []string{"../../x", "Acme", "a\x00b", strings.Repeat("a", 4096), "a.b", "ä", "-a", `""`, strings.Repeat("a", 64)} {
		for what, caddyfile := range map[string]string{
			"pool":   strings.NewReplacer("pool api {", "pool "+name+" {", "credential_pool api", "credential_pool "+name).Replace(good),
			"member": strings.Replace(good, "member work", "member "+name, 1),
			"client": strings.Replace(good, "client agent", "client "+name, 1),
		} {
			err := c.loadText(caddyfile)
			if err == nil || !strings.Contains(err.Error(), "name") || len(err.Error()) > 1000 {
				t.Errorf("%s %.20q: got %.300v, want a clear error", what, name, err)
			}
		}
	}
	longest := strings.Repeat("a", 63)
	if err := c.loadText(strings.Replace(good, "member work", "member "+longest, 1)); err != nil {
		t.Error(err)
	}
}

func TestAdmin_withoutAPool(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, config{}, "work")
	if err := c.loadText("{\nadmin " + c.address + "\nstorage file_system " + c.storage + "\n}\nhttp://127.0.0.1:" + c.port + " {\nrespond 200\n}"); err != nil {
		t.Fatal(err)
	}
	c.want(503, http.MethodGet, "/credential_pool/pools", "", nil)
	if err := c.load(config{}); err != nil {
		t.Fatal(err)
	}
	served(t, c.get("/"), "work")
}

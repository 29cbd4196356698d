package e2e

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

func TestCommand_eachOne(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home")
	c.start(config{members: c.vaulted()})
	says := func(what string, stdin string, args ...string) {
		t.Helper()
		out, err := c.pooled(stdin, args...)
		if err != nil || !strings.Contains(strings.Join(strings.Fields(out), " "), what) {
			t.Errorf("%s: got %v, %s; want it to say %q", strings.Join(args, " "), err, out, what)
		}
	}
	says("api work missing", "", "status")
	says("in the vault", c.secrets["work"]+"\n", "add", "api", "work")
	says("in the vault", c.secrets["home"], "add", "api", "home", "--field", "plan=team")
	served(t, c.get("/"), "work")
	says("api/home static", "", "list")
	says("plan", "", "list")
	says("api work active ready", "", "status")
	says("home is active; work is parked until", "", "rotate", "api", "--park-for", "1h")
	served(t, c.get("/"), "home")
	says("work is ready", "", "recover", "api", "work")
	says("work is active", "", "rotate", "api", "work")
	says("home is parked until", "", "park", "api", "home", "--for", "2h", "--reason", "invoice due")
	says("invoice due", "", "status", "api")
	says("invoice due", "", "notices")
	says("rotated", "", "notices", "--limit", "5")
	says("is removed", "", "remove", "api", "home")
	c.is("home", "missing")
}

func TestCommand_printsJSONForPrograms(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, config{}, "work", "home")
	for _, args := range [][]string{
		{"status"},
		{"status", "api"},
		{"rotate", "api"},
		{"park", "api", "work"},
		{"recover", "api", "work"},
		{"list"},
		{"notices"},
	} {
		out, err := c.pooled("", append(args, "--json")...)
		var answer map[string]any
		if err != nil || json.Unmarshal([]byte(out), &answer) != nil {
			t.Errorf("%v: %v, %s", args, err, out)
		}
	}
	out, err := c.pooled(c.account("other"), "add", "later", "on", "--json") // before its pool is configured
	if err != nil || !strings.Contains(out, `"name":"later/on"`) {
		t.Errorf("%v, %s", err, out)
	}
}

func TestCommand_saysWhatIsWrong(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, config{}, "work")
	for _, tt := range []struct {
		says string
		args []string
	}{
		{"api", []string{"status", "nobody"}},
		{"work", []string{"park", "api", "nobody"}},
		{"duration", []string{"park", "api", "work", "--for", "soon"}},
		{"", []string{"rotate", "api"}}, // a pool of one
		{"", []string{"rotate"}},
		{"", []string{"recover", "api"}},
		{"no secret", []string{"add", "api", "other"}},
		{"", []string{"nothing"}},
	} {
		out, err := c.pooled("", tt.args...)
		if err == nil || !strings.Contains(out, tt.says) || strings.TrimSpace(out) == "" {
			t.Errorf("%v: got %v, %q; want a failure that says %q", tt.args, err, out, tt.says)
		}
	}
	out, err := c.command("", "credential-pool", "status", "--address", "127.0.0.1:1")
	if err == nil || !strings.Contains(out, "127.0.0.1:1") {
		t.Errorf("without a Caddy: %v, %q", err, out)
	}
	if out, _ := c.pooled(c.canary(), "add", "api", "../x"); !strings.Contains(out, "name") {
		t.Errorf("a bad name: %q", out)
	}
	if out, _ := c.pooled(c.canary(), "add", "api", "work"); !strings.Contains(out, "config") {
		t.Errorf("an inline member: %q", out)
	}
}

func TestCommand_overAUnixSocket(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home")
	c.listenOnASocket()
	c.start(config{})
	if out, err := c.pooled("", "rotate", "api"); err != nil || !strings.Contains(out, "home is active") {
		t.Errorf("%v, %s", err, out)
	}
	served(t, c.get("/"), "home")
	c.want(200, http.MethodGet, "/credential_pool/pools", "", nil)
}

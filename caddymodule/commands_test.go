package caddymodule

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// command runs `caddy credential-pool` with these arguments, against the site.
func (s *site) command(stdin string, args ...string) (string, error) {
	s.t.Helper()
	root := &cobra.Command{Use: "credential-pool", SilenceErrors: true}
	addCommands(root)
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetIn(strings.NewReader(stdin))
	root.SetArgs(append(args, "--address", s.admin))
	err := root.ExecuteContext(s.t.Context())
	_, _ = io.WriteString(&s.seen, out.String())
	if err != nil {
		_, _ = io.WriteString(&s.seen, err.Error())
	}
	return out.String(), err
}

func TestCommands(t *testing.T) {
	u := newUpstream(t)
	s := openSite(t, u, "INFO")
	for _, tc := range []struct {
		stdin, args string
		want        string // in the output, or after "error: " in the error
	}{
		{"", "status", "missing"},
		{canaryA + "\n", "add POOL a --field account_id=" + canaryField, "POOL/a is in the vault"},
		{canaryB, "add POOL b --field account_id=" + canaryField, "POOL/b is in the vault"},
		{"", "add POOL b", "error: no secret was given"},
		{"x", "add POOL b --field x", "error: --field wants name=value"},
		{"", "list", "POOL/a"},
		{"", "status POOL", "active"},
		{"", "status nope", "error: there are: POOL"},
		{"", "rotate POOL", "b is active; a is parked until"},
		{"", "rotate POOL b", "b is active already"},
		{"", "rotate POOL a --park-for 1m", "a is active; b is parked until"},
		{"", "rotate POOL x", "error: there are: a, b"},
		{"", "park POOL a --for 1h --reason lunch", "a is parked until"},
		{"", "status POOL", "lunch"},
		{"", "recover POOL a", "a is ready"},
		{"", "notices --limit 1", "member_recovered"},
		{"", "status POOL --json", `"name":"POOL","provider":"generic"`},
		{"", "phantom POOL", "refresh_token  cpr_"},
		{"", "phantom POOL --json", `"account_id":"credential-pool:POOL","access_token":"ey`},
		{"", "phantom POOL --codex", `"auth_mode": "chatgpt"`},
		{"", "phantom POOL --codex --json", "error: exclude each other"},
		{"", "phantom nope", "error: there are: POOL"},
		{"", "phantom", "error: it is: caddy credential-pool phantom <pool>, or"},
		{"", "phantom --rotate", "are revoked"},
		{"", "phantom --rotate --json", `{"updated":"20`},
		{"", "phantom POOL --rotate", "error: name none"},
		{"", "remove POOL b", "POOL/b is removed"},
		{"", "remove POOL b", "error: no such credential"},
		{"", "rotate", "error: it is: caddy credential-pool rotate <pool> [<to>]"},
		{"", "status --jsn", "error: unknown flag: --jsn"},
	} {
		out, err := s.command(tc.stdin, strings.Fields(strings.ReplaceAll(tc.args, "POOL", s.pool))...)
		want := strings.ReplaceAll(tc.want, "POOL", s.pool)
		if failure, ok := strings.CutPrefix(want, "error: "); ok {
			if err == nil || !strings.Contains(err.Error(), failure) {
				t.Errorf("%s: error %v, want %s", tc.args, err, failure)
			}
		} else if err != nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v\n%s\nwant %s", tc.args, err, out, want)
		}
	}
	for _, form := range canaries() {
		if strings.Contains(s.seen.String(), form) {
			t.Error("a command shows a secret")
		}
	}
}

func TestCommands_allAreInTheReadme(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, reference, _ := strings.Cut(string(readme), "\n## Operate\n")
	reference, _, _ = strings.Cut(reference, "| route |")
	root := &cobra.Command{Use: "credential-pool"}
	addCommands(root)
	for _, cmd := range root.Commands() {
		if !regexp.MustCompile(`(?m)^caddy credential-pool ` + cmd.Name() + `\b`).MatchString(reference) {
			t.Errorf("the reference of the commands has no %s", cmd.Name())
		}
	}
}

func TestCommands_unknownOneFails(t *testing.T) {
	// Below a parent, as in Caddy, cobra would show the help and succeed.
	caddyCommand := &cobra.Command{Use: "caddy", SilenceErrors: true}
	pools := &cobra.Command{Use: "credential-pool"}
	addCommands(pools)
	caddyCommand.AddCommand(pools)
	for _, tc := range []struct{ args, want string }{
		{"credential-pool parkk openai work", "unknown command"},
		{"credential-pool", ""},
		{"credential-pool --help", ""},
	} {
		var out bytes.Buffer
		caddyCommand.SetOut(&out)
		caddyCommand.SetErr(&out)
		caddyCommand.SetArgs(strings.Fields(tc.args))
		err := caddyCommand.ExecuteContext(t.Context())
		if tc.want == "" && (err != nil || !strings.Contains(out.String(), "Available Commands")) {
			t.Errorf("%s: error %v, and the output is\n%s", tc.args, err, out.String())
		}
		if tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: error %v, want %s", tc.args, err, tc.want)
		}
	}
}

// standIn is an admin API that answers all alike.
func standIn(t *testing.T, listener net.Listener, code int, answer string) *site {
	t.Helper()
	server := &httptest.Server{
		Listener: listener,
		Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			_, _ = io.WriteString(w, answer)
		})},
	}
	server.Start()
	t.Cleanup(server.Close)
	return &site{t: t, admin: listener.Addr().String(), pool: "openai"}
}

func TestCommands_overAUnixSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "pool") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	listener, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	s := standIn(t, listener, 200, `{"name":"openai","members":[{"name":"work","state":"ready","active":true}]}`)
	s.admin = "unix/" + filepath.Join(dir, "s")
	if out, err := s.command("", "status", "openai"); err != nil || !strings.Contains(out, "work") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestCommands_jsonIsWhatTheAPISays(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	const answer = "{\"pools\": [ ],\n\"of a later version\":1}\n"
	s := standIn(t, listener, 200, answer)
	if out, err := s.command("", "status", "--json"); err != nil || out != answer {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestCommands_errorsSayWhatToDo(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := standIn(t, listener, 404, `{"error":"unknown pool \"x\"; there are: openai"}`)
	if _, err := s.command("", "status", "x"); err == nil || err.Error() != `unknown pool "x"; there are: openai` {
		t.Errorf("error %v", err)
	}
	if _, err := s.command("", "status", ""); err == nil || !strings.Contains(err.Error(), "empty") {
		t.Errorf("an empty name: error %v", err)
	}
	s.admin = freeAddress(t)
	_, err = s.command(canaryA, "add", "openai", "work")
	if err == nil || !strings.Contains(err.Error(), "is Caddy running") || !strings.Contains(err.Error(), s.admin) {
		t.Errorf("nobody listens: error %v", err)
	}
	if err != nil && strings.Contains(err.Error(), canaryA) {
		t.Error("the error holds the secret")
	}
}

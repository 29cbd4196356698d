package caddymodule

import (
	"bytes"
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
	s.seen.WriteString(out.String())
	if err != nil {
		s.seen.WriteString(err.Error())
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
		{"", "remove POOL b", "POOL/b is removed"},
		{"", "remove POOL b", "error: no such credential"},
		{"", "rotate", "error: accepts between 1 and 2 arg(s)"},
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

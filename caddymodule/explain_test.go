package caddymodule

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/credentialpool/caddy-credential-pool/pool/classify"
)

// runExplain runs `caddy credential-pool explain` without a Caddy.
func runExplain(t testing.TB, stdin string, args ...string) (string, error) {
	t.Helper()
	root := &cobra.Command{Use: "credential-pool", SilenceErrors: true}
	addCommands(root)
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetIn(strings.NewReader(stdin))
	root.SetArgs(append([]string{"explain"}, args...))
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestExplain_saysWhatTheAnswerMeans(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write([]byte(`{"error":{"code":"insufficient_quota"}}`))
	_ = z.Close()
	for name, tt := range map[string]struct {
		provider, endpoint, answer, want string
	}{
		"with a wait": {
			"generic", "", "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\n\r\nslow down",
			`{"meaning":"rate_limited","wait_seconds":7,"scope":"member","rule":"generic: `,
		},
		"without": {
			"openai", "", "HTTP/2 429 \r\ncontent-type: application/json\r\n\r\n" + `{"error":{"code":"insufficient_quota"}}`,
			`{"meaning":"quota_exhausted","wait_seconds":null,"scope":"member","rule":"openai: `,
		},
		"after interim answers, with framing that curl has undone": {
			"openai", "", "HTTP/1.1 200 Connection established\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n{}",
			`{"meaning":"auth_failed"`,
		},
		"a body that looks like another answer": {
			"generic", "", "HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 429 Too Many Requests\r\n\r\n", `{"meaning":"ok"`,
		},
		"compressed": {
			"openai", "", "HTTP/1.1 429 Too Many Requests\nContent-Encoding: gzip\n\n" + zipped.String(),
			`{"meaning":"quota_exhausted"`,
		},
		"a header that says compressed, though curl has undone it": {
			"openai", "", "HTTP/1.1 429 Too Many Requests\nContent-Encoding: gzip\n\n" + `{"error":{"code":"insufficient_quota"}}`,
			`{"meaning":"quota_exhausted"`,
		},
		"of a token endpoint": {
			"codex", "token", "HTTP/1.1 400 Bad Request\r\n\r\n" + `{"error":"invalid_grant"}`,
			`{"meaning":"auth_failed"`,
		},
		"the same words elsewhere": {
			"codex", "api", "HTTP/1.1 400 Bad Request\r\n\r\n" + `{"error":"invalid_grant"}`,
			`{"meaning":"request_error","wait_seconds":null,"scope":"request"`,
		},
		"a status alone": {"generic", "", "HTTP/1.1 200 OK\n\n", `{"meaning":"ok"`},
	} {
		args := []string{"--provider", tt.provider}
		if tt.endpoint != "" {
			args = append(args, "--endpoint", tt.endpoint)
		}
		out, err := runExplain(t, tt.answer, args...)
		if err != nil || !strings.HasPrefix(out, tt.want) || !json.Valid([]byte(out)) {
			t.Errorf("%s: %v, %s, want %s", name, err, out, tt.want)
		}
	}
}

func TestExplain_saysWhatIsWrong(t *testing.T) {
	for _, tt := range []struct {
		stdin, args, want string
	}{
		{"HTTP/1.1 429 x\n\n", "", "--provider is missing; known: anthropic"},
		{"HTTP/1.1 429 x\n\n", "--provider nobody", `provider: "nobody" is not known; known: anthropic`},
		{"HTTP/1.1 429 x\n\n", "--provider openai --endpoint login", `endpoint: "login" is neither api nor token`},
		{"", "--provider openai", "no HTTP response"},
		{"{}", "--provider openai", "no HTTP response"},
		{"HTTP/1.1\n\n", "--provider openai", "no HTTP response"},
		{"HTTP/1.1 4x9 x\n\n", "--provider openai", "no HTTP response"},
		{"HTTP/1.1 429 x\nnonsense\n\n", "--provider openai", "header can't be read"},
		{"", "--list --provider nobody", "is not known"},
		{"", "--provider openai x", "unknown command"},
	} {
		_, err := runExplain(t, tt.stdin, strings.Fields(tt.args)...)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q %s: %v, want %s", tt.stdin, tt.args, err, tt.want)
		}
	}
}

func TestExplain_listsEveryProviderAndRule(t *testing.T) {
	out, err := runExplain(t, "", "--list")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range classify.Names() {
		p, _ := classify.Lookup(name)
		if !strings.Contains(out, "\n"+name+"\n") && !strings.HasPrefix(out, name+"\n") {
			t.Errorf("%s is not listed", name)
		}
		for _, rule := range p.Rules {
			if !strings.Contains(out, "  "+rule.Name+": "+string(rule.Meaning)) {
				t.Errorf("rule %s of %s is not listed", rule.Name, name)
			}
		}
	}
	if one, err := runExplain(t, "", "--list", "--provider", "slack"); err != nil || !strings.HasPrefix(one, "slack\n") || strings.Contains(one, "github\n") {
		t.Errorf("%v: %s", err, one)
	}
}

func FuzzExplain(f *testing.F) {
	f.Add("HTTP/1.1 429 x\r\nRetry-After: 7\r\n\r\nbody")
	f.Add("HTTP/2 200 \n\nHTTP/2 401 \n\n{}")
	f.Fuzz(func(t *testing.T, answer string) {
		out, err := runExplain(t, answer, "--provider", "openai")
		if err == nil && !json.Valid([]byte(out)) {
			t.Errorf("no JSON: %s", out)
		}
	})
}

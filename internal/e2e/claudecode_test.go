package e2e

import "testing"

func TestClaudeCode_prints(t *testing.T) {
	t.Parallel()
	node, cli := onPath(t, "node"), fromNPM(t, "@anthropic-ai/claude-code/cli-wrapper.cjs")
	anthropicAPI.failsOver(t, func(t *testing.T, c *caddy) string { return c.claude(t, node, cli) })
}

// claude returns what Claude Code prints.
func (c *caddy) claude(t *testing.T, node, cli string) string {
	t.Helper()
	return c.program(
		"ANTHROPIC_BASE_URL="+c.url(""), "ANTHROPIC_AUTH_TOKEN="+c.phantom,
		"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1", "DISABLE_AUTOUPDATER=1", "DISABLE_TELEMETRY=1",
	).run(t, node, cli, "-p", "say hi")
}

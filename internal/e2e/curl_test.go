package e2e

import (
	"os/exec"
	"strings"
	"testing"
)

func TestCurl_overTLS(t *testing.T) {
	t.Parallel()
	curl := onPath(t, "curl")
	features := string(must(exec.CommandContext(t.Context(), curl, "--version").Output()))
	for _, version := range []string{"1.1", "2", "3"} {
		t.Run("HTTP "+version, func(t *testing.T) {
			t.Parallel()
			option := map[string]string{"1.1": "--http1.1", "2": "--http2", "3": "--http3-only"}[version]
			if version == "3" && !strings.Contains(features, " HTTP3") {
				t.Skip("left out, because this curl has no HTTP/3; the tests TestHTTP3 speak it")
			}
			for code, refuse := range refusals {
				t.Run(code, func(t *testing.T) {
					t.Parallel()
					c, url := startTLS(t)
					c.upstream.answer("work", refuse)
					told := c.program().run(t, curl, "--silent", "--show-error", "--verbose", "--fail-with-body", option,
						"--cacert", c.authority(), "--header", "Authorization: Bearer "+c.phantom, "--data", "a question",
						"--write-out", " with %{response_code} over %{http_version}", url+"/v1/chat")
					equal(t, "curl says", told, "served by home with 200 over "+version)
					c.failedOver(t, "POST /v1/chat", code)
				})
			}
		})
	}
}

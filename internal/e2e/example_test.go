package e2e

import (
	"net/http"
	"os"
	"strings"
	"testing"
)

func TestExample_showsAFailover(t *testing.T) {
	t.Parallel()
	c := newCaddy(t)
	example := string(must(os.ReadFile("../../Caddyfile.example")))
	demo := freePort(t)
	for _, port := range []string{"8080", "8081"} {
		if !strings.Contains(example, "127.0.0.1:"+port) {
			t.Fatalf("the example does not use port %s", port)
		}
	}
	c.launch("{\n\tadmin " + c.address + "\n" + strings.TrimPrefix(
		strings.NewReplacer("127.0.0.1:8080", "127.0.0.1:"+c.port, "127.0.0.1:8081", "127.0.0.1:"+demo).
			Replace(example[strings.Index(example, "\n{\n")+1:]), "{\n"))
	eventually(t, "the example serves", func() bool { return strings.Contains(c.log.since(), "serving initial configuration") })

	req := must(http.NewRequest(http.MethodGet, c.url("/v1/hello"), nil))
	req.Header.Set("Authorization", "Bearer demo-client-token")
	a := c.do(req)
	if a.status != http.StatusOK || !strings.Contains(a.body, "second account") {
		t.Errorf("got %d %s", a.status, a.body)
	}
	notices := c.want(200, http.MethodGet, "/credential_pool/notices", "", nil).body
	if !strings.Contains(notices, `Pool \"demo\" failed over from \"first\" to \"second\"`) {
		t.Errorf("told %s", notices)
	}
	status := c.want(200, http.MethodGet, "/credential_pool/pools/demo", "", nil).body
	if !strings.Contains(status, `"active":"second"`) || !strings.Contains(status, `"cooling"`) {
		t.Errorf("the status is %s", status)
	}
}

package e2e

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
)

// Every test's evidence is searched for secrets. This one sees to the places
// where a proxy is known to write headers down: its debug log, and its warning
// at the default level when a client leaves in mid-stream.
func TestFault_noSecretIsWrittenDown(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		quiet  bool
		inject string
	}{
		"at debug level":                 {false, ""},
		"at debug level, as a key":       {false, "inject header X-Api-Key {credential}"},
		"at the default level":           {true, ""},
		"at the default level, as a key": {true, "inject header X-Api-Key {credential}"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCaddy(t, "work", "home", "spare")
			c.setenv("IDENTITY", c.identity())
			_, _ = c.receiver(t)
			c.start(config{
				quiet: tt.quiet, pool: tt.inject,
				app:     "vault {\nidentity {env.IDENTITY}\n}\nnotify webhook {env.HOOK} {\nsecret {env.HOOK_SECRET}\n}",
				members: "member work\nmember home {env.KEY_home}\nmember spare {env.KEY_spare}",
				global:  "\tmetrics",
				server:  "\t\ttrace",
				handler: "log\nlog_append given {http.request.header.Authorization}\n" +
					"credential_pool api " + c.upstream.URL + " {\nclient agent {env.PHANTOM}\ntransport http {\nresponse_header_timeout 1s\n}\n}\n" +
					"handle_errors {\nrespond \"{err.message} {http.request.header.X-Api-Key}\"\n}",
			})
			c.put("work")

			stream := func(w http.ResponseWriter, r *http.Request) {
				for n := 0; r.Context().Err() == nil; n++ {
					event(w, n)
				}
			}
			c.upstream.answer("work", stream)
			for range 5 {
				ctx, cancel := context.WithCancel(t.Context())
				res, err := c.client.Do(c.request(http.MethodPost, "/", "a question").WithContext(ctx))
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.ReadFull(res.Body, make([]byte, 1000))
				cancel()
				_ = res.Body.Close()
			}
			c.upstream.answer("work", func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				for n := range 3 {
					event(w, n)
				}
				panic(http.ErrAbortHandler) // the upstream leaves in mid-stream
			})
			_, _ = c.try(c.request(http.MethodPost, "/", "a question"))
			c.upstream.answer("work", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
			equal(t, "a reset", c.do(c.request(http.MethodPost, "/", "a question")).status, 502)
			c.upstream.answer("work", func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
			})
			equal(t, "a timeout", c.do(c.request(http.MethodPost, "/", "a question")).status, 504)

			c.upstream.answer("work", func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Echo", c.secrets["work"])
				status429(w, r)
			})
			served(t, c.get("/?"+strings.Repeat("q=1&", 10)), "home")
			for _, command := range [][]string{{"status"}, {"status", "--json"}, {"list"}, {"list", "--json"}, {"notices"}, {"notices", "--json"}} {
				if out, err := c.pooled("", command...); err != nil {
					t.Errorf("%v: %v, %s", command, err, out)
				}
			}
			for _, account := range []string{"home", "spare"} {
				c.upstream.answer(account, status429)
			}
			equal(t, "exhausted", c.get("/").status, 429)
			for _, path := range []string{"/debug/pprof/goroutine?debug=2", "/debug/vars", "/reverse_proxy/upstreams", "/config/apps/credential_pool"} {
				c.want(200, http.MethodGet, path, "", nil)
			}
			eventually(t, "the webhook is told", func() bool { return c.metric(`notices_total{kind="exhausted",outcome="delivered"}`) == "1" })
			c.warned(t)
			if err := c.load(config{members: "member work\nmember home {env.KEY_home}{env.NOT_SET}"}); err == nil {
				t.Error("a broken config is loaded")
			}
		})
	}
}

// warned fails the test if the log does not hold the lines that it is about, so
// that the search is one for something that could be there.
func (c *caddy) warned(t *testing.T) {
	t.Helper()
	eventually(t, "reverse_proxy logs the headers", func() bool {
		log := string(c.log.all())
		return strings.Contains(log, "aborting with incomplete response") && strings.Contains(log, `"headers":{`)
	})
}

func TestEvidence_isComplete(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home")
	_, _ = c.receiver(t)
	c.start(config{app: "notify webhook {env.HOOK} {\nsecret {env.HOOK_SECRET}\n}"})
	c.upstream.answer("work", status429)
	served(t, c.get("/"), "home")
	c.program("TOLD=by a program").run(t, onPath(t, "sh"), "-c", `echo $TOLD | tee $HOME/file; echo $TOLD >&2`)
	if out, err := c.pooled("", "status"); err != nil {
		t.Fatal(err, out)
	}
	eventually(t, "the webhook is told", func() bool { return c.metric(`notices_total{kind="failover",outcome="delivered"}`) == "1" })
	c.end()
	for place, holds := range map[string]string{
		"the log":                    "upstream roundtrip",
		"a webhook":                  "failover",
		"the answer to GET /metrics": "caddy_credential_pool_requests_total",
		"the answer to GET /config/": "credential_pool",
		"the answer to GET /credential_pool/notices":       "failover",
		"the answer to GET /":                              "served by home",
		"the output of credential-pool status":             "cooling",
		"the output of sh":                                 "by a program",
		"the errors of sh":                                 "by a program",
		"the file /client/file":                            "by a program",
		"the file /config/caddy/autosave.json":             "credential_pool",
		"the file /storage/credential_pool/state/api.json": "cooling_until",
	} {
		found := false
		for p, seen := range c.places {
			found = found || (strings.HasPrefix(p, place) && strings.Contains(seen.String(), holds))
		}
		if !found {
			t.Errorf("%s does not hold %q", place, holds)
		}
	}
}

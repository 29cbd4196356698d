package classify_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/pool/classify"
)

// shapes are the ways in which upstreams quote a client's text.
var shapes = []string{
	"model: %s",
	"'%s' is not valid",
	"The model `%s` does not exist or you do not have access to it.",
	`Invalid JSON payload received. Unknown name "%s": Cannot find field.`,
	"Unexpected value(s) `%s` for the `x-beta` header",
	"extraneous key [%s] is not permitted",
	"Could not resolve to a Repository with the name 'x/%s'.",
	"“%s” is no model, and ‘%[1]s’ is none either",
	"`%s`",
	"[%s]",
	`"%s"`,
	"'%s'",
}

// quoting returns the bodies in which an API may say that.
func quoting(t *testing.T, message string, code any) []string {
	t.Helper()
	encode := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	type object = map[string]any
	return []string{
		encode(object{"type": "error", "error": object{"type": code, "code": code, "status": code, "message": message}}),
		encode(object{"message": message, "type": code, "__type": code}),
		encode(object{"code": code, "error": message}),
		encode(object{"detail": []any{object{"msg": message, "type": code}}}),
		encode(object{"data": nil, "errors": []any{object{"type": "NOT_FOUND", "message": message}}}),
		encode(object{"errors": []any{object{"message": message}}}),
		encode(object{"error": object{"message": "Provider returned error", "metadata": object{"raw": message}}}),
		message,
	}
}

// claim is a text with which a client would tell what no client can know, and the
// codes that would have to stand beside it.
type claim struct {
	text  string
	codes []any
}

func claims(p *classify.Provider) []claim {
	all := []claim{{"retry after 604800 seconds. Your quota will reset in 7 days", []any{nil, "rate_limit_exceeded", "RESOURCE_EXHAUSTED"}}}
	for _, text := range []string{"Limit 1, Requested 2", "request too large", "error code: 1015"} {
		all = append(all, claim{text, []any{nil, "rate_limit_exceeded"}})
	}
	for _, r := range p.Rules {
		codes := []any{nil, "invalid_request_error"}
		for _, code := range r.Codes {
			codes = append(codes, strings.Trim(code, "*"))
		}
		for _, words := range r.Words {
			all = append(all, claim{strings.TrimSpace(strings.ReplaceAll(words, "*", " t ")) + ", try again in 7 days", codes})
		}
	}
	return all
}

// An upstream's message quotes the client, who must not say anything about the
// account with it: the verdict is that of a harmless text in the same place.
func TestProviders_whatAClientSaysIsNoEvidence(t *testing.T) {
	const harmless = "gpt-x"
	for _, provider := range classify.Names() {
		p := lookup(t, provider)
		for _, claim := range claims(p) {
			for _, shape := range shapes {
				for _, code := range claim.codes {
					said := quoting(t, fmt.Sprintf(shape, claim.text), code)
					meant := quoting(t, fmt.Sprintf(shape, harmless), code)
					for i := range said {
						for _, status := range []int{200, 400, 401, 402, 403, 404, 429} {
							h := http.Header{"Content-Type": {"application/json"}, "X-Ratelimit-Resource": {"graphql"}, "X-Ratelimit-Remaining": {"9"}}
							a := classify.Answer{Status: status, Header: h, Body: []byte(said[i]), Now: now}
							got := p.Explain(a)
							a.Body = []byte(meant[i])
							if want := p.Explain(a); got != want {
								t.Fatalf("%s, status %d: %s\n got %+v\nwant %+v", provider, status, said[i], got, want)
							}
							isCode := code != nil && code != "invalid_request_error"
							if !isCode && slices.Contains([]int{200, 400, 404}, status) && got.Meaning.Benches() {
								t.Fatalf("%s, status %d: %s: %+v", provider, status, said[i], got)
							}
						}
					}
				}
			}
		}
	}
}

// Nor does it where it is not quoted at all, at a status that no limit has.
func TestProviders_whatAClientSaysWithoutQuotesIsNoEvidence(t *testing.T) {
	for _, provider := range classify.Names() {
		p := lookup(t, provider)
		for _, claim := range claims(p) {
			for _, message := range []string{claim.text, "The model " + claim.text + " does not exist", "Not found. " + claim.text} {
				for _, body := range quoting(t, message, nil) {
					for _, status := range []int{404, 405, 409, 413, 415, 422} {
						if f := p.Explain(classify.Answer{Status: status, Body: []byte(body), Now: now}); f.Meaning.Benches() {
							t.Errorf("%s, status %d: %s: %+v", provider, status, body, f)
						}
					}
				}
			}
		}
	}
}

// Nor within a sentence, at the statuses and with the codes of a limit.
func TestProviders_whatAClientSaysWithinASentenceIsNoEvidence(t *testing.T) {
	for _, provider := range classify.Names() {
		p := lookup(t, provider)
		for _, claim := range claims(p) {
			for _, form := range []string{"The model %s does not exist", "Not found. %s", "Argument: %s"} {
				for _, code := range claim.codes {
					said, meant := quoting(t, fmt.Sprintf(form, claim.text), code), quoting(t, fmt.Sprintf(form, "gpt-x"), code)
					for i := range said {
						for _, status := range []int{400, 401, 402, 403, 429} {
							got := p.Explain(classify.Answer{Status: status, Body: []byte(said[i]), Now: now})
							want := p.Explain(classify.Answer{Status: status, Body: []byte(meant[i]), Now: now})
							if got.Meaning.Benches() && got.Rule != want.Rule {
								t.Errorf("%s, status %d: %s\n got %+v\nwant %+v", provider, status, said[i], got, want)
							}
						}
					}
				}
			}
		}
	}
}

// What a limit says about the wait is not looked for in another error.
func TestExplain_waitsOfAnotherErrorDoNotCount(t *testing.T) {
	p := lookup(t, "gemini")
	for body, want := range map[string]time.Duration{
		`[{"error":{"message":"retry in 9s"}},{"error":{"status":"RESOURCE_EXHAUSTED","message":"retry in 5s"}}]`:            5 * time.Second,
		`[{"error":{"retryDelay":"9s","message":"x"}},{"error":{"status":"RESOURCE_EXHAUSTED","message":"x"}}]`:              0,
		`{"error":{"status":"RESOURCE_EXHAUSTED","details":[{"retryDelay":"7s"}]},"errors":[{"message":"try again in 9s"}]}`: 7 * time.Second,
	} {
		f := p.Explain(classify.Answer{Status: 403, Body: []byte(body), Now: now})
		if f.Meaning != pool.RateLimited || f.Wait != want {
			t.Errorf("%s: %+v, want a wait of %v", body, f, want)
		}
	}
}

// A limit that headers alone tell of says nothing about the failure in the body.
func TestExplain_aLimitByHeadersReadsNoMessage(t *testing.T) {
	h := http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"1772366460"}}
	a := classify.Answer{Status: 403, Header: h, Body: []byte(`{"message":"Resource not accessible, wait 7 days"}`), Now: now}
	if f := lookup(t, "github").Explain(a); f.Rule != "primary-limit" || f.Wait != time.Minute {
		t.Errorf("%+v", f)
	}
}

func TestNeedsBody_ofASuccess(t *testing.T) {
	own := lookup(t, "openai").With(classify.Rule{Meaning: pool.AuthFailed, Status: []int{200}, Body: []string{"please log in"}})
	for _, tt := range []struct {
		contentType, length string
		json, any           bool // a provider's small bodies, a user's rule
	}{
		{"", "", true, true},
		{"application/json", "", true, true},
		{"Application/JSON ; charset=utf-8", "65536", true, true},
		{"application/problem+json", "", true, true},
		{"application/json", "65537", false, false},
		{"application/json", "x", false, false},
		{"application/x-ndjson", "9", false, false},
		{"application/json-seq", "9", false, false},
		{"application/geo+json-seq", "9", false, false},
		{"application/stream+json", "9", false, false},
		{"application/jsonlines", "", false, false},
		{"text/event-stream", "9", false, false},
		{"text/html", "", false, false},
		{"text/html; charset=utf-8", "9", false, true},
		{"text/plain", "65537", false, false},
		{"application/octet-stream", "9", false, true},
	} {
		h := http.Header{}
		if tt.contentType != "" {
			h.Set("Content-Type", tt.contentType)
		}
		if tt.length != "" {
			h.Set("Content-Length", tt.length)
		}
		if got := lookup(t, "slack").NeedsBody(200, h); got != tt.json {
			t.Errorf("slack, %v: %v", h, got)
		}
		if got := own.NeedsBody(200, h); got != tt.any {
			t.Errorf("a user's rule, %v: %v", h, got)
		}
		f := own.Explain(classify.Answer{Status: 200, Header: h, Body: []byte("<p>Please log in</p>"), Now: now})
		if f.Served != (tt.any || own.NeedsEvents(200, h)) {
			t.Errorf("a user's rule, %v: %+v", h, f)
		}
	}
	// What was read for the user's rule is nothing for the provider's.
	f := own.Explain(classify.Answer{Status: 200, Body: []byte(`{"error":{"code":"insufficient_quota"}}`), Now: now})
	if f.Meaning != pool.OK {
		t.Errorf("%+v", f)
	}
}

func TestProvider_stripParams(t *testing.T) {
	for name, want := range map[string]string{
		"gemini": "key access_token", "slack": "token", "azure_openai": "subscription-key api-key", "openai": "",
		"bedrock": "X-Amz-Algorithm X-Amz-Credential X-Amz-Date X-Amz-Expires X-Amz-SignedHeaders X-Amz-Signature X-Amz-Security-Token",
	} {
		if got := strings.Join(lookup(t, name).StripParams, " "); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// A limit of a part of the API benches that part only if a request for it can be
// told.
func TestGithub_aKeyIsOneThatARequestHas(t *testing.T) {
	p := lookup(t, "github")
	paths := make(map[string]bool)
	for _, path := range []string{"/graphql", "/search/code", "/search/issues", "/user", "/repos/a/b/dependency-graph/snapshots"} {
		paths[p.Resource(path)] = true
	}
	for _, resource := range []string{
		"core", "search", "code_search", "graphql", "GraphQL", "integration_manifest", "dependency_snapshots", "dependency_sbom",
		"code_scanning_upload", "code_scanning_autofix", "actions_runner_registration", "scim", "source_import", "audit_log", "x", "",
	} {
		for _, status := range []int{200, 403, 429} {
			h := http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"1772366460"}, "X-Ratelimit-Resource": {resource}}
			f := p.Explain(classify.Answer{Status: status, Header: h, Now: now})
			if f.Meaning != pool.RateLimited || !paths[f.Key] || (f.Key == "") != (f.Scope == pool.ScopeMember) {
				t.Errorf("%s, status %d: %+v", resource, status, f)
			}
		}
	}
}

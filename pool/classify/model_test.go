package classify_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool/classify"
)

func TestModel(t *testing.T) {
	for body, want := range map[string]string{
		`{"model":"gpt-4o"}`:                                                       "gpt-4o",
		" \n{ \"model\" : \"gpt-4o\" }":                                            "gpt-4o",
		"\ufeff" + `{"model":"a"}`:                                                 "a",
		`{"model":"a","model":"b"}`:                                                "b",
		`{"model":[],"model":"b"}`:                                                 "b",
		`{"model":"a","x":{"model":"b"},"y":["model"]}`:                            "a",
		`{"a":"model","b":"x","model":"y"}`:                                        "y",
		`{"x":[{"model":"no"},"model",{"y":["z"]}],"model":"yes"}`:                 "yes",
		`{"messages":[{"content":"{\"model\":\"no\"}"}],"model":"claude-x","z":1}`: "claude-x",
		`{"mod\u0065l":"a\/\u0062\ud83d\ude00"}`:                                   "a/b😀",
		`{"model":""}`:                                                             "",
		`{"model":"a"}{"model":"b"}`:                                               "a",
		`{"model":"gpt-4o","messages":[`:                                           "gpt-4o",
		`{"model":"gpt-4o","messages":["`:                                          "gpt-4o",
		`{"model":"gpt-4o","model":"gpt-5`:                                         "gpt-4o",
		`{"model":"gpt-4o","model":`:                                               "gpt-4o",
		`{"model":"gpt-4o","stop":"\`:                                              "gpt-4o",
		`{"x":"` + strings.Repeat(`\\`, 99) + `","model":"a"}`:                     "a",
		`{"x":"` + strings.Repeat(`\"`, 99) + `","model":"a"}`:                     "a",
	} {
		if got, ok := classify.Model([]byte(body)); got != want || !ok {
			t.Errorf("%s: %q %v, want %q", body, got, ok, want)
		}
	}
	for _, body := range []string{
		``, `x`, `null`, `"model"`, `["model","a"]`, `[{"model":"a"}]`, `{}`, `{"model":1}`, `{"model":null}`, `{"model":{"model":"no"}}`,
		`{"model":["a"]}`, `{"model":"a","model":1}`, `{"model":"a","model":{}}`, `{"model":"a`, `{"model"`, `{"Model":"a"}`, `{"models":"a"}`,
		`{"x":{"model":"a"}}`, `{"messages":["`, `{"model":"` + strings.Repeat("x", 1<<20) + `"}`,
	} {
		if got, ok := classify.Model([]byte(body)); ok || got != "" {
			t.Errorf("%.99s: %q, want none", body, got)
		}
	}
}

// modelBodies are bodies that are made to cost much.
func modelBodies(size int) map[string]string {
	bodies := hostile(size)
	bodies["strings"] = `{"x":[` + strings.Repeat(`"",`, size/3)
	bodies["numbers"] = `{"x":[` + strings.Repeat(`1,`, size/2)
	bodies["models"] = `{` + strings.Repeat(`"model":"x",`, size/12)
	bodies["escaped keys"] = `{` + strings.Repeat(`"\u006dodel":"x",`, size/17)
	bodies["quotes"] = `{"x":"` + strings.Repeat(`\"`, size/2)
	bodies["rare escapes"] = `{"x":"` + strings.Repeat(strings.Repeat("a", 30)+`\n`, size/32)
	bodies["image"] = `{"x":"` + strings.Repeat("a", size) + `","model":"x"}`
	bodies["brackets"] = "{" + strings.Repeat("[]", size/2)
	return bodies
}

func TestModel_ofAHostileBodyCostsLittle(t *testing.T) {
	const limit = 8 * time.Millisecond * slowdown // of a machine that is busy
	for name, body := range modelBodies(1 << 20) {
		if took := best(limit, func() { classify.Model([]byte(body)) }); took > limit {
			t.Errorf("%s: takes %v", name, took)
		}
	}
}

func BenchmarkModel(b *testing.B) {
	for name, body := range modelBodies(1 << 20) {
		b.Run(name, func(b *testing.B) {
			text := []byte(body)
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				classify.Model(text)
			}
		})
	}
}

func FuzzModel(f *testing.F) {
	for _, seed := range []string{
		`{"model":"a","model":"b"}`, `{"a":[{"model":"no"}],"model":"yes"}`, `{"mod\u0065l":"\ud83d","x":1}`, `{"model":null}`,
		`{"x":"\\\"\\","model":"a"}`, strings.Repeat("[", 100), `{"model":"a","model":1}`, "{\"model\":\"\xff\"}",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		got, ok := classify.Model([]byte(body))
		var whole map[string]json.RawMessage
		if json.Unmarshal([]byte(body), &whole) != nil || len(whole["model"]) > 1000 {
			return
		}
		var want *string
		if json.Unmarshal(whole["model"], &want) != nil {
			want = nil
		}
		if ok != (want != nil) || want != nil && got != *want {
			t.Errorf("%s: %q %v", body, got, ok)
		}
		// Without its end, the body names that model, an earlier one, or none.
		if want != nil && strings.Count(body, "odel") == 1 && !strings.Contains(body, `\`) {
			for n := range body {
				if cut, ok := classify.Model([]byte(body[:n])); ok && cut != *want {
					t.Errorf("%s: %q", body[:n], cut)
				}
			}
		}
	})
}

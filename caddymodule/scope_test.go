package caddymodule

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestModel_inThePath(t *testing.T) {
	for path, want := range map[string]string{
		"": "", "/": "", "/v1/chat/completions": "", "/v1/models": "", "/v1/models/": "", "models": "",
		"/v1/models/gpt-4o": "gpt-4o",
		"/v1beta/models/gemini-2.5-pro:streamGenerateContent":                  "gemini-2.5-pro",
		"/v1/projects/p/locations/l/publishers/google/models/gemini-x:predict": "gemini-x",
		"/model/anthropic.claude-sonnet-4-20250514-v1:0/invoke":                "anthropic.claude-sonnet-4-20250514-v1",
		"/openai/deployments/my-gpt/chat/completions":                          "my-gpt",
	} {
		if got := modelInPath(path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

func TestModel_inTheBody(t *testing.T) {
	for body, want := range map[string]string{
		``: "", `x`: "", `null`: "", `"model"`: "", `["model","a"]`: "", `{}`: "", `{"model":1}`: "", `{"model":null}`: "",
		`{"model":"gpt-4o"}`: "gpt-4o",
		`{"max_tokens":1,"messages":[{"role":"user","content":"{\"model\":\"no\"}","model":"no"}],"tools":{"model":"no"},"model":"claude-x","z":1}`: "claude-x",
		`{"a":"model","b":"x","model":"y"}`: "y",
		`{"model":"gpt-4o","messages":[`:    "gpt-4o",
		`{"messages":["`:                    "",
		`{"model":"gpt-4`:                   "",
		`{"model":{"model":"no"}}`:          "",
		`{"model":[],"model":"b"}`:          "b",
	} {
		if got := modelInBody([]byte(body)); got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
}

func FuzzModelInBody(f *testing.F) {
	f.Add(`{"a":[{"model":"no"}],"model":"yes"}`)
	f.Add(strings.Repeat("[", 1000))
	f.Fuzz(func(t *testing.T, body string) {
		got := modelInBody([]byte(body))
		var whole map[string]json.RawMessage
		if json.Unmarshal([]byte(body), &whole) != nil {
			return
		}
		seen := 0
		dec := json.NewDecoder(strings.NewReader(body))
		for {
			token, err := dec.Token()
			if err != nil {
				break
			}
			if token == "model" {
				seen++
			}
		}
		var want string
		if seen == 1 && json.Unmarshal(whole["model"], &want) == nil && got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	})
}

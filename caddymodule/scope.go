package caddymodule

import (
	"bytes"
	"encoding/json"
	"strings"
)

// Some limits are of one model, or of one part of an API. What a request asks
// for is its scope key; see [pool.Pool.Acquire].

// maxModelBody bounds how much of a request's body is looked through for the
// model that it asks for.
const maxModelBody = 1 << 20

// modelInPath returns the model that a path names, as in
// /v1beta/models/gemini-2.5-pro:generateContent, /model/<id>/invoke or
// /openai/deployments/<name>/chat/completions; empty if it names none.
func modelInPath(path string) string {
	segments := strings.Split(path, "/")
	for i, segment := range segments[:len(segments)-1] {
		switch segment {
		case "models", "model", "deployments":
			name, _, _ := strings.Cut(segments[i+1], ":")
			return name
		}
	}
	return ""
}

// modelInBody returns the top-level "model" of a JSON body, of which the end may
// be missing; empty if there is none.
func modelInBody(body []byte) string {
	dec := json.NewDecoder(bytes.NewReader(body))
	depth, key, isKey := 0, "", false
	for {
		token, err := dec.Token()
		if err != nil {
			return ""
		}
		switch token := token.(type) {
		case json.Delim:
			switch token {
			case '{', '[':
				if depth++; depth == 1 && token == '[' {
					return ""
				}
			default:
				depth--
			}
			isKey = depth == 1
			if depth == 0 {
				return ""
			}
			continue
		case string:
			if depth == 1 && isKey {
				key, isKey = token, false
				continue
			}
			if depth == 1 && key == "model" {
				return token
			}
		}
		if depth == 0 {
			return ""
		}
		isKey = depth == 1
	}
}

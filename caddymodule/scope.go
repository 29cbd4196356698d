package caddymodule

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

// Some limits are of one model, or of one part of an API. What a request asks
// for is its scope key; see [pool.Pool.Acquire].

// maxModelBody bounds how much of a request's body is looked through for the
// model that it asks for.
const maxModelBody = 1 << 20

// scopeKey returns what the request asks for, as far as that can be told without
// its body; empty if it can't, or if it does not matter.
func (sp *servedPool) scopeKey(r *http.Request) string {
	if !sp.scoped {
		return ""
	}
	if sp.scope != "" {
		if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
			key := strings.ToLower(repl.ReplaceAll(sp.scope, ""))
			if strings.Contains(key, ":") {
				return key
			}
			return pool.ModelKey(key)
		}
	}
	if sp.provider.Resource != nil {
		return sp.provider.Resource(r.URL.Path)
	}
	return pool.ModelKey(modelInPath(r.URL.Path))
}

// readModel looks into the request's body for the model that it asks for, before
// the first attempt, if that decides who is asked. What is read is recorded.
func (x *exchange) readModel(req *http.Request, now time.Time) {
	if !x.pool.scoped || x.key != "" || x.recorder == nil || req.ContentLength > maxModelBody || !isJSON(req.Header) || !x.pool.Keyed(now) {
		return
	}
	body, err := x.recorder.attempt()
	if err != nil {
		return
	}
	// An error comes again when the attempt reads on.
	_, _ = io.CopyN(io.Discard, body, maxModelBody)
	x.key = pool.ModelKey(modelInBody(x.recorder.recorded(maxModelBody)))
}

// modelOf is the key of a request that was refused because of the model that it
// asks for, which is not known yet.
func (x *exchange) modelOf(req *http.Request) string {
	if x.key == "" && x.pool.scoped && x.recorder != nil && isJSON(req.Header) {
		x.key = pool.ModelKey(modelInBody(x.recorder.recorded(maxModelBody)))
	}
	return x.key
}

func isJSON(h http.Header) bool {
	return strings.HasPrefix(strings.ToLower(h.Get("Content-Type")), "application/json")
}

// modelInPath returns the model that a path names, as in
// /v1beta/models/gemini-2.5-pro:generateContent, /model/<id>/invoke or
// /openai/deployments/<name>/chat/completions; empty if it names none.
func modelInPath(path string) string {
	for {
		segment, rest, more := strings.Cut(path, "/")
		switch {
		case !more:
			return ""
		case segment == "models", segment == "model", segment == "deployments":
			name, _, _ := strings.Cut(rest, "/")
			name, _, _ = strings.Cut(name, ":")
			return name
		}
		path = rest
	}
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

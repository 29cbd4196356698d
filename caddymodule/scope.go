package caddymodule

import (
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/pool/classify"
)

// Some limits are of one model, or of one part of an API. What a request asks
// for is its scope key; see [pool.Pool.Acquire].

// maxModelBody bounds how much of a request's body is looked through for the
// model that it asks for.
const maxModelBody = 256 << 10

// scopeKey returns what the request asks for, as far as that can be told without
// its body; empty if it can't, or if it does not matter.
func (sp *servedPool) scopeKey(r *http.Request) string {
	if !sp.scoped {
		return ""
	}
	if sp.scope != "" {
		if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
			key := strings.ToLower(repl.ReplaceAll(sp.scope, ""))
			if strings.HasPrefix(key, "resource:") {
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
// the first attempt, if that decides who is asked. It returns what it has read.
func (x *exchange) readModel(req *http.Request, now time.Time) []byte {
	if !x.pool.scoped || x.key != "" || x.recorder != nil || x.pool.provider.Resource != nil ||
		req.Body == nil || !isJSON(req.Header) || !x.pool.Keyed(now) || !recordings.reserve(maxModelBody) {
		return nil
	}
	x.ahead = maxModelBody
	// An error comes again when the attempt reads on.
	start, _ := io.ReadAll(io.LimitReader(req.Body, maxModelBody))
	x.key = pool.ModelKey(modelInBody(start))
	return start
}

// modelOf is the key of a request that was refused because of the model that it
// asks for, which may not be known yet.
func (x *exchange) modelOf() string {
	if x.key == "" && x.pool.scoped && x.pool.provider.Resource == nil && x.recorder != nil {
		x.key = pool.ModelKey(modelInBody(x.recorder.recorded(maxModelBody)))
	}
	return x.key
}

func isJSON(h http.Header) bool {
	mediaType, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && mediaType == "application/json"
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
	name, _ := classify.Model(body)
	return name
}

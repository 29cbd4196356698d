package classify_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool/classify"
)

// FuzzClassify gives any answer to every provider.
func FuzzClassify(f *testing.F) {
	f.Add(200, "Retry-After: 1", []byte("{}"), false)
	f.Add(403, "Retry-After: 1", []byte(`{"code":"Insufficient_Quota"}`), true)
	f.Add(429, "Date: x", []byte(nil), false)
	f.Add(-1, "", []byte("\xff\x00"), false)
	f.Add(1, "Content-Type: text/event-stream", []byte("event: error\n"), false)
	for _, provider := range classify.Names() {
		for _, m := range load(f, provider) {
			a := m.answer()
			var header strings.Builder
			for name, values := range a.Header {
				header.WriteString(name + ": " + values[0] + "\n")
			}
			f.Add(a.Status, header.String(), a.Body, a.Endpoint == classify.EndpointToken)
		}
	}
	f.Fuzz(func(t *testing.T, status int, header string, body []byte, token bool) {
		a := classify.Answer{Status: status, Header: make(http.Header), Body: body, Now: now}
		for line := range strings.Lines(header) {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			a.Header.Add(name, value)
		}
		if token {
			a.Endpoint = classify.EndpointToken
		}
		kept := string(body)
		for _, provider := range classify.Names() {
			p := lookup(t, provider)
			start := time.Now()
			found := p.Explain(a)
			if took := time.Since(start); took > time.Second {
				t.Errorf("%s: took %v", provider, took)
			}
			if err := legal(a, found); err != nil {
				t.Errorf("%s: %v", provider, err)
			}
			if v := p.Classify(a); v != found.Verdict {
				t.Errorf("%s: classified as %+v, explained as %+v", provider, v, found.Verdict)
			}
			if token || p.NeedsBody(status, a.Header) || p.NeedsEvents(status, a.Header) {
				continue
			}
			bare := a
			bare.Body = nil
			if without := p.Explain(bare); without != found {
				t.Errorf("%s: %+v with the body, %+v without, but it is not needed", provider, found, without)
			}
		}
		if string(body) != kept {
			t.Error("the body was changed")
		}
	})
}

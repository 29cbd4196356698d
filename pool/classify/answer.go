package classify

import (
	"bytes"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

// Answer is what an upstream answered to one attempt.
type Answer struct {
	Status int

	// Header is in canonical form, as net/http gives it.
	Header http.Header

	// Body is the start of the body, without its Content-Encoding. It may be
	// cut off anywhere, and is empty if [Provider.NeedsBody] said that it is
	// not needed.
	Body []byte

	// Now is when the answer came. It counts where the answer does not say
	// its own time.
	Now time.Time
}

// NeedsBody reports whether an answer with this status and these headers
// cannot be judged without its body. What its status alone decides need not be
// read.
func (p *Provider) NeedsBody(status int, _ http.Header) bool {
	for i := range p.Rules {
		if rule := &p.Rules[i]; slices.Contains(rule.Status, status) {
			// A rule without a body condition decides, so those after it
			// are never asked.
			return len(rule.Body) > 0
		}
	}
	return false
}

// Classify says what the answer means for the member that made the attempt.
// The verdict's wait is at least a second if the answer gave one, at most
// 2^31 seconds, and 0 for a meaning that benches nobody. Its reason is the
// status.
func (p *Provider) Classify(a Answer) pool.Verdict {
	v := p.judge(a)
	v.Reason = reason(a.Status)
	if !v.Meaning.Benches() {
		return v
	}
	for _, source := range p.Waits {
		// "0" asks for no delay, but 0 in a verdict would be no evidence.
		if wait, ok := source.Find(a); ok {
			v.Wait = max(v.Wait, wait, time.Second)
		}
	}
	return v
}

// judge finds meaning and scope.
func (p *Provider) judge(a Answer) pool.Verdict {
	var body []byte // in lower case, once a rule asks for it
	for i := range p.Rules {
		rule := &p.Rules[i]
		if !slices.Contains(rule.Status, a.Status) {
			continue
		}
		if len(rule.Body) > 0 {
			if body == nil {
				body = lower(a.Body)
			}
			if !containsAny(body, rule.Body) {
				continue
			}
		}
		return pool.Verdict{Meaning: rule.Meaning, Scope: pool.ScopeMember}
	}

	switch status := a.Status; {
	// 1xx are no final answers, but for 101, which is a success.
	case status >= 100 && status < 400:
		return pool.Verdict{Meaning: pool.OK, Scope: pool.ScopeMember}
	case status >= 400 && status < 500:
		return pool.Verdict{Meaning: pool.RequestError, Scope: pool.ScopeRequest}
	default:
		// 5xx, or no status that HTTP knows: whatever it is, the member did
		// not cause it.
		return pool.Verdict{Meaning: pool.Overloaded, Scope: pool.ScopeProvider}
	}
}

// reason is the status as digits. The common one costs no allocation.
func reason(status int) string {
	if status == http.StatusOK {
		return "200"
	}
	return strconv.Itoa(status)
}

// lower returns a copy of body with ASCII letters in lower case. Unlike
// bytes.ToLower it costs the same for any content, and maps no other letters
// to ASCII.
func lower(body []byte) []byte {
	low := make([]byte, len(body))
	for i, c := range body {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		low[i] = c
	}
	return low
}

func containsAny(body []byte, texts []string) bool {
	return slices.ContainsFunc(texts, func(text string) bool {
		return bytes.Contains(body, []byte(text))
	})
}

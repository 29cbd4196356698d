package classify

import (
	"bytes"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

// Rule says what an answer means. All of its conditions must hold; where a
// condition lists several values, one of them must.
type Rule struct {
	// Name is the rule's name, unique among its provider's for an endpoint.
	Name string

	// Endpoint is the endpoint that the rule is about.
	Endpoint Endpoint

	// Status are the statuses that the rule is about. None: any failure, also
	// one that a 2xx reports in its body.
	Status []int

	// Header are conditions on the answer's headers.
	Header []HeaderIs

	// Codes are the error's code, type, status or reason, in any case. A *
	// at the beginning or the end stands for anything.
	Codes []string

	// Words are texts in the error's message, in lower case: the case of ASCII
	// letters does not matter. They are for errors that have no code of their
	// own.
	Words []string

	// Body are texts anywhere in the body, in lower case. They are for APIs
	// whose errors have no known shape.
	Body []string

	// Meaning is what the answer then means.
	Meaning pool.Meaning

	// Scope is how far it reaches; empty for what the meaning reaches as a rule.
	Scope pool.Scope

	// Wait is how long the provider documents to wait if the answer does not
	// say.
	Wait time.Duration

	// IgnoreWindows is true if the windows that the answer describes are of
	// another limit than the one that was hit.
	IgnoreWindows bool

	// Source is where the fact is documented, or was seen.
	Source string

	// Also is a further condition, in words.
	Also string

	// headerIf, bodyIf and key are for what data cannot say: the condition that
	// Also names, on the headers or on the body, and the key of ScopeModel.
	headerIf func(http.Header) bool
	bodyIf   func(*evidence) bool
	key      func(http.Header) string
}

// HeaderIs is a condition on one header of the answer.
type HeaderIs struct {
	// Name is the header's name, in canonical form.
	Name string

	// Values are what the header may hold, in any case. None: anything, but it
	// must be there.
	Values []string

	// Also is a further condition on what it holds, in words.
	Also string

	// value is that condition.
	value func(string) bool
}

func (c *HeaderIs) holds(h http.Header) bool {
	return slices.ContainsFunc(h[c.Name], func(value string) bool {
		return (len(c.Values) == 0 || containsFold(c.Values, strings.TrimSpace(value))) && (c.value == nil || c.value(value))
	})
}

// head reports whether the conditions that need no body hold.
func (r *Rule) head(status int, h http.Header) bool {
	if len(r.Status) > 0 && !slices.Contains(r.Status, status) {
		return false
	}
	for i := range r.Header {
		if !r.Header[i].holds(h) {
			return false
		}
	}
	return r.headerIf == nil || r.headerIf(h)
}

// needsBody reports whether there are other conditions than those of head.
func (r *Rule) needsBody() bool {
	return len(r.Codes) > 0 || len(r.Words) > 0 || len(r.Body) > 0 || r.bodyIf != nil
}

// body reports whether the conditions that need the body hold, and which of the
// rule's codes did. Codes and words may also stand in a header.
func (r *Rule) body(e *evidence) (code string, ok bool) {
	if len(r.Codes) > 0 {
		if code, ok = e.code(r.Codes); !ok {
			return "", false
		}
	}
	if len(r.Words) > 0 && !e.says(r.Words) {
		return "", false
	}
	if len(r.Body) > 0 && !containsAny(e.lowered(), r.Body) {
		return "", false
	}
	return code, r.bodyIf == nil || r.bodyIf(e)
}

// Conditions returns the rule's conditions in words, for people.
func (r *Rule) Conditions() string {
	var all []string
	if len(r.Status) > 0 {
		status := make([]string, len(r.Status))
		for i, s := range r.Status {
			status[i] = strconv.Itoa(s)
		}
		all = append(all, "status "+strings.Join(status, " or "))
	}
	for _, h := range r.Header {
		text := "header " + h.Name
		if len(h.Values) > 0 {
			text += " is " + strings.Join(h.Values, " or ")
		}
		if h.Also != "" {
			text += " " + h.Also
		}
		all = append(all, text)
	}
	for _, list := range []struct {
		what   string
		values []string
	}{{"code", r.Codes}, {"message with", r.Words}, {"body with", r.Body}} {
		if len(list.values) > 0 {
			all = append(all, list.what+" "+strings.Join(list.values, " or "))
		}
	}
	if r.Also != "" {
		all = append(all, r.Also)
	}
	return strings.Join(all, "; ")
}

// scopeOf returns what a meaning reaches as a rule.
func scopeOf(m pool.Meaning) pool.Scope {
	switch m {
	case pool.RequestError:
		return pool.ScopeRequest
	case pool.Overloaded:
		return pool.ScopeProvider
	default:
		return pool.ScopeMember
	}
}

// lower returns a copy of body with ASCII letters in lower case. Unlike
// bytes.ToLower it costs the same for any content, and maps no other letters
// to ASCII.
func lower(body []byte) []byte {
	low := make([]byte, len(body))
	for i, c := range body {
		low[i] = lowerByte(c)
	}
	return low
}

func lowerByte(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

func lowerAll(texts []string) []string {
	low := make([]string, len(texts))
	for i, text := range texts {
		low[i] = string(lower([]byte(text)))
	}
	return low
}

func containsAny(body []byte, texts []string) bool {
	return slices.ContainsFunc(texts, func(text string) bool {
		return bytes.Contains(body, []byte(text))
	})
}

func containsFold(list []string, value string) bool {
	return slices.ContainsFunc(list, func(one string) bool { return strings.EqualFold(one, value) })
}

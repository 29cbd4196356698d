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

	// Within is true if the rule is about a failure that a 2xx reports in its
	// body without a status, besides those of Status.
	Within bool

	// Header are conditions on the answer's headers.
	Header []HeaderIs

	// Codes are the error's code, type, status or reason, in any case. A *
	// at the beginning or the end stands for anything.
	Codes []string

	// Words are beginnings of the error's message, in lower case: the case of
	// ASCII letters does not matter. A * stands for a few words, at the beginning
	// for whatever precedes. They are for errors that have no code of their own.
	//
	// Upstreams quote their clients, so what a message quotes is left out first
	// (see unquoted), codes and words must be of one and the same error, and a
	// rule that benches must say at which statuses, and how the message begins.
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

	// MinWait is the shortest wait that can be about this limit. What the answer
	// says about a shorter one is about another limit.
	MinWait time.Duration

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
	key      func(*evidence) string

	// own is true for a rule of the user's.
	own bool
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
	if (len(r.Status) > 0 || r.Within) && !slices.Contains(r.Status, status) && (!r.Within || status != failedWithin) {
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

// match is what the conditions on the body found.
type match struct {
	code string // which of the rule's codes

	// part is the error that they hold about, of those that the answer reports;
	// everyPart if it is the answer as a whole.
	part int
}

// body reports whether the conditions that need the body hold, and about what.
// Codes and words may also stand in a header.
func (r *Rule) body(e *evidence) (m match, ok bool) {
	if m, ok = r.error(e); !ok {
		return m, false
	}
	if len(r.Body) > 0 {
		text := e.lowered
		if !r.own {
			text = e.loweredUnquoted
		}
		if !containsAny(text(), r.Body) {
			return m, false
		}
	}
	return m, r.bodyIf == nil || r.bodyIf(e)
}

// error finds the error that has one of the codes and one of the words.
func (r *Rule) error(e *evidence) (m match, ok bool) {
	if len(r.Codes)+len(r.Words) == 0 {
		return match{part: everyPart}, true
	}
	for part := range e.parts {
		m = match{part: part}
		if len(r.Codes) > 0 {
			if m.code, ok = e.code(part, r.Codes); !ok {
				continue
			}
		}
		if len(r.Words) == 0 || e.says(part, r.Words) {
			return m, true
		}
	}
	return match{}, false
}

// readsWaits reports whether the rule is about the error that the body tells of,
// so that its message can say how long to wait. The status of a rate limit is
// about nothing else; a rule by headers alone may hold while the request failed
// for another reason.
func (r *Rule) readsWaits(status int) bool {
	return r.needsBody() || status == http.StatusTooManyRequests || r.own && status >= 400
}

// Conditions returns the rule's conditions in words, for people.
func (r *Rule) Conditions() string {
	var all []string
	if len(r.Status) > 0 {
		status := make([]string, len(r.Status))
		for i, s := range r.Status {
			status[i] = strconv.Itoa(s)
		}
		if r.Within {
			status = append(status, "within a 2xx")
		}
		all = append(all, "status "+strings.Join(status, " or "))
	} else if r.Within {
		all = append(all, "within a 2xx")
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
	}{{"code", r.Codes}, {"message", phrases(r.Words)}, {"body with", r.Body}} {
		if len(list.values) > 0 {
			all = append(all, list.what+" "+strings.Join(list.values, " or "))
		}
	}
	if r.Also != "" {
		all = append(all, r.Also)
	}
	return strings.Join(all, "; ")
}

// phrases writes words for people.
func phrases(words []string) []string {
	all := make([]string, len(words))
	for i, word := range words {
		all[i] = strings.ReplaceAll(word, "*", "…") + "…"
	}
	return all
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

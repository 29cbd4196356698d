package classify

import (
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

// Finding is a verdict and what it rests on.
type Finding struct {
	pool.Verdict

	// Rule is the name of the rule that decided.
	Rule string

	// Source is where that rule's fact is documented.
	Source string

	// WaitFrom is the place in which the wait was found; empty if there is no
	// wait.
	WaitFrom string
}

// What the status alone says, if no rule does.
var (
	served      = Rule{Name: "served", Meaning: pool.OK, Source: "RFC 9110 section 15"}
	clientError = Rule{Name: "client-error", Meaning: pool.RequestError, Source: "RFC 9110 section 15.5"}
	serverError = Rule{Name: "server-error", Meaning: pool.Overloaded, Source: "RFC 9110 section 15.6"}
)

// Classify says what the answer means for the member that made the attempt.
// The verdict's wait is at least a second if the answer gave one, at most
// 2^31 seconds, and 0 for a meaning that benches nobody.
func (p *Provider) Classify(a Answer) pool.Verdict {
	if p.plain(a.Endpoint, a.Status, a.Header, len(a.Body) > 0) {
		return served.verdict(a.Status)
	}
	return p.explain(a).Verdict
}

// Explain is Classify with the reasons.
func (p *Provider) Explain(a Answer) Finding {
	if p.plain(a.Endpoint, a.Status, a.Header, len(a.Body) > 0) {
		return Finding{Verdict: served.verdict(a.Status), Rule: served.Name, Source: served.Source}
	}
	return p.explain(a)
}

// NeedsBody reports whether an answer with this status and these headers
// cannot be judged without its body. What its status or its headers alone
// decide need not be read. An answer of a token endpoint always needs its body.
func (p *Provider) NeedsBody(status int, h http.Header) bool {
	if succeeds(status) {
		return p.readsSuccess(status, h)
	}
	for _, rules := range p.asked(status) {
		for i := range rules {
			rule := &rules[i]
			if rule.Endpoint != EndpointAPI || !rule.head(status, h) {
				continue
			}
			// A rule without a condition on the body decides, so those after it
			// are never asked. But the wait may stand in the body.
			return rule.needsBody() || p.waitsInBody(rule, status)
		}
	}
	return false
}

// NeedsEvents reports whether the first event of this answer, a stream, may
// report a failure. It is to be judged, with that event as its body, before it
// is given back.
func (p *Provider) NeedsEvents(status int, h http.Header) bool {
	return p.Streams && status == http.StatusOK && isEventStream(h)
}

// plain reports whether an answer is a success in which nothing is to be looked
// for. It is the only thing that is asked about most answers.
func (p *Provider) plain(endpoint Endpoint, status int, h http.Header, body bool) bool {
	if !succeeds(status) {
		return false
	}
	if body && (endpoint == EndpointToken || p.NeedsBody(status, h) || p.NeedsEvents(status, h)) {
		return false
	}
	if endpoint == EndpointToken {
		return true
	}
	for i := range p.user {
		if p.user[i].listed(status, h) {
			return false
		}
	}
	return p.success(status, h) == nil
}

// succeeds reports whether the status is no failure. 1xx are no final answers,
// but for 101, which is a success.
func succeeds(status int) bool { return status >= 100 && status < 400 }

// listed reports whether a user's rule lists this status, and its headers hold.
func (r *Rule) listed(status int, h http.Header) bool {
	return len(r.Status) > 0 && r.head(status, h)
}

// readsSuccess reports whether the body of a success is to be read.
func (p *Provider) readsSuccess(status int, h http.Header) bool {
	if status < 200 {
		return false
	}
	if p.readsSmallBody(status, h) {
		return true
	}
	for i := range p.user {
		if r := &p.user[i]; r.needsBody() && r.listed(status, h) {
			return smallBody(h)
		}
	}
	return false
}

// readsSmallBody reports whether it is to be read for the provider's own rules.
func (p *Provider) readsSmallBody(status int, h http.Header) bool {
	return p.SmallBodies != nil && status >= 200 && status < 300 && small(h) && p.SmallBodies(h)
}

// success returns the rule that holds about an answer that was served.
func (p *Provider) success(status int, h http.Header) *Rule {
	if status < 200 {
		return nil
	}
	for i := range p.Success {
		if p.Success[i].head(status, h) {
			return &p.Success[i]
		}
	}
	return nil
}

// waitsInBody reports whether the wait that belongs to the rule may stand in
// the body.
func (p *Provider) waitsInBody(r *Rule, status int) bool {
	return r.readsWaits(status) && r.Meaning.Benches() && r.Meaning != pool.AuthFailed && slices.ContainsFunc(p.Waits, func(w Wait) bool { return w.inBody })
}

// asked returns the rules to ask about a failure, in order.
func (p *Provider) asked(status int) [2][]Rule {
	if status != failedWithin && (status < 400 || status >= 500) {
		return [2][]Rule{p.user, nil}
	}
	return [2][]Rule{p.user, p.Rules}
}

func (p *Provider) explain(a Answer) Finding {
	if a.Endpoint == EndpointToken {
		return p.explainToken(newEvidence(&a))
	}
	if !succeeds(a.Status) {
		return p.failure(newEvidence(&a))
	}
	if !p.NeedsBody(a.Status, a.Header) && !p.NeedsEvents(a.Status, a.Header) {
		a.Body = nil // what a success says is not for us
	}
	return p.explainSuccess(newEvidence(&a))
}

// explainSuccess judges an answer whose status is no failure.
func (p *Provider) explainSuccess(e *evidence) Finding {
	for i := range p.user {
		if r := &p.user[i]; r.listed(e.Status, e.Header) {
			if m, ok := r.body(e); ok {
				m.code = ""
				f := p.finding(e, r, m)
				f.Served = f.Meaning.Benches()
				return f
			}
		}
	}
	failed := p.finding(e, &served, match{part: everyPart})
	// A body that was read for a user's rule only is no failure otherwise.
	if e.failed && (p.readsSmallBody(e.Status, e.Header) || p.NeedsEvents(e.Status, e.Header)) {
		if failed = p.failure(e); failed.Meaning.Benches() {
			// A mutation may have run.
			failed.Served = e.partial
			return failed
		}
	}
	if r := p.success(e.Status, e.Header); r != nil {
		e.status = e.Status // the failure is another matter
		f := p.finding(e, r, match{part: everyPart})
		f.Served = f.Meaning.Benches()
		return f
	}
	return failed
}

// failure judges what is not a success.
func (p *Provider) failure(e *evidence) Finding {
	for _, rules := range p.asked(e.status) {
		for i := range rules {
			r := &rules[i]
			if r.Endpoint != EndpointAPI || !r.head(e.status, e.Header) {
				continue
			}
			if m, ok := r.body(e); ok {
				return p.finding(e, r, m)
			}
		}
	}
	return p.finding(e, byStatus(e.status), match{part: everyPart})
}

// explainToken judges an answer of a token endpoint.
func (p *Provider) explainToken(e *evidence) Finding {
	if succeeds(e.Status) && !e.failed {
		return p.finding(e, &served, match{part: everyPart})
	}
	if e.status < 500 {
		for _, rules := range [2][]Rule{p.Rules, tokenRules} {
			for i := range rules {
				r := &rules[i]
				if r.Endpoint != EndpointToken || !r.head(e.status, e.Header) {
					continue
				}
				if m, ok := r.body(e); ok {
					return p.finding(e, r, m)
				}
			}
		}
	}
	return p.finding(e, byStatus(e.status), match{part: everyPart})
}

// byStatus returns what the status alone says about a failure.
func byStatus(status int) *Rule {
	if status == failedWithin || status >= 400 && status < 500 {
		return &clientError
	}
	// 5xx, or no status that HTTP knows: whatever it is, the member did not
	// cause it.
	return &serverError
}

// finding makes the result of a rule that holds.
func (p *Provider) finding(e *evidence, r *Rule, m match) Finding {
	f := Finding{Verdict: r.verdict(e.Status), Rule: r.Name, Source: r.Source}
	// The status of a success does not tell anything of a failure within, and
	// that of a token endpoint less than OAuth's word for it.
	switch {
	case m.code != "" && (e.Status < 400 || e.Endpoint == EndpointToken):
		f.Reason = m.code
	case e.status != failedWithin:
		f.Reason = reason(e.status)
	}
	if f.Scope == pool.ScopeModel {
		if f.Key = r.key(e); f.Key == "" {
			f.Scope = pool.ScopeMember
		}
	}
	if f.Meaning.Benches() {
		e.part = m.part
		f.Wait, f.WaitFrom = p.wait(e, r)
	}
	return f
}

// verdict returns what the rule says, without a wait.
func (r *Rule) verdict(status int) pool.Verdict {
	scope := r.Scope
	if scope == "" {
		scope = scopeOf(r.Meaning)
	}
	return pool.Verdict{Meaning: r.Meaning, Scope: scope, Reason: reason(status)}
}

// wait returns how long to wait, and where that stands.
func (p *Provider) wait(e *evidence, r *Rule) (time.Duration, string) {
	// Whether a login works again does not depend on a window of requests, nor
	// on a time in the prose about it.
	lostLogin := r.Meaning == pool.AuthFailed
	body := p.waitsInBody(r, e.status)
	e.copies = body
	var waits [2]time.Duration // by rank
	var places [2]string
	for i := range p.Waits {
		w := &p.Waits[i]
		if w.Window && (r.IgnoreWindows || lostLogin) || w.inBody && !body {
			continue
		}
		wait, ok := w.find(e)
		if !ok || wait < r.MinWait {
			continue
		}
		rank := 0
		if w.Window {
			rank = 1
		}
		// "0" asks for no delay, but 0 in a verdict would be no evidence.
		if wait = max(min(wait, maxWait), time.Second); wait > waits[rank] {
			waits[rank], places[rank] = wait, w.Name
		}
	}
	switch {
	case waits[0] > 0:
		return waits[0], places[0]
	case waits[1] > 0:
		return waits[1], places[1]
	case r.Wait > 0:
		return r.Wait, "documentation"
	}
	return 0, ""
}

// reason is the status as digits. The common one costs no allocation.
func reason(status int) string {
	if status == http.StatusOK {
		return "200"
	}
	return strconv.Itoa(status)
}

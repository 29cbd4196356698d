package e2e

import (
	"fmt"
	"net/http"
	"sync"
	"time"
)

// attempt is a request as the upstream got it, and what it was answered.
type attempt struct {
	number  string // of all attempts, and in the answer's header
	account string
	fault   fault
	at      time.Time
}

// outcome is what the client was told of its request.
type outcome struct {
	method string
	status int    // 0 if there was no answer
	number string // of the attempt that was answered
	err    error  // the answer, or its body, did not come to its end
	left   bool   // it was the client that ended it
	began  time.Time
	ended  time.Time
}

// replacement is when an account's credential was put anew.
type replacement struct {
	account      string
	began, ended time.Time
}

// ledger holds every request from both sides: what the upstream gave, and what
// the client got.
type ledger struct {
	mu       sync.Mutex
	attempts map[int][]attempt // by request
	outcomes map[int]outcome
	refusals map[string][]time.Time // by account
	puts     []replacement
	numbers  int
}

func newLedger() *ledger {
	return &ledger{attempts: make(map[int][]attempt), outcomes: make(map[int]outcome), refusals: make(map[string][]time.Time)}
}

// enter notes an attempt, and what it will be answered by the plan.
func (l *ledger) enter(id int, account string, plan func(id, n int) fault) attempt {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.numbers++
	a := attempt{fmt.Sprint(l.numbers), account, plan(id, len(l.attempts[id])), time.Now()}
	l.attempts[id] = append(l.attempts[id], a)
	if a.fault.refuses() {
		l.refusals[account] = append(l.refusals[account], a.at)
	}
	return a
}

func (l *ledger) close(id int, o outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.outcomes[id] = o
}

func (l *ledger) replaced(r replacement) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.puts = append(l.puts, r)
}

// repeats counts the attempts at a request that net/http made on its own: it
// repeats a GET whose connection broke before an answer.
func repeats(o outcome, attempts []attempt) (n int) {
	for i, a := range attempts {
		if i+1 < len(attempts) && a.fault == reset && o.method == http.MethodGet {
			n++
		}
	}
	return n
}

// explain returns what is wrong with a request; nothing if what the client got
// is what the upstream gave, and every attempt before was one that had to be
// repeated.
func (l *ledger) explain(id int, accounts []string) string {
	o, attempts := l.outcomes[id], l.attempts[id]
	if len(attempts) == 0 {
		if o.status == 0 && o.err != nil { // cut by a reload, before it was taken
			return ""
		}
		return "the client was answered, but the upstream not asked"
	}
	for i, a := range attempts[:len(attempts)-1] {
		if !a.fault.refuses() && (a.fault != reset || o.method != http.MethodGet) {
			return fmt.Sprintf("attempt %d was repeated after %s", i, a.fault)
		}
		for _, b := range attempts[i+1:] {
			if a.fault.refuses() && b.account == a.account && !l.replacedIn(a.account, o) {
				return "an account was tried twice"
			}
		}
	}
	last := attempts[len(attempts)-1]
	if wrong := l.compare(o, last); wrong != "" {
		return wrong
	}
	if last.fault.refuses() {
		return l.mustBePassedOn(o, attempts, accounts)
	}
	return ""
}

// compare returns how the client's answer differs from the one that was given.
func (l *ledger) compare(o outcome, given attempt) string {
	switch {
	case given.fault == reset:
		if o.status != http.StatusBadGateway {
			return fmt.Sprintf("a reset became %d", o.status)
		}
		return ""
	case o.status == 0:
		return "the answer was lost"
	case o.status != given.fault.status() || o.number != given.number:
		return fmt.Sprintf("the client got %d of attempt %q, and not the answer to the last attempt", o.status, o.number)
	case given.fault == cut && o.err == nil:
		return "a cut stream seems whole"
	case given.fault != cut && o.err != nil && !o.left:
		return "a whole answer was cut"
	}
	return ""
}

// bench is how long each refusal benches.
const bench = time.Second

// mustBePassedOn returns what is wrong with a refusal that the client got: every
// other account has to have been refused lately.
func (l *ledger) mustBePassedOn(o outcome, attempts []attempt, accounts []string) string {
	const slack = 2 * time.Second // for a machine that is busy
	tried := make(map[string]bool)
	for _, a := range attempts {
		tried[a.account] = true
	}
	last := attempts[len(attempts)-1].at
	for _, account := range accounts {
		benched := tried[account]
		for _, at := range l.refusals[account] {
			benched = benched || (at.After(last.Add(-bench-slack)) && at.Before(o.ended))
		}
		if !benched {
			return "a refusal reached the client although " + account + " was ready"
		}
	}
	return ""
}

// replacedIn reports whether the account's credential was replaced while the
// request was made: then it is another one, and may be tried again.
func (l *ledger) replacedIn(account string, o outcome) bool {
	for _, r := range l.puts {
		// A config that is loaded meanwhile sees it at its next look at the vault.
		if r.account == account && r.began.Before(o.ended) && r.ended.After(o.began.Add(-10*time.Second)) {
			return true
		}
	}
	return false
}

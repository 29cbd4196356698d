package classify

import (
	"net/http"
	"time"
)

// Endpoint is what kind of endpoint gave an answer.
type Endpoint string

// The endpoints. The words of OAuth 2 mean that the credential is lost only
// where the credential itself was sent to be refreshed.
const (
	EndpointAPI   Endpoint = ""
	EndpointToken Endpoint = "token"
)

// Answer is what an upstream answered to one attempt.
type Answer struct {
	// Endpoint is [EndpointAPI] unless it is given.
	Endpoint Endpoint

	Status int

	// Header is in canonical form, as net/http gives it.
	Header http.Header

	// Body is the start of the body, without its Content-Encoding. It may be
	// cut off anywhere, and what lies beyond 64 KiB is not looked at. It may be
	// empty if neither [Provider.NeedsBody] nor [Provider.NeedsEvents] asked
	// for it. Of an event stream it holds the first event or events.
	Body []byte

	// Now is when the answer came. It counts where the answer does not say
	// its own time. Points in time are not understood if neither is given.
	Now time.Time
}

// now returns the time by the clock of the answer's sender, if it is known.
func (a *Answer) now() (time.Time, bool) {
	if date := a.Header["Date"]; len(date) > 0 {
		if t, err := http.ParseTime(date[0]); err == nil {
			return t, true
		}
	}
	return a.Now, !a.Now.IsZero()
}

// until returns how long after the answer t is. A time in the past says
// nothing.
func (a *Answer) until(t time.Time) (time.Duration, bool) {
	now, ok := a.now()
	if !ok || t.Before(now) {
		return 0, false
	}
	// Sub saturates, so a date in year 9999 does not overflow.
	return min(t.Sub(now), maxWait), true
}

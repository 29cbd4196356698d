package caddymodule

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync"
)

// maxInterim bounds how many interim answers of one attempt are held.
const maxInterim = 16

// interim is the context of one attempt. It holds the attempt's 1xx answers back
// until the attempt is given back to the client, and hides the trace of the
// server's side: its hooks would be given the header that holds the credential.
type interim struct {
	context.Context
	trace httptrace.ClientTrace
	outer *httptrace.ClientTrace

	mu   sync.Mutex
	held []interimAnswer
}

type interimAnswer struct {
	code   int
	header textproto.MIMEHeader
}

func newInterim(ctx context.Context) *interim {
	i := &interim{Context: ctx, outer: httptrace.ContextClientTrace(ctx)}
	i.trace.Got1xxResponse = i.got
	return i
}

// Value returns our trace in place of the other one, whose key is net/http's
// own.
func (i *interim) Value(key any) any {
	v := i.Context.Value(key)
	if _, ok := v.(*httptrace.ClientTrace); ok {
		return &i.trace
	}
	return v
}

func (i *interim) got(code int, header textproto.MIMEHeader) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.held) < maxInterim {
		i.held = append(i.held, interimAnswer{code, header})
	}
	return nil
}

// forward passes the answers on, cleaned.
func (i *interim) forward(clean func(http.Header)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.outer == nil || i.outer.Got1xxResponse == nil {
		return
	}
	for _, a := range i.held {
		clean(http.Header(a.header))
		if i.outer.Got1xxResponse(a.code, a.header) != nil {
			return
		}
	}
}

package caddymodule

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync"
)

// attemptContext hides the trace of the server's side: its hooks would be
// given the header that holds the credential.
type attemptContext struct {
	context.Context
	trace *httptrace.ClientTrace
}

// Value returns our trace in place of the other one, whose key is net/http's
// own.
func (c *attemptContext) Value(key any) any {
	v := c.Context.Value(key)
	if _, ok := v.(*httptrace.ClientTrace); ok {
		return c.trace
	}
	return v
}

// maxInterim bounds how many interim answers of one attempt are held.
const maxInterim = 16

// interim holds the 1xx answers of one attempt back until the attempt is given
// back to the client.
type interim struct {
	trace httptrace.ClientTrace
	outer *httptrace.ClientTrace

	mu   sync.Mutex
	held []interimAnswer
}

type interimAnswer struct {
	code   int
	header textproto.MIMEHeader
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

package caddymodule

import (
	"context"
	"crypto/sha256"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
)

// mailboxes outlive a config: a webhook of the next one that has the same URL and
// secrets goes on with what waits.
var mailboxes = caddy.NewUsagePool()

// mailbox holds the notices that wait to be delivered to one receiver.
type mailbox struct {
	queue      chan Notice
	overflowed atomic.Int64 // notices dropped since the last delivery

	// turn lets one webhook deliver at a time, so that the order holds, and guards
	// returned, which a webhook has left to the next one.
	turn     chan struct{}
	returned *Notice

	// webhooks counts those that were started and not stopped.
	webhooks atomic.Int64
}

// Destruct implements [caddy.Destructor].
func (*mailbox) Destruct() error { return nil }

// mailboxKey names a mailbox without holding what it is for.
func mailboxKey(target string, secrets []string) [sha256.Size]byte {
	return sha256.Sum256([]byte(target + "\n" + strings.Join(secrets, "\n")))
}

// openMailbox returns the mailbox of that key. It is to be closed with
// [caddy.UsagePool.Delete].
func openMailbox(key [sha256.Size]byte) (*mailbox, error) {
	m, _, err := mailboxes.LoadOrNew(key, func() (caddy.Destructor, error) {
		return &mailbox{queue: make(chan Notice, webhookQueue), turn: make(chan struct{}, 1)}, nil
	})
	if err != nil {
		return nil, err
	}
	return m.(*mailbox), nil
}

// take waits for the webhook's turn to deliver until the context ends. It reports
// whether it has come, and then release is to be called.
func (m *mailbox) take(ctx context.Context) bool {
	select {
	case m.turn <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// release leaves the turn to another webhook, if there is one.
func (m *mailbox) release() { <-m.turn }

// next waits for a notice until the context ends. It reports whether there is
// one: after that, only what is already there counts.
func (m *mailbox) next(ctx context.Context) (Notice, bool) {
	if n := m.returned; n != nil {
		m.returned = nil
		return *n, true
	}
	select {
	case n := <-m.queue:
		return n, true
	case <-ctx.Done():
	}
	select {
	case n := <-m.queue:
		return n, true
	default:
		return Notice{}, false
	}
}

// drain empties the queue for a webhook that stops and never had its turn.
func (m *mailbox) drain() []Notice {
	var notices []Notice
	for {
		select {
		case n := <-m.queue:
			notices = append(notices, n)
		default:
			return notices
		}
	}
}

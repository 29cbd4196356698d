package caddymodule

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func init() {
	caddy.RegisterModule(new(Webhook))
}

const (
	// webhookQueue bounds the notices that wait to be delivered.
	webhookQueue = 1000

	// webhookAttempts is after how many attempts a notice is given up. With the
	// waits between them, that is after about 20 minutes.
	webhookAttempts  = 12
	webhookFirstWait = time.Second
	webhookMaxWait   = 5 * time.Minute

	// webhookMaxRetryAfter bounds what a receiver may say about the wait.
	webhookMaxRetryAfter = time.Hour

	// webhookTimeout bounds one attempt.
	webhookTimeout = 15 * time.Second

	// webhookDrain is how much of an answer is read to keep the connection.
	webhookDrain = 64 << 10
)

// Bounds of a secret's bytes, from the specification of Standard Webhooks.
const (
	webhookMinSecret = 24
	webhookMaxSecret = 64

	webhookKeyForm = `"whsec_" and the base64 of 24 to 64 random bytes, as made by: echo "whsec_$(openssl rand -base64 32)"`
)

// Webhook posts each notice as JSON to a URL, signed as Standard Webhooks
// (https://www.standardwebhooks.com) say, so that any of their libraries can
// verify it.
//
// A delivery has succeeded when the receiver answers with a status of 2xx. Any
// other answer, a redirect too, or none within 15 seconds is a failure, and the
// notice is sent again: after 1 second at first, then after twice as long each
// time, up to 5 minutes, or after what Retry-After says, up to an hour. It is
// given up after 12 attempts, or when the receiver answers 410 (Gone). Every
// attempt has the same webhook-id, which is the notice's id, and a
// webhook-timestamp of its own. Notices are delivered in order, and up to 1,000
// wait; beyond that the oldest are dropped. If Caddy loads another configuration
// with the same webhook, that one goes on with what waits. If not, or when Caddy
// stops, it is tried once more, for 5 seconds altogether.
//
// The URL is treated as a secret: logs name a webhook by the first 8 digits of
// the SHA-256 of its URL.
type Webhook struct {
	// Where to post notices: an http or https URL, or placeholders for it such
	// as `{env.WEBHOOK_URL}`. Required.
	URL string `json:"url,omitempty"`

	// Secrets that sign each notice, as placeholders such as
	// `{env.WEBHOOK_SECRET}`. Each is `whsec_` and the base64 of 24 to 64 random
	// bytes. With several, each one signs, so that a receiver can move from one
	// to the next. At least one is required.
	Secrets []string `json:"secret,omitempty"`

	target    string // the URL after expansion
	redaction *strings.Replacer
	signers   []*standardwebhooks.Webhook
	client    *http.Client
	logger    *zap.Logger

	key     [sha256.Size]byte // of the mailbox
	mailbox *mailbox

	// stopping ends the waits between attempts, sending the attempts themselves.
	// replaced, of which stopping tells, is true if another webhook goes on.
	replaced                 bool
	stopping, sending        context.Context
	stopWaiting, stopSending context.CancelFunc
	done                     chan struct{}
}

// CaddyModule returns the Caddy module information.
func (*Webhook) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "credential_pool.notifiers.webhook",
		New: func() caddy.Module { return new(Webhook) },
	}
}

// Provision sets up the webhook. Nothing is sent before Start.
func (w *Webhook) Provision(ctx caddy.Context) error {
	if err := w.expandURL(); err != nil {
		return fmt.Errorf("url: %w", err)
	}
	if err := w.expandSecrets(); err != nil {
		return fmt.Errorf("secret: %w", err)
	}
	sum := sha256.Sum256([]byte(w.target))
	w.logger = ctx.Logger().With(zap.String("webhook", hex.EncodeToString(sum[:4])))
	w.client = &http.Client{
		// A connection pool of its own, so that Stop can close it.
		Transport: http.DefaultTransport.(*http.Transport).Clone(),
		// A redirect could take a notice to a place that the operator did not name.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	var err error
	w.mailbox, err = openMailbox(w.key)
	return err
}

// Cleanup gives back what Provision has taken.
func (w *Webhook) Cleanup() error {
	if w.mailbox == nil {
		return nil
	}
	_, err := mailboxes.Delete(w.key)
	return err
}

// expandURL checks the URL. Its errors never hold it.
func (w *Webhook) expandURL() error {
	target, err := expand(caddy.NewReplacer(), w.URL)
	if err != nil {
		return err
	}
	u, err := url.Parse(target)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		return errors.New("it must be an http or https URL with a host")
	}
	w.target = target
	w.redaction = redactionOf(target, u)
	return nil
}

// redactionOf takes a URL out of texts, and the parts of it that errors of the
// network name.
func redactionOf(target string, u *url.URL) *strings.Replacer {
	const instead = "[webhook]"
	parts := []string{target, instead}
	for _, p := range []string{u.RequestURI(), u.EscapedPath(), u.Path, u.Host, u.Hostname()} {
		if len(p) > 1 {
			parts = append(parts, p, instead)
		}
	}
	return strings.NewReplacer(parts...)
}

// expandSecrets makes a signer of each secret. Its errors never hold one.
func (w *Webhook) expandSecrets() error {
	if len(w.Secrets) == 0 {
		return errors.New("at least one is required, " + webhookKeyForm)
	}
	secrets := make([]string, len(w.Secrets))
	w.signers = make([]*standardwebhooks.Webhook, len(w.Secrets))
	for i, raw := range w.Secrets {
		secret, err := expandSecret(raw)
		if err != nil {
			return fmt.Errorf("number %d: %w", i+1, err)
		}
		secrets[i] = secret
		encoded, prefixed := strings.CutPrefix(secret, "whsec_")
		key, err := base64.StdEncoding.DecodeString(encoded)
		if !prefixed || err != nil || len(key) < webhookMinSecret || len(key) > webhookMaxSecret {
			return fmt.Errorf("number %d: it must be %s", i+1, webhookKeyForm)
		}
		if w.signers[i], err = standardwebhooks.NewWebhookRaw(key); err != nil {
			return fmt.Errorf("number %d: %w", i+1, err)
		}
	}
	w.key = mailboxKey(w.target, secrets)
	return nil
}

// Start begins to deliver, as soon as no webhook of an earlier config does.
func (w *Webhook) Start() {
	w.mailbox.webhooks.Add(1)
	w.stopping, w.stopWaiting = context.WithCancel(context.Background())
	w.sending, w.stopSending = context.WithCancel(context.Background())
	w.done = make(chan struct{})
	go w.run()
}

// Notify queues a notice.
func (w *Webhook) Notify(n Notice) {
	pushOut(w.mailbox.queue, n, func(old Notice) {
		counters.notice(old.Kind, outcomeDropped)
		if w.mailbox.overflowed.Add(1) == 1 {
			w.logger.Warn("webhook queue is full; dropping the oldest notices until one is delivered",
				zap.Int("queued", webhookQueue))
		}
	})
}

// Stop leaves what is queued to the webhook that takes the place of this one. If
// there is none, it tries it once more, until the context ends, and drops the
// rest.
func (w *Webhook) Stop(ctx context.Context) {
	w.replaced = w.mailbox.webhooks.Add(-1) > 0
	w.stopWaiting()
	if w.replaced {
		return // an attempt under way comes to its end by itself
	}
	select {
	case <-w.done:
	case <-ctx.Done():
	}
	w.stopSending()
	<-w.done
}

// run delivers what is queued, one after the other, until Stop.
func (w *Webhook) run() {
	defer close(w.done)
	defer w.client.CloseIdleConnections()
	if !w.mailbox.take(w.stopping) && (w.handsOver() || !w.mailbox.take(w.sending)) {
		if !w.handsOver() {
			w.dropAll(w.mailbox.drain())
		}
		return
	}
	defer w.mailbox.release()
	var undelivered []Notice
	for !w.handsOver() {
		n, ok := w.mailbox.next(w.stopping)
		if !ok {
			break
		}
		if w.deliver(n) {
			continue
		}
		if w.handsOver() {
			w.mailbox.returned = &n
			return
		}
		undelivered = append(undelivered, n)
	}
	w.dropAll(undelivered)
}

// dropAll counts the notices that Stop left no time for.
func (w *Webhook) dropAll(notices []Notice) {
	for _, n := range notices {
		counters.notice(n.Kind, outcomeDropped)
	}
	if len(notices) > 0 {
		w.logger.Error("webhook stopped before every notice was delivered", zap.Int("dropped", len(notices)))
	}
}

// handsOver reports whether the webhook was stopped and another one goes on.
func (w *Webhook) handsOver() bool { return w.stopping.Err() != nil && w.replaced }

// deliver sends a notice until the receiver takes it or it is given up. It
// reports whether it came to that: Stop cuts the waits between attempts short,
// and one last attempt is made, unless another webhook goes on.
func (w *Webhook) deliver(n Notice) bool {
	logger := w.logger.With(zap.String("notice", n.ID), zap.String("kind", string(n.Kind)))
	body, err := json.Marshal(n)
	if err != nil {
		logger.Error("encoding notice", zap.Error(err))
		counters.notice(n.Kind, outcomeFailed)
		return true
	}

	attempts, waiting := 0, false
	attempt := func() (struct{}, error) {
		waiting = false
		attempts++
		return struct{}{}, w.attempt(n.ID, body)
	}
	_, err = backoff.Retry(w.stopping, attempt,
		backoff.WithBackOff(&backoff.ExponentialBackOff{
			InitialInterval: webhookFirstWait,
			Multiplier:      2,
			MaxInterval:     webhookMaxWait,
		}),
		backoff.WithMaxTries(webhookAttempts),
		backoff.WithMaxElapsedTime(0), // the attempts are the bound
		backoff.WithNotify(func(err error, wait time.Duration) {
			waiting = true
			counters.notice(n.Kind, outcomeRetried)
			logger.Warn("webhook delivery failed and will be repeated",
				zap.Error(err), zap.Int("attempt", attempts), zap.Duration("wait", wait))
		}))
	if waiting && w.stopping.Err() != nil && !w.handsOver() {
		_, err = attempt()
	}

	switch {
	case err == nil:
		counters.notice(n.Kind, outcomeDelivered)
		logger.Debug("webhook delivered", zap.Int("attempts", attempts))
		w.caughtUp()
	case w.stopping.Err() != nil:
		return false
	default:
		counters.notice(n.Kind, outcomeFailed)
		logger.Error("webhook delivery failed and was given up", zap.Error(err), zap.Int("attempts", attempts))
	}
	return true
}

// caughtUp ends an episode of a full queue.
func (w *Webhook) caughtUp() {
	if n := w.mailbox.overflowed.Swap(0); n > 0 {
		w.logger.Warn("webhook delivers again; notices were dropped meanwhile", zap.Int64("dropped", n))
	}
}

// attempt posts a notice once. Its errors tell backoff when not to try again,
// or not before when, and never hold the URL.
func (w *Webhook) attempt(id string, body []byte) error {
	ctx, cancel := context.WithTimeout(w.sending, webhookTimeout)
	defer cancel()
	req, err := w.request(ctx, id, body)
	if err != nil {
		return backoff.Permanent(w.redact(err))
	}
	res, err := w.client.Do(req)
	if err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return fmt.Errorf("no answer within %s", webhookTimeout)
		}
		return w.redact(err)
	}
	defer res.Body.Close()
	// The status has decided; what follows only keeps the connection.
	_, _ = io.CopyN(io.Discard, res.Body, webhookDrain)

	err = fmt.Errorf("status %d", res.StatusCode)
	switch {
	case res.StatusCode >= 200 && res.StatusCode < 300:
		return nil
	case res.StatusCode == http.StatusGone:
		return backoff.Permanent(err)
	}
	if wait := receiverWait(res.Header.Get("Retry-After"), time.Now()); wait > 0 {
		return fmt.Errorf("%w: %w", err, backoff.RetryAfter(int(wait.Seconds())))
	}
	return err
}

// request makes the signed request of one attempt.
func (w *Webhook) request(ctx context.Context, id string, body []byte) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	signatures := make([]string, len(w.signers))
	for i, s := range w.signers {
		if signatures[i], err = s.Sign(id, now, body); err != nil {
			return nil, fmt.Errorf("signing: %w", err)
		}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "caddy-credential-pool")
	req.Header.Set(standardwebhooks.HeaderWebhookID, id)
	req.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	req.Header.Set(standardwebhooks.HeaderWebhookSignature, strings.Join(signatures, " "))
	return req, nil
}

// redact returns an error with the same text less the URL.
func (w *Webhook) redact(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	return errors.New(w.redaction.Replace(err.Error()))
}

// receiverWait reads the wait that Retry-After says (RFC 9110 section 10.2.3), in
// whole seconds; 0 if it says none. It is bounded by webhookMaxRetryAfter.
func receiverWait(value string, now time.Time) time.Duration {
	var wait time.Duration
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		wait = at.Sub(now).Truncate(time.Second) + time.Second
	}
	return min(max(wait, 0), webhookMaxRetryAfter)
}

// UnmarshalCaddyfile sets up the webhook from Caddyfile tokens. Syntax:
//
//	webhook <url> {
//		secret <value>
//	}
//
// secret may be repeated.
func (w *Webhook) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	// ArgErr would quote what was given, and that may be a secret.
	if !d.Args(&w.URL) || d.NextArg() {
		return d.Err("webhook: exactly one argument expected, the URL")
	}
	for d.NextBlock(0) {
		switch option := d.Val(); option {
		case "secret":
			var secret string
			if !d.Args(&secret) || d.NextArg() {
				return d.Err("secret: exactly one argument expected")
			}
			w.Secrets = append(w.Secrets, secret)
		default:
			return unknownWord(d, option, "secret")
		}
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner     = (*Webhook)(nil)
	_ caddy.CleanerUpper    = (*Webhook)(nil)
	_ caddyfile.Unmarshaler = (*Webhook)(nil)
	_ Notifier              = (*Webhook)(nil)
)

package e2e

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/quic-go/quic-go/http3"
)

// overHTTP3 returns a client that speaks nothing but HTTP/3.
func (c *caddy) overHTTP3() *http.Client {
	transport := &http3.Transport{TLSClientConfig: c.trust()}
	c.t.Cleanup(func() { _ = transport.Close() })
	return &http.Client{Transport: witness{c, transport}, Timeout: patience}
}

func TestHTTP3_bodyIsSentAgain(t *testing.T) {
	t.Parallel()
	body := bytes.Repeat([]byte("a question "), 100_000)
	for code, refuse := range refusals {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			c, url := startTLS(t)
			c.upstream.answer("work", refuse)
			c.upstream.answer("home", digest)
			req := must(http.NewRequest(http.MethodPost, url+"/v1/chat", bytes.NewReader(body)))
			req.Header.Set("Authorization", "Bearer "+c.phantom)
			res, err := c.overHTTP3().Do(req.WithContext(t.Context()))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			told, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(body)
			equal(t, "answer", string(told), fmt.Sprint(len(body), " ", hex.EncodeToString(sum[:])))
			equal(t, "protocol", res.Proto, "HTTP/3.0")
			c.failedOver(t, "POST /v1/chat", code)
		})
	}
}

func TestHTTP3_eventsArriveAsTheyAreSent(t *testing.T) {
	t.Parallel()
	for code, refuse := range refusals {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			c, url := startTLS(t)
			next := make(chan struct{}, 3)
			c.upstream.answer("work", refuse)
			c.upstream.answer("home", func(w http.ResponseWriter, r *http.Request) {
				for n := range 3 {
					event(w, n)
					select {
					case <-next: // not before the client has the last one
					case <-r.Context().Done():
					}
				}
			})
			req := must(http.NewRequest(http.MethodPost, url+"/v1/chat", strings.NewReader("a question")))
			req.Header.Set("Authorization", "Bearer "+c.phantom)
			res, err := c.overHTTP3().Do(req.WithContext(t.Context()))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			lines := bufio.NewScanner(res.Body)
			for n := range 3 {
				for lines.Scan() && !strings.HasPrefix(lines.Text(), "data: ") {
				}
				equal(t, "event", lines.Text(), fmt.Sprint("data: ", n))
				next <- struct{}{}
			}
			c.failedOver(t, "POST /v1/chat", code)
		})
	}
}

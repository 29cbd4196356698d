package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/coder/websocket"
	"golang.org/x/net/http2"
)

// echo is a WebSocket that sends back what it gets.
func echo(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	conn.SetReadLimit(4 << 20)
	for {
		kind, message, err := conn.Read(r.Context())
		if err != nil {
			return
		}
		if conn.Write(r.Context(), kind, append([]byte("echo of "), message...)) != nil {
			return
		}
	}
}

// dial opens a WebSocket over HTTP/1.1.
func (c *caddy) dial(ctx context.Context) (*websocket.Conn, *http.Response, error) {
	conn, res, err := websocket.Dial(ctx, c.url("/socket"), &websocket.DialOptions{
		HTTPHeader: http.Header{"Authorization": {"Bearer " + c.phantom}},
	})
	if res != nil {
		c.sawAnswer("the answer to the upgrade", answer{header: res.Header})
	}
	return conn, res, err
}

// talk sends messages, small and large, and ends as the protocol says.
func talk(ctx context.Context, t *testing.T, conn *websocket.Conn) {
	t.Helper()
	conn.SetReadLimit(4 << 20)
	for n, size := range []int{0, 5, 1000, 1 << 20} {
		kind, question := []websocket.MessageType{websocket.MessageText, websocket.MessageBinary}[n%2], bytes.Repeat([]byte("x"), size)
		if err := conn.Write(ctx, kind, question); err != nil {
			t.Fatal(err)
		}
		got, message, err := conn.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "kind", got, kind)
		equal(t, "message is its echo", string(message) == "echo of "+string(question), true)
	}
	if err := conn.Close(websocket.StatusNormalClosure, "done"); err != nil {
		t.Errorf("the end: %v", err)
	}
}

func TestFault_webSocket(t *testing.T) {
	t.Parallel()
	for code, refuse := range refusals {
		t.Run("with an upstream, after "+code, func(t *testing.T) {
			t.Parallel()
			c := startCaddy(t, config{}, "work", "home")
			c.upstream.answer("work", refuse)
			c.upstream.answer("home", echo)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			conn, _, err := c.dial(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.CloseNow()
			talk(ctx, t, conn)
			c.failedOver(t, "GET /socket", code)
		})
		// Here the refusal reaches the client, and helps the next one.
		t.Run("without an upstream, after "+code, func(t *testing.T) {
			t.Parallel()
			c := newCaddy(t, "work", "home")
			c.start(config{handler: c.secondForm()})
			c.upstream.answer("work", refuse)
			c.upstream.answer("home", echo)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if _, res, err := c.dial(ctx); err == nil || fmt.Sprint(res.StatusCode) != code {
				t.Fatalf("got %v, want the upstream's %s", err, code)
			}
			conn, _, err := c.dial(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.CloseNow()
			talk(ctx, t, conn)
			equal(t, "attempts", c.upstream.served(), "[work home]")
		})
	}
}

// extendedCONNECT makes Go's server in Caddy allow what RFC 8441 adds to CONNECT.
var extendedCONNECT = []string{"GODEBUG", "http2xconnect=1"}

func TestFault_webSocketOverHTTP2(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) (*caddy, string, *http2.Transport){
		"without TLS": func(t *testing.T) (*caddy, string, *http2.Transport) {
			c := newCaddy(t, "work", "home")
			c.setenv(extendedCONNECT[0], extendedCONNECT[1])
			c.start(config{})
			return c, c.url(""), &http2.Transport{AllowHTTP: true, DialTLSContext: dialWithoutTLS}
		},
		"with TLS": func(t *testing.T) (*caddy, string, *http2.Transport) {
			c, url := startTLS(t, extendedCONNECT...)
			return c, url, &http2.Transport{TLSClientConfig: c.trust()}
		},
	} {
		for code, refuse := range refusals {
			t.Run(name+", after "+code, func(t *testing.T) {
				t.Parallel()
				c, url, client := start(t)
				defer client.CloseIdleConnections()
				c.upstream.answer("work", refuse)
				c.upstream.answer("home", echo)
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				in, send := io.Pipe()
				defer send.Close()
				req := must(http.NewRequestWithContext(ctx, http.MethodConnect, url+"/socket", in))
				req.Header = http.Header{
					":protocol": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Origin": {url},
					"Authorization": {"Bearer " + c.phantom},
				}
				res, err := client.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				c.sawAnswer("the answer to the extended CONNECT", answer{header: res.Header})
				if res.StatusCode != http.StatusOK {
					t.Fatalf("got %d", res.StatusCode)
				}
				exchange := func(kind byte, payload, want string) {
					t.Helper()
					// A frame with a mask of zeros (RFC 6455, section 5.2).
					if _, err := send.Write(append([]byte{0x80 | kind, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)); err != nil {
						t.Fatal(err)
					}
					frame := make([]byte, 2+len(want))
					if _, err := io.ReadFull(res.Body, frame); err != nil {
						t.Fatal(err)
					}
					equal(t, "frame", frame, append([]byte{0x80 | kind, byte(len(want))}, want...))
				}
				exchange(1, "hello", "echo of hello")
				exchange(2, "again", "echo of again")
				exchange(8, "\x03\xe8", "\x03\xe8") // a normal end
				if rest, err := io.ReadAll(res.Body); err != nil || len(rest) != 0 {
					t.Errorf("got %q, %v after the end", rest, err)
				}
				c.failedOver(t, "GET /socket", code)
			})
		}
	}
}

func dialWithoutTLS(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, addr)
}

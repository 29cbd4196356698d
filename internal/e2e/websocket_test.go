package e2e

import (
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

func TestFault_webSocket(t *testing.T) {
	t.Parallel()
	for name, form := range map[string]func(*caddy) config{
		"with an upstream":    func(*caddy) config { return config{} },
		"without an upstream": func(c *caddy) config { return config{handler: c.secondForm()} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCaddy(t, "work", "home")
			c.start(form(c))
			first := "work"
			if name == "with an upstream" {
				first = "home"
				c.upstream.answer("work", status429)
				c.upstream.answer("home", echo)
			} else {
				c.upstream.answer("work", echo)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			conn, res, err := websocket.Dial(ctx, c.url("/socket"), &websocket.DialOptions{
				HTTPHeader: http.Header{"Authorization": {"Bearer " + c.phantom}},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.CloseNow()
			c.sawAnswer("the answer to the upgrade", answer{header: res.Header})
			for n := range 3 {
				if err := conn.Write(ctx, websocket.MessageText, fmt.Append(nil, n)); err != nil {
					t.Fatal(err)
				}
				_, message, err := conn.Read(ctx)
				if err != nil {
					t.Fatal(err)
				}
				equal(t, "message", string(message), fmt.Sprint("echo of ", n))
			}
			hits := c.upstream.served()
			equal(t, "whose socket", hits[len(hits)-1], first)
		})
	}
}

func TestFault_webSocketOverHTTP2(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home")
	c.setenv("GODEBUG", "http2xconnect=1") // Go's server allows extended CONNECT only so
	c.start(config{})
	c.upstream.answer("work", status429)
	c.upstream.answer("home", echo)

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	in, send := io.Pipe()
	defer send.Close()
	req := c.request(http.MethodConnect, "/socket", "", ":protocol", "websocket",
		"Sec-WebSocket-Version", "13", "Origin", c.url(""))
	req.Body, req.ContentLength = in, -1
	client := &http2.Transport{AllowHTTP: true, DialTLSContext: dialWithoutTLS}
	defer client.CloseIdleConnections()
	res, err := client.RoundTrip(req.WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	c.sawAnswer("the answer to the extended CONNECT", answer{header: res.Header})
	if res.StatusCode != http.StatusOK {
		t.Fatalf("got %d", res.StatusCode)
	}
	// A text frame with a mask of zeros (RFC 6455, section 5.2).
	if _, err := send.Write(append([]byte{0x81, 0x80 | 5, 0, 0, 0, 0}, "hello"...)); err != nil {
		t.Fatal(err)
	}
	frame := make([]byte, 2+len("echo of hello"))
	if _, err := io.ReadFull(res.Body, frame); err != nil {
		t.Fatal(err)
	}
	equal(t, "frame", string(frame[2:]), "echo of hello")
	equal(t, "attempts", c.upstream.served(), "[work home]")
}

func dialWithoutTLS(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, addr)
}

package caddymodule

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// echo switches protocols and gives back what it gets.
func echo(w http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		http.Error(w, "no upgrade", http.StatusBadRequest)
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	_ = rw.Flush()
	_, _ = io.Copy(conn, rw)
}

func TestUpgrade_aWebSocketFailsOverAndFlowsBothWays(t *testing.T) {
	for form, text := range map[string]string{"with upstream": directive(), "without": withoutUpstream} {
		t.Run(form, func(t *testing.T) {
			u := newUpstream(t)
			d := open(t, u, "", text)
			u.on("credential-a", status(429))
			u.on("credential-b", echo)
			if form == "without" {
				d.want(429) // this form fails over for the next request
			}
			host := strings.TrimPrefix(d.url, "http://")
			conn, err := net.Dial("tcp", host)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", host, phantom)
			r := bufio.NewReader(conn)
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("status %d", res.StatusCode)
			}
			for _, message := range []string{"first\n", "second\n"} {
				_, _ = io.WriteString(conn, message)
				if got, err := r.ReadString('\n'); err != nil || got != message {
					t.Fatalf("got %q, %v", got, err)
				}
			}
		})
	}
}

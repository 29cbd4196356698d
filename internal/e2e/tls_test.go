package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
)

// startTLS starts a Caddy for the accounts work and home with a second site,
// which has TLS with a certificate from Caddy's own authority, and HTTP/1.1, 2
// and 3. It returns that site's address. Caddy gets env, given as name and
// value, in its environment.
func startTLS(t *testing.T, env ...string) (c *caddy, url string) {
	t.Helper()
	c = newCaddy(t, "work", "home")
	for i := 0; i < len(env); i += 2 {
		c.setenv(env[i], env[i+1])
	}
	addr := "127.0.0.1:" + freePort(t)
	c.start(config{
		global: "\tauto_https disable_redirects\n\tskip_install_trust\n\tservers " + addr[len("127.0.0.1"):] + " {\n\t\tprotocols h1 h2 h3\n\t}",
		sites:  "https://" + addr + " {\n\ttls internal\n\tcredential_pool api " + c.upstream.URL + " {\n\t\tclient agent {env.PHANTOM}\n\t}\n}",
	})
	eventually(t, "the site has a certificate", func() bool {
		if _, err := os.Stat(c.authority()); err != nil {
			return false
		}
		conn, err := tls.Dial("tcp", addr, c.trust())
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return c, "https://" + addr
}

// authority returns the file with the certificate of Caddy's own authority.
func (c *caddy) authority() string {
	return filepath.Join(c.storage, "pki/authorities/local/root.crt")
}

// trust makes a client trust Caddy's own authority alone.
func (c *caddy) trust() *tls.Config {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(must(os.ReadFile(c.authority())))
	return &tls.Config{RootCAs: roots}
}

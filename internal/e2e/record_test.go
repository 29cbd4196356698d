package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"
)

// record is a login as it stands in the vault, with what these tests look at.
type record struct {
	ID         string
	Generation int
	Access     string
	Refresh    string
	Ends       time.Time // of the access token
	Intent     bool      // a refresh was begun
	Lost       string

	document map[string]any
}

// ages is the identity with which the vault is encrypted.
func (c *caddy) ages() *age.X25519Identity {
	c.t.Helper()
	for _, variable := range c.env {
		if identity, ok := strings.CutPrefix(variable, "IDENTITY="); ok {
			return must(age.ParseX25519Identity(identity))
		}
	}
	ids := must(age.ParseIdentities(bytes.NewReader(must(os.ReadFile(filepath.Join(c.storage, "credential_pool", "identity.txt"))))))
	return ids[0].(*age.X25519Identity)
}

func (c *caddy) recordPath(member string) string {
	return filepath.Join(c.storage, "credential_pool", "credentials", "api", member+".age")
}

// record reads a login of the vault.
func (c *caddy) record(member string) (r record) {
	c.t.Helper()
	plain := must(age.Decrypt(bytes.NewReader(must(os.ReadFile(c.recordPath(member)))), c.ages()))
	if err := json.Unmarshal(must(io.ReadAll(plain)), &r.document); err != nil {
		c.t.Fatal(err)
	}
	oauth := r.document["oauth"].(map[string]any)
	r.ID, _ = r.document["id"].(string)
	r.Generation = int(r.document["generation"].(float64))
	r.Access, _ = r.document["secret"].(string)
	r.Refresh, _ = oauth["refresh_token"].(string)
	r.Ends = must(time.Parse(time.RFC3339, oauth["expires_at"].(string)))
	_, r.Intent = oauth["intent"]
	r.Lost, _ = oauth["lost"].(string)
	return r
}

// age makes the tokens of a login an hour old, and lets them end in that time,
// so that it is time to refresh them.
func (c *caddy) age(member string, left time.Duration) {
	c.t.Helper()
	c.rewrite(member, time.Hour, left)
}

// rewrite makes the tokens of a login so old, and lets them end in that time. To
// Caddy it looks like a refresh by another
// instance, whose answer held the same tokens.
func (c *caddy) rewrite(member string, old, left time.Duration) {
	c.t.Helper()
	r := c.record(member)
	oauth := r.document["oauth"].(map[string]any)
	oauth["refreshed_at"] = time.Now().Add(-old).UTC()
	oauth["expires_at"] = time.Now().Add(left).UTC()
	r.document["generation"] = r.Generation + 1
	var sealed bytes.Buffer
	w := must(age.Encrypt(&sealed, c.ages().Recipient()))
	if err := json.NewEncoder(w).Encode(r.document); err != nil {
		c.t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		c.t.Fatal(err)
	}
	path := c.path("record")
	if err := os.WriteFile(path, sealed.Bytes(), 0o600); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Rename(path, c.recordPath(member)); err != nil { // at once, as Caddy's storage does it
		c.t.Fatal(err)
	}
}

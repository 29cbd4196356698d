package e2e

import (
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
)

// vaulted are the accounts as members whose credential is in the vault.
func (c *caddy) vaulted() string {
	var members strings.Builder
	for _, name := range c.accounts {
		members.WriteString("member " + name + "\n")
	}
	return members.String()
}

// put puts an account's secret in the vault.
func (c *caddy) put(name string) {
	c.t.Helper()
	c.want(200, http.MethodPut, "/credential_pool/credentials/api/"+name, fmt.Sprintf(`{"kind":"static","secret":%q}`, c.secrets[name]), nil)
}

// identity makes an age identity, which is a secret too.
func (c *caddy) identity() string {
	c.t.Helper()
	id := must(age.GenerateX25519Identity()).String()
	c.watch(canary{strings.TrimPrefix(id, "AGE-SECRET-KEY-1")})
	return id
}

func TestVault_missingMemberIsReadyOnceItsCredentialIsPut(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home")
	c.start(config{members: c.vaulted()})
	c.is("work", "missing")
	equal(t, "with nobody", c.get("/").status, http.StatusServiceUnavailable)
	equal(t, "upstream hits", len(c.upstream.seen()), 0)

	c.put("home")
	c.is("home", "ready")
	served(t, c.get("/"), "home")
	c.put("work")
	c.is("work", "ready")
	served(t, c.get("/"), "home") // it stays

	if text := string(c.log.all()); !strings.Contains(text, "identity.txt") {
		t.Error("the log does not say where the identity was made")
	}
	c.stop()
	c.start(config{members: c.vaulted()})
	served(t, c.get("/"), "home")

	c.want(204, http.MethodDelete, "/credential_pool/credentials/api/home", "", nil)
	c.is("home", "missing")
	served(t, c.get("/"), "work")
	told := c.notices()
	if len(told) == 0 || !strings.HasPrefix(told[len(told)-1], "credential_missing home>work") {
		t.Errorf("told %q, want that home is missing", told)
	}
}

func TestVault_anotherSecretEndsTheBench(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home")
	c.start(config{members: c.vaulted()})
	c.put("work")
	c.put("home")
	c.upstream.answer("work", status429)
	served(t, c.get("/"), "home")
	c.is("work", "cooling")
	c.secrets["work"] = c.account("work")
	c.put("work")
	c.is("work", "ready")
}

func TestVault_whatAnotherProcessPutsIsSeen(t *testing.T) {
	t.Parallel()
	other := newCaddy(t, "work", "home")
	identity := other.identity()
	other.setenv("IDENTITY", identity)
	c := newCaddy(t, "work", "home")
	c.watch(canary{strings.TrimPrefix(identity, "AGE-SECRET-KEY-1")})
	c.setenv("IDENTITY", identity)
	cfg := config{members: c.vaulted(), app: "vault {\nidentity {env.IDENTITY}\n}\nsync_interval 200ms"}
	other.storage = c.storage
	c.start(cfg)
	other.start(cfg)
	other.want(200, http.MethodPut, "/credential_pool/credentials/api/work", fmt.Sprintf(`{"kind":"static","secret":%q}`, c.secrets["work"]), nil)
	eventually(t, "work is ready here too", func() bool { return c.member("work").State == "ready" })
	served(t, c.get("/"), "work")
}

func TestVault_extraFields(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home")
	account := c.canary()
	c.start(config{members: c.vaulted(), pool: "inject header Authorization \"Bearer {credential}\"\ninject header Account-Id {credential.account_id}"})
	c.put("home") // without the field
	c.is("home", "missing")
	c.want(200, http.MethodPut, "/credential_pool/credentials/api/work",
		fmt.Sprintf(`{"kind":"static","secret":%q,"fields":{"account_id":%q}}`, c.secrets["work"], account), nil)
	served(t, c.do(c.request(http.MethodGet, "/", "", "Account-Id", "the client's")), "work")
	equal(t, "the field", strings.Join(c.upstream.seen()[0].header["Account-Id"], ",") == account, true)
	if list := c.want(200, http.MethodGet, "/credential_pool/credentials", "", nil).body; !strings.Contains(list, `"account_id"`) {
		t.Errorf("the field is not listed: %s", list)
	}
}

// records returns the files of the vault with what is in them.
func (c *caddy) records() string {
	c.t.Helper()
	var files []string
	err := filepath.WalkDir(filepath.Join(c.storage, "credential_pool"), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && !strings.Contains(path, "/state/") {
			files = append(files, fmt.Sprintf("%s %x", path, must(os.ReadFile(path))))
		}
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.Join(files, "\n")
}

func TestFault_wrongIdentity(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home", "spare")
	c.setenv("IDENTITY", c.identity())
	cfg := config{app: "vault {\nidentity {env.IDENTITY}\n}", members: "member work\nmember home\nmember spare {env.KEY_spare}"}
	c.start(cfg)
	c.put("work")
	c.put("home")
	served(t, c.get("/"), "work")
	before := c.records()
	c.stop()

	right := c.env[len(c.env)-1]
	c.setenv("IDENTITY", c.identity())
	c.start(cfg)
	c.is("work", "missing")
	if reason := c.member("work").Reason; !strings.Contains(reason, "identity") {
		t.Errorf("the reason is %q", reason)
	}
	if !strings.Contains(c.log.since(), `"credential":"api/work"`) {
		t.Error("the log does not name the credential")
	}
	served(t, c.get("/"), "spare") // the others go on
	equal(t, "the vault is untouched", c.records() == before, true)
	c.put("home") // the operator may
	c.is("home", "ready")
	c.stop()

	// Several identities: the first encrypts, all decrypt.
	wrong := c.env[len(c.env)-1]
	c.env = append(c.env, right, strings.Replace(wrong, "IDENTITY=", "IDENTITY_2=", 1))
	cfg.app = "vault {\nidentity {env.IDENTITY}\nidentity {env.IDENTITY_2}\n}"
	c.start(cfg)
	c.is("work", "ready")
	c.is("home", "ready")
}

func TestFault_identityThatIsGone(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home")
	cfg := config{members: "member work\nmember home {env.KEY_home}"}
	c.start(cfg)
	c.put("work")
	served(t, c.get("/"), "work")
	c.stop()
	file := filepath.Join(c.storage, "credential_pool/identity.txt")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the identity: %v, %v", info, err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	before := c.records()

	c.start(cfg)
	c.is("work", "missing")
	served(t, c.get("/"), "home")
	a := c.want(409, http.MethodPut, "/credential_pool/credentials/api/work", `{"kind":"static","secret":"another secret"}`, nil)
	if !strings.Contains(a.body, "identity") {
		t.Errorf("it says %s", a.body)
	}
	equal(t, "nothing is made or changed", c.records() == before, true)
}

func TestVault_damagedRecordHurtsItsMemberAlone(t *testing.T) {
	t.Parallel()
	c := newCaddy(t, "work", "home", "spare")
	cfg := config{members: c.vaulted()}
	c.start(cfg)
	for _, name := range c.accounts {
		c.put(name)
	}
	c.stop()
	record := func(name string) string {
		return filepath.Join(c.storage, "credential_pool/credentials/api/", name+".age")
	}
	// One is torn, one is another member's.
	work := must(os.ReadFile(record("work")))
	if err := os.WriteFile(record("work"), work[:len(work)-5], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(record("home"), must(os.ReadFile(record("spare"))), 0o600); err != nil {
		t.Fatal(err)
	}
	c.start(cfg)
	c.is("work", "missing")
	c.is("home", "missing")
	served(t, c.get("/"), "spare")
	if list := c.want(200, http.MethodGet, "/credential_pool/credentials", "", nil).body; !strings.Contains(list, "corrupt") || !strings.Contains(list, "another name") {
		t.Errorf("the list does not say what is wrong: %s", list)
	}
}

package vault

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
)

// identityKey is where an identity is made if none is given.
const identityKey = "credential_pool/identity.txt"

// parseIdentities reads age secret keys, one per line; blank lines and comments
// may stand between them, as in the files of age-keygen. The error never quotes
// the text.
func parseIdentities(text string) ([]age.Identity, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return nil, errors.New("is empty")
	}
	ids, err := age.ParseIdentities(strings.NewReader(text))
	if err != nil {
		return nil, errors.New("is not an age secret key (AGE-SECRET-KEY-1... or AGE-SECRET-KEY-PQ-1...)")
	}
	return ids, nil
}

// recipientOf returns the public half of an identity.
func recipientOf(id age.Identity) (age.Recipient, error) {
	switch id := id.(type) {
	case *age.X25519Identity:
		return id.Recipient(), nil
	case *age.HybridIdentity:
		return id.Recipient(), nil
	}
	return nil, fmt.Errorf("%w: an identity of type %T can't encrypt", ErrNoIdentity, id)
}

// readIdentityFile reads the identity that was made at path. The error wraps
// ErrNoIdentity if it is no use, and fs.ErrNotExist too if there is none.
func readIdentityFile(path string) ([]age.Identity, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNoIdentity, err)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the identity: %w", err)
	}
	ids, err := parseIdentities(string(text))
	if err != nil {
		return nil, fmt.Errorf("%w: %s %w", ErrNoIdentity, path, err)
	}
	return ids, nil
}

// makeIdentityFile makes an identity at path, unless there is a file already,
// and reports whether it did. Of several processes that try at once, one wins,
// and nobody ever sees an unfinished file: it is written and synced under
// another name and then linked, which, unlike renaming, replaces nothing.
func makeIdentityFile(path string) (made bool, err error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return false, fmt.Errorf("making an identity: %w", err)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, fmt.Errorf("making an identity: %w", err)
	}
	f, err := os.CreateTemp(dir, ".identity-*") // mode 0600
	if err != nil {
		return false, fmt.Errorf("making an identity: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }()

	_, err = fmt.Fprintf(f, "# Decrypts the credentials beside it. If it is lost, they are lost.\n"+
		"# public key: %s\n%s\n", id.Recipient(), id)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return false, fmt.Errorf("making an identity: %w", err)
	}
	err = os.Link(f.Name(), path)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("making an identity: %w (if this file system can't link files, %s)", err, setIdentity)
	}
	syncDir(dir)
	return true, nil
}

// syncDir makes the file's name as lasting as its content, where the system can:
// a record must not outlive its identity. Not every system can sync a folder, so
// an error tells nothing.
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync()
		_ = d.Close()
	}
}

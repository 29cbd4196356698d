package vault

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
)

// trySize is more than the record of most logins, so that a storage that is as
// good as full shows it.
const trySize = 16 << 10

// Try reports whether a credential could be put under name ("<pool>/<member>")
// now: what Put would refuse whatever the credential is, Try refuses too. It
// stores something beside the record and removes it again; the record itself is
// neither read nor changed, and no identity is made. The error is as that of
// [Vault.Put].
func (v *Vault) Try(ctx context.Context, name string) error {
	// Stamp also sees a folder that is gone, which a write would make anew.
	if _, err := v.Stamp(ctx, name); err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	ids, err := v.identities()
	if errors.Is(err, fs.ErrNotExist) {
		ids, err = v.missingIdentity(ctx)
	}
	if err == nil && len(ids) > 0 {
		_, err = recipientOf(ids[0])
	}
	if err != nil {
		return fmt.Errorf("credential %q: %w", name, err)
	}
	// Several may try at once, also on other machines.
	key := prefix + "/" + name + ".try-" + rand.Text()
	noise := make([]byte, trySize)
	_, _ = rand.Read(noise) // never fails
	err = v.storage.Store(ctx, key, noise)
	if err != nil {
		err = fmt.Errorf("credential %q: trying to store: %w", name, err)
	}
	// A store that fails can leave something, too.
	if removal := v.storage.Delete(context.WithoutCancel(ctx), key); err == nil && removal != nil {
		err = fmt.Errorf("credential %q: removing what was stored as a try: %w", name, removal)
	}
	return err
}

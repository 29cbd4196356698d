package vault

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"filippo.io/age"
)

// recordVersion is the version of the document that this package writes, and the
// only one that it reads.
const recordVersion = 1

// maxRecordSize bounds an encrypted record. The largest credential has 102
// values of 32 KiB, which JSON's escapes can double.
const maxRecordSize = 8 << 20

// record is the JSON document inside the encryption. The package documentation
// has an example.
type record struct {
	Version    int               `json:"version"`
	Name       string            `json:"name"`
	Kind       string            `json:"kind"`
	ID         string            `json:"id"`
	Generation uint64            `json:"generation"`
	Updated    time.Time         `json:"updated"`
	Secret     string            `json:"secret"`
	Fields     map[string]string `json:"fields,omitempty"`
	OAuth      *oauthRecord      `json:"oauth,omitempty"`
}

// seal makes the record of c that the recipient can open.
func seal(c Credential, to age.Recipient) ([]byte, error) {
	rec := record{
		Version: recordVersion, Name: c.Name, Kind: c.Kind, ID: c.ID,
		Generation: c.Generation, Updated: c.Updated,
		Secret: c.Secret.Reveal(), Fields: make(map[string]string, len(c.Fields)),
		OAuth: c.OAuth.record(),
	}
	for name, value := range c.Fields {
		rec.Fields[name] = value.Reveal()
	}
	return encrypt(rec, to)
}

// encrypt makes of a JSON document what the recipient can decrypt.
func encrypt(doc any, to age.Recipient) ([]byte, error) {
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, to)
	if err != nil {
		return nil, fmt.Errorf("encrypting: %w", err)
	}
	enc := json.NewEncoder(w)
	// Escaping for HTML would make six bytes of one, beyond maxRecordSize.
	enc.SetEscapeHTML(false)
	if err := errors.Join(enc.Encode(doc), w.Close()); err != nil {
		return nil, fmt.Errorf("encrypting: %w", err)
	}
	return sealed.Bytes(), nil
}

// open is the reverse of seal, for the record that was found under name. Its
// errors wrap ErrWrongIdentity, ErrCorrupt or ErrForeign.
func open(sealed []byte, name string, with []age.Identity) (Credential, error) {
	plain, err := decrypt(sealed, with)
	if err != nil {
		return Credential{}, err
	}
	return decode(plain, name)
}

// decrypt is the reverse of encrypt. Its errors wrap ErrWrongIdentity or
// ErrCorrupt, and never the cause: the texts of age and encoding/json quote what
// they could not read, and that can be a secret that somebody stored in the
// clear.
func decrypt(sealed []byte, with []age.Identity) ([]byte, error) {
	if len(sealed) > maxRecordSize {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrCorrupt, maxRecordSize)
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), with...)
	if _, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
		return nil, ErrWrongIdentity
	}
	if err != nil {
		return nil, fmt.Errorf("%w: not an age file, or its header is damaged", ErrCorrupt)
	}
	// age hands out chunks as it authenticates them; only at EOF is it certain
	// that nothing is missing.
	plain, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("%w: truncated or tampered with", ErrCorrupt)
	}
	return plain, nil
}

// decode reads a decrypted record and checks it as strictly as a put is checked:
// encryption does not say who wrote it.
func decode(plain []byte, name string) (Credential, error) {
	var rec record
	if err := json.Unmarshal(plain, &rec); err != nil {
		return Credential{}, fmt.Errorf("%w: its content is not a JSON record", ErrCorrupt)
	}
	if rec.Version != recordVersion {
		return Credential{}, fmt.Errorf("%w: version %d is not known (known: %d)", ErrCorrupt, rec.Version, recordVersion)
	}
	if rec.Name != name {
		return Credential{}, ErrForeign
	}

	c := Credential{
		Name: rec.Name, Kind: rec.Kind, ID: rec.ID,
		Generation: rec.Generation, Updated: rec.Updated.UTC(),
		Secret: NewSecret(rec.Secret), Fields: make(map[string]Secret, len(rec.Fields)),
		OAuth: rec.OAuth.oauth(),
	}
	for name, value := range rec.Fields {
		c.Fields[name] = NewSecret(value)
	}
	if err := c.check(); err != nil {
		return Credential{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if err := checkValue(rec.ID); err != nil {
		return Credential{}, fmt.Errorf("%w: id %w", ErrCorrupt, err)
	}
	if rec.Generation == 0 {
		return Credential{}, fmt.Errorf("%w: generation is 0", ErrCorrupt)
	}
	if !writable(c.Updated) {
		return Credential{}, fmt.Errorf("%w: updated is missing or out of range", ErrCorrupt)
	}
	return c, nil
}

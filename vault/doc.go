// Package vault keeps credentials at rest, encrypted, in any storage that Caddy
// can be configured with.
//
// # What a record is
//
// A credential's name is "<pool>/<member>". Its record is stored under the key
//
//	credential_pool/credentials/<pool>/<member>.age
//
// and is one JSON document, encrypted with age (https://age-encryption.org/v1,
// binary form), so that the age command line can read it too:
//
//	{
//	  "version":    1,
//	  "name":       "openai/work",
//	  "kind":       "static",                  or "oauth"
//	  "id":         "…",                       new at every put by the operator
//	  "generation": 1,                         counts the secrets under one id
//	  "updated":    "2006-01-02T15:04:05Z",
//	  "secret":     "sk-…",                    for oauth the access token
//	  "fields":     {"account_id": "…"},       optional
//	  "oauth": {                               for oauth only
//	    "refresh_token": "…",
//	    "expires_at":    "2006-01-02T15:04:05Z",
//	    "refreshed_at":  "2006-01-02T15:04:05Z",
//	    "token_url":     "https://…",
//	    "client_id":     "…",
//	    "client_secret": "…",                  optional
//	    "auth_style":    "params",             or "header"
//	    "scopes":        ["…"],                optional
//	    "intent":        {"time": "…", "generation": 1, "by": "…"},
//	    "lost":          "invalid_grant"
//	  }
//	}
//
// A login's tokens are refreshed under one id, with a generation that counts up:
// the intent is noted before the token endpoint is asked, and gone when the new
// tokens are stored. One that stays tells that a process ended in between, and
// that the refresh token may be used up. Lost marks a login that needs a person.
//
// A record is used only once it has been decrypted, authenticated and checked
// to its very end: a torn one gives an error and never a part of a secret. The
// name inside must be the name outside, so a record that was copied to another
// name is refused. Keys of the document that this version does not know are
// ignored; a version or kind that it does not know is an error.
//
// The key from which the clients' stand-in tokens are made lies beside the
// credentials, encrypted as they are, under credential_pool/phantom.age; see
// [PhantomKey].
//
// # Who can read it
//
// Whoever has an identity, which is an age secret key, X25519 or hybrid. It
// comes from the configuration; the first one given encrypts, all decrypt. To
// change it, put the new one first, keep the old one until every credential was
// put again, and then drop it.
//
// If none is given and the storage is the local file system, one is made at the
// first put, in the file credential_pool/identity.txt of that storage. It is
// made only where there is no record yet, and nothing ever replaces it. Once an
// identity is configured, this file is no longer read: name it in the
// configuration as a further identity, or put the credentials again.
//
// # What this protects from, and what not
//
// A copy of the storage without the identity (a backup, a shared database, a
// disk that was thrown away) reveals the names of the credentials, their
// approximate sizes and when they were written, but no secret. An identity that
// lies in the same storage, as a made one does, protects from nothing but a
// look at a single record: keep it out of the backups, or configure one.
//
// Encryption to a public key does not say who wrote. Someone who can write to
// the storage and knows the public key can put a record of their own in place
// of a credential, and anyone who can write can bring back an old record or
// delete one. Whoever can read the memory of the process has all secrets.
package vault

// Package credentialpool is a plugin for the Caddy web server that puts several
// accounts of one HTTP API behind one door. Clients hold a stand-in token that
// is worth nothing elsewhere; the real credential comes from an encrypted vault
// and is put into the request on its way to the upstream. When the API answers
// that an account is rate limited, out of quota or rejected, that account cools
// down and the next one takes over, before the client sees an error wherever
// that is safe.
//
// Importing this package registers all of the plugin's modules. The code lives
// in [github.com/credentialpool/caddy-credential-pool/caddymodule] (the Caddy
// modules), [github.com/credentialpool/caddy-credential-pool/pool] (who is
// served next), [github.com/credentialpool/caddy-credential-pool/pool/classify]
// (what an answer says about the account) and
// [github.com/credentialpool/caddy-credential-pool/vault] (secrets at rest).
package credentialpool

import (
	// Registers the plugin's modules.
	_ "github.com/credentialpool/caddy-credential-pool/caddymodule"
)

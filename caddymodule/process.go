package caddymodule

import (
	"crypto/rand"
	"sync"

	"github.com/credentialpool/caddy-credential-pool/vault"
)

// maxGrants is how many token endpoints are asked at once in a process. A
// thousand logins that end together must not become a thousand requests.
const maxGrants = 16

// process is what the configs of a process share when they change the vault, also
// while two of them overlap in a reload.
type process struct {
	// id tells this process from others in what it notes in the vault.
	id string

	changes   turns         // of a record of the vault
	refreshes turns         // of a login, by its ID
	grants    chan struct{} // holds one for each that is under way
	unstored  unstored
}

func newProcess() *process {
	return &process{id: rand.Text(), grants: make(chan struct{}, maxGrants)}
}

var thisProcess = newProcess()

// unstored are tokens of logins that are newer than those in the storage, by the
// login's ID. They can't be got again, so they outlive the config that got them:
// the next one uses them, and goes on trying to store them. The zero value is
// ready.
type unstored struct {
	mu     sync.Mutex
	logins map[string]vault.Credential
}

// add adds the tokens of c, unless there are newer ones.
func (u *unstored) add(c vault.Credential) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.logins == nil {
		u.logins = make(map[string]vault.Credential)
	}
	if u.logins[c.ID].Generation < c.Generation {
		u.logins[c.ID] = c
	}
}

// newer returns tokens of the login that are newer than those of that generation.
func (u *unstored) newer(id string, generation uint64) (c vault.Credential, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	c, ok = u.logins[id]
	return c, ok && c.Generation > generation
}

// settle forgets the tokens of the login up to that generation: they are stored,
// or the login is another one now.
func (u *unstored) settle(id string, generation uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.logins[id].Generation <= generation {
		delete(u.logins, id)
	}
}

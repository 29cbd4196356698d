// Package e2e tests the built Caddy from outside: a real process, real storage,
// real connections, and a mock of an upstream. It knows the plugin by its
// Caddyfile, its admin API, its commands and its files alone.
//
// Caddy is built once, as xcaddy.json says. CREDENTIAL_POOL_CADDY names a
// binary that is there already.
//
// Clients that are programs are left out where they can't be had. Those from
// npm are not installed by the tests: CREDENTIAL_POOL_NPM names the folder where
// "npm ci" has put what testdata/clients/package.json pins. With that variable
// set no client may be missing.
//
// Tests of endurance are short by default. CREDENTIAL_POOL_ENDURANCE says how
// long they go on ("10m"); those that count then count to more.
// CREDENTIAL_POOL_LOAD puts a load of so many good requests a second on every
// Caddy of the tests of faults. CREDENTIAL_POOL_SEED repeats the faults of a
// storm that failed, and the moments of its kills.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// binary is the Caddy under test.
var binary string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if binary = os.Getenv("CREDENTIAL_POOL_CADDY"); binary != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "credential-pool-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "caddy")
	build := exec.Command("go", "-C", "../build", "run", ".", "-output", binary)
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building Caddy: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

package e2e

import (
	"os"
	"testing"
	"time"
)

// enduring is whether tests take the time that they need to find what is rare.
func enduring() bool { return os.Getenv("CREDENTIAL_POOL_ENDURANCE") != "" }

// endurance is how long a test goes on: as long as CREDENTIAL_POOL_ENDURANCE
// says ("10m"), and otherwise for a short time that suits every change.
func endurance(t *testing.T, short time.Duration) time.Duration {
	t.Helper()
	if !enduring() {
		return short
	}
	d, err := time.ParseDuration(os.Getenv("CREDENTIAL_POOL_ENDURANCE"))
	if err != nil || d <= 0 {
		t.Fatalf("CREDENTIAL_POOL_ENDURANCE: %q is no duration", os.Getenv("CREDENTIAL_POOL_ENDURANCE"))
	}
	return d
}

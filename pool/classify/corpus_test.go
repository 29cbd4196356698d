package classify_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/pool/classify"
)

// answer is an answer in a file, and what it means.
type answer struct {
	Name     string            `json:"name"`
	Provider string            `json:"provider"`
	Endpoint string            `json:"endpoint"`
	Status   int               `json:"status"`
	Headers  map[string]string `json:"headers"`
	Body     string            `json:"body"`
	Want     want              `json:"want"`
}

type want struct {
	Meaning pool.Meaning `json:"meaning"`

	// Wait is null where the answer does not say how long.
	Wait *float64 `json:"wait_seconds"`

	Scope pool.Scope `json:"scope"`
}

func (a answer) answer(now time.Time) classify.Answer {
	c := classify.Answer{Status: a.Status, Header: make(http.Header), Body: []byte(a.Body), Now: now}
	if a.Endpoint == "token" {
		c.Endpoint = classify.EndpointToken
	}
	for name, value := range a.Headers {
		c.Header.Set(name, value)
	}
	return c
}

// check compares a finding with what is wanted; waits may differ by what the
// clocks of two headers do.
func (a answer) check(t *testing.T, f classify.Finding) {
	t.Helper()
	var wait time.Duration
	if a.Want.Wait != nil {
		wait = time.Duration(*a.Want.Wait * float64(time.Second))
	}
	if f.Meaning != a.Want.Meaning || f.Scope != a.Want.Scope || (f.Wait-wait).Abs() > 2*time.Second {
		t.Errorf("%s, scope %s, wait %v; want %s, scope %s, wait %v (by rule %s, wait from %q)",
			f.Meaning, f.Scope, f.Wait, a.Want.Meaning, a.Want.Scope, wait, f.Rule, f.WaitFrom)
	}
	if (wait == 0) != (f.Wait == 0) {
		t.Errorf("wait %v, want %v", f.Wait, wait)
	}
}

const corpusFile = "upstream-failures.json"

// corpus returns the path of a collection of real answers, which is not part of
// this repository: CREDENTIAL_POOL_CORPUS, or in a folder named corpus within one
// that lies beside the repository, or beside a folder that holds it.
func corpus(t *testing.T) string {
	if path := os.Getenv("CREDENTIAL_POOL_CORPUS"); path != "" {
		return path
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if found, _ := filepath.Glob(filepath.Join(dir, "*", "corpus", corpusFile)); len(found) > 0 {
			return found[0]
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Skipf("no %s beside the repository, and CREDENTIAL_POOL_CORPUS is not set", corpusFile)
		}
		dir = parent
	}
}

func TestCorpus(t *testing.T) {
	data, err := os.ReadFile(corpus(t))
	if err != nil {
		t.Fatal(err)
	}
	var answers []answer
	if err := json.Unmarshal(data, &answers); err != nil {
		t.Fatal(err)
	}
	if len(answers) == 0 {
		t.Fatal("it is empty")
	}
	for _, a := range answers {
		t.Run(a.Name, func(t *testing.T) {
			// When the answers came is not known, and must not matter.
			for _, now := range []time.Time{time.Now(), {}, now} {
				a.check(t, lookup(t, a.Provider).Explain(a.answer(now)))
			}
		})
	}
}

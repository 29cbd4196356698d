package credentialpool_test

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/credentialpool/caddy-credential-pool"
)

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// provision checks a config as `caddy validate` does. The storage is a new one.
func provision(t *testing.T, config []byte) {
	t.Helper()
	t.Setenv("AGENT_1_TOKEN", "token-of-agent-1")
	t.Setenv("OPENAI_SPARE_KEY", "key-of-the-example")
	t.Setenv("WEBHOOK_SECRET", "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")
	var cfg caddy.Config
	if err := caddy.StrictUnmarshalJSON(config, &cfg); err != nil {
		t.Fatalf("%v in\n%s", err, config)
	}
	storage, err := json.Marshal(map[string]string{"module": "file_system", "root": t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	cfg.StorageRaw = storage
	if err := caddy.Validate(&cfg); err != nil {
		t.Errorf("%v in\n%s", err, config)
	}
}

func adapt(t *testing.T, text string) []byte {
	t.Helper()
	config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	for _, w := range warnings {
		t.Errorf("%s in\n%s", w.String(), text)
	}
	return config
}

func TestExample_isAValidConfig(t *testing.T) {
	provision(t, adapt(t, read(t, "Caddyfile.example")))
}

func TestExample_isValidWithWhatIsCommented(t *testing.T) {
	// What can be uncommented follows a line with nothing but "#", or stands at
	// the start of a line, and is indented as a config is.
	text := regexp.MustCompile(`(?m)^(\t*)# (pool \w+ \{|\t.*|notify .*|\}|https://.*\{)$`).
		ReplaceAllString(read(t, "Caddyfile.example"), "$1$2")
	if !strings.Contains(text, "\n\t\tpool openai {") || !strings.Contains(text, "\nhttps://openai.example.com {") {
		t.Fatal("found nothing to uncomment")
	}
	provision(t, adapt(t, text))
}

func TestReadme_examplesAreValid(t *testing.T) {
	readme := read(t, "README.md")
	blocks := regexp.MustCompile("(?s)```(caddyfile|json)\n(.*?)```").FindAllStringSubmatch(readme, -1)
	if len(blocks) < 3 {
		t.Fatalf("found %d examples", len(blocks))
	}
	first := ""
	for _, block := range blocks {
		kind, text := block[1], block[2]
		switch {
		case kind == "json":
			provision(t, []byte(text))
		case strings.HasPrefix(text, "{"): // a whole config
			if first == "" {
				first = text
			}
			provision(t, adapt(t, text))
		default: // a site for the pool of the first example
			global, _, _ := strings.Cut(first, "\n}\n")
			provision(t, adapt(t, global+"\n}\n"+text))
		}
	}
}

func TestBuild_isPinnedToWhatTheModuleWants(t *testing.T) {
	var build struct {
		CaddyVersion string `json:"caddy_version"`
		Plugins      []struct {
			ModulePath string `json:"module_path"`
		} `json:"plugins"`
	}
	if err := json.Unmarshal([]byte(read(t, "xcaddy.json")), &build); err != nil {
		t.Fatal(err)
	}
	mod, readme := read(t, "go.mod"), read(t, "README.md")
	if !strings.Contains(mod, "github.com/caddyserver/caddy/v2 "+build.CaddyVersion+"\n") {
		t.Errorf("xcaddy.json builds Caddy %s, go.mod wants another one", build.CaddyVersion)
	}
	if len(build.Plugins) != 1 || !strings.HasPrefix(mod, "module "+build.Plugins[0].ModulePath+"\n") {
		t.Errorf("xcaddy.json builds %+v", build.Plugins)
	}
	for _, command := range []string{
		"go -C internal/build run .",
		"xcaddy build " + build.CaddyVersion + " --with " + build.Plugins[0].ModulePath,
		"go -C internal/build run . && ./caddy run --config Caddyfile.example",
	} {
		if !strings.Contains(readme, command) {
			t.Errorf("README does not say %q", command)
		}
	}
}

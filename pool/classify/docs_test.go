package classify_test

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/pool/classify"
)

var update = flag.Bool("update", false, "write PROVIDERS.md anew")

// The page is what people read of the tables, so it has to say what they say.
func TestDocs_areWhatTheTablesSay(t *testing.T) {
	const file = "PROVIDERS.md"
	want := page()
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the tables say; run: go test ./pool/classify -run Docs -update", file)
	}
}

func page() string {
	var b strings.Builder
	b.WriteString(`# Providers

What the pool knows about each API, made from the tables in this folder by ` + "`go test ./pool/classify -run Docs -update`" + `.

The first rule that holds decides. What none of them decides benches nobody: below 400 it is ` + "`ok`" + `, a 4xx is about the request, a 5xx about the provider. Of the places that say how long to wait, those that say it outright beat those that describe a window; among several of one kind the longest counts. A message is what it begins with, … stands for a few other words, and what it quotes, which may be the client's text, is left out. To see what an answer would be taken for: ` + "`caddy credential-pool explain --provider <provider>`" + `.
`)
	for _, name := range classify.Names() {
		p, _ := classify.Lookup(name)
		writeProvider(&b, p)
	}
	b.WriteString("\n## Token endpoints of all providers\n")
	writeRules(&b, classify.TokenRules())
	return b.String()
}

func writeProvider(b *strings.Builder, p *classify.Provider) {
	fmt.Fprintf(b, "\n## %s\n\n", p.Name)
	for _, in := range p.Inject {
		fmt.Fprintf(b, "- Credential%s: `%s: %s` (%s)\n", ofKind(in.Kind), in.Name, in.Template, cell(in.Source))
	}
	for _, h := range p.Headers {
		verb := "set to"
		if h.Append {
			verb = "with"
		}
		fmt.Fprintf(b, "- Header%s: `%s` %s `%s` (%s)\n", ofKind(h.Kind), h.Name, verb, h.Value, cell(h.Source))
	}
	if len(p.Strip) > 0 {
		fmt.Fprintf(b, "- Removed from what the client sends: `%s`\n", strings.Join(p.Strip, "`, `"))
	}
	if len(p.StripParams) > 0 {
		fmt.Fprintf(b, "- Removed from the query of what the client sends: `%s`\n", strings.Join(p.StripParams, "`, `"))
	}
	if p.Streams {
		b.WriteString("- Failures in the events of a 200 are looked for.\n")
	}
	if p.SmallBodies != nil {
		b.WriteString("- Failures in small JSON bodies of a 2xx are looked for.\n")
	}
	writeRules(b, p.Rules)
	if len(p.Success) > 0 {
		b.WriteString("\nA success that tells that the next request will be refused:\n")
		writeRules(b, p.Success)
	}
	b.WriteString("\nHow long to wait:\n\n")
	for _, w := range p.Waits {
		window := ""
		if w.Window {
			window = ", a window"
		}
		fmt.Fprintf(b, "- %s%s (%s)\n", cell(w.Name), window, cell(w.Source))
	}
}

func ofKind(kind string) string {
	if kind == "" {
		return ""
	}
	return " of kind `" + kind + "`"
}

func writeRules(b *strings.Builder, rules []classify.Rule) {
	b.WriteString("\n| rule | if | meaning | reaches | source |\n|---|---|---|---|---|\n")
	for _, r := range rules {
		if r.Endpoint == classify.EndpointToken {
			r.Also = strings.TrimPrefix(r.Also+"; at the token endpoint", "; ")
		}
		fmt.Fprintf(b, "| %s | %s | `%s` | %s | %s |\n",
			r.Name, cell(cmp.Or(r.Conditions(), "nothing above holds")), r.Meaning, reaches(r), cell(r.Source))
	}
}

// reaches says how far a rule's meaning reaches.
func reaches(r classify.Rule) string {
	switch {
	case r.Scope != "":
		return string(r.Scope)
	case r.Meaning == pool.RequestError:
		return "request"
	case r.Meaning.Benches():
		return "member"
	default:
		return "provider"
	}
}

// cell keeps a text from ending a cell of a table.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

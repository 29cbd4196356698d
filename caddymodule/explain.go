package caddymodule

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/pool/classify"
)

// maxExplained bounds what is read of an answer to explain.
const maxExplained = 1 << 20

// explanation is what the command explain prints.
type explanation struct {
	Meaning pool.Meaning `json:"meaning"`

	// WaitSeconds is null if the answer does not say how long to wait.
	WaitSeconds *float64 `json:"wait_seconds"`

	Scope pool.Scope `json:"scope"`

	// Key names the model or the resource if the scope is model.
	Key string `json:"key,omitempty"`

	// Rule is the rule that decided, and its source.
	Rule string `json:"rule"`

	// WaitFrom is the place in which the wait was found.
	WaitFrom string `json:"wait_from,omitempty"`
}

// explainCommand says what an answer means. It needs no running Caddy.
func explainCommand() *cobra.Command {
	var provider, endpoint string
	var list bool
	cmd := &cobra.Command{
		Use:   "explain --provider <provider>",
		Short: "Says what an answer of an API means, and by which rule",
		Long: `Reads an HTTP response from standard input, as curl -i prints it, and says what
the pool would take it for:

	curl -i https://api.openai.com/v1/models | caddy credential-pool explain --provider openai

With --list, shows what is known about the providers, or about one.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SilenceUsage = true
			if list {
				return listProviders(cmd.OutOrStdout(), provider)
			}
			return explain(cmd.InOrStdin(), cmd.OutOrStdout(), provider, endpoint)
		},
	}
	cmd.Flags().StringVar(&provider, "provider", "", "Whose answer it is: "+strings.Join(classify.Names(), ", "))
	cmd.Flags().StringVar(&endpoint, "endpoint", "api", "Which endpoint answered: api, or token for that of OAuth")
	cmd.Flags().BoolVar(&list, "list", false, "Show the providers and their rules instead")
	return cmd
}

// lookupProvider returns a provider, or an error that says which there are.
func lookupProvider(name string) (*classify.Provider, error) {
	if p, ok := classify.Lookup(name); ok {
		return p, nil
	}
	known := strings.Join(classify.Names(), ", ")
	if name == "" {
		return nil, errors.New("--provider is missing; known: " + known)
	}
	return nil, fmt.Errorf("provider: %q is not known; known: %s", printable(name), known)
}

func explain(in io.Reader, out io.Writer, provider, endpoint string) error {
	p, err := lookupProvider(provider)
	if err != nil {
		return err
	}
	of, ok := map[string]classify.Endpoint{"api": classify.EndpointAPI, "token": classify.EndpointToken}[endpoint]
	if !ok {
		return fmt.Errorf("endpoint: %q is neither api nor token", printable(endpoint))
	}
	answer, err := readAnswer(in)
	if err != nil {
		return err
	}
	answer.Endpoint, answer.Now = of, time.Now()
	found := p.Explain(answer)
	said := explanation{
		Meaning: found.Meaning, Scope: found.Scope, Key: found.Key,
		Rule: fmt.Sprintf("%s: %s (%s)", p.Name, found.Rule, found.Source), WaitFrom: found.WaitFrom,
	}
	if found.Wait > 0 {
		seconds := found.Wait.Seconds()
		said.WaitSeconds = &seconds
	}
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	return enc.Encode(said)
}

// errNoAnswer says what explain reads.
var errNoAnswer = errors.New("standard input holds no HTTP response; it begins with a line such as HTTP/1.1 429 Too Many Requests, as curl -i prints it")

// readAnswer reads a response as curl -i prints it: of several, as with interim
// ones, the last; with the body as it was taken off the connection, whatever
// Transfer-Encoding says.
func readAnswer(in io.Reader) (classify.Answer, error) {
	r := bufio.NewReader(io.LimitReader(in, maxExplained))
	var a classify.Answer
	for {
		status, reason, err := readStatusLine(r)
		if err != nil {
			return a, err
		}
		header, err := textproto.NewReader(r).ReadMIMEHeader()
		if err != nil && !errors.Is(err, io.EOF) {
			return a, errors.New("the response's header can't be read; each line must be name: value, and an empty one must follow")
		}
		a.Status, a.Header = status, http.Header(header)
		// One that a proxy, a redirect or an interim answer has put before it.
		before := status < 200 || (status >= 300 && status < 400) || strings.EqualFold(reason, "connection established")
		if next, _ := r.Peek(len("HTTP/")); !before || string(next) != "HTTP/" {
			break
		}
	}
	body, err := io.ReadAll(r)
	if err != nil {
		return a, fmt.Errorf("reading the response: %w", err)
	}
	// curl decodes the body if it is asked to, but prints the header as it was.
	if a.Body = decode(body, a.Header["Content-Encoding"], peekBytes); len(a.Body) == 0 {
		a.Body = body[:min(len(body), peekBytes)]
	}
	return a, nil
}

// readStatusLine reads a line such as "HTTP/2 429".
func readStatusLine(r *bufio.Reader) (status int, reason string, err error) {
	line, err := r.ReadString('\n')
	if err != nil && line == "" {
		return 0, "", errNoAnswer
	}
	fields := strings.Fields(line)
	if len(fields) < 2 || !strings.HasPrefix(fields[0], "HTTP/") || len(fields[1]) != 3 {
		return 0, "", errNoAnswer
	}
	if status, err = strconv.Atoi(fields[1]); err != nil || status < 100 {
		return 0, "", errNoAnswer
	}
	return status, strings.Join(fields[2:], " "), nil
}

// listProviders prints what is known about the provider of that name, or about
// all.
func listProviders(out io.Writer, name string) error {
	names := classify.Names()
	if name != "" {
		if _, err := lookupProvider(name); err != nil {
			return err
		}
		names = []string{name}
	}
	for i, name := range names {
		p, err := lookupProvider(name)
		if err != nil {
			return err
		}
		if i > 0 {
			fmt.Fprintln(out)
		}
		fmt.Fprintln(out, p.Name)
		for _, rule := range slices.Concat(p.Rules, p.Success) {
			fmt.Fprintf(out, "  %s: %s\n      if %s\n      (%s)\n", rule.Name, rule.Meaning, orDefault(rule.Conditions(), "nothing else holds"), rule.Source)
		}
	}
	return nil
}

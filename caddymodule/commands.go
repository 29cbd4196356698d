package caddymodule

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/credentialpool/caddy-credential-pool/vault"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "credential-pool",
		Short: "Shows and steers the pools of credentials",
		Long: `Shows and steers the pools of credentials of a running Caddy, over its admin API.

A pool, member or credential is named as in the config.`,
		CobraFunc: func(cmd *cobra.Command) { addCommands(cmd) },
	})
}

// operator speaks to the admin API of a running Caddy.
type operator struct {
	address string
	json    bool
	cmd     *cobra.Command
}

func addCommands(root *cobra.Command) {
	op := &operator{}
	root.PersistentFlags().StringVar(&op.address, "address", "", "The address of the admin API (default: as Caddy's other commands)")
	root.PersistentFlags().BoolVar(&op.json, "json", false, "Print the answer of the API as it is")
	// Cobra takes an unknown command below a parent for a request for help,
	// which succeeds; a script must not take a typo for a success.
	root.Args = func(_ *cobra.Command, args []string) error {
		if len(args) > 0 {
			return fmt.Errorf("unknown command %q; see caddy credential-pool --help", printable(args[0]))
		}
		return nil
	}
	root.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	add := func(use, short string, least, most int, run func(args []string) error) *cobra.Command {
		cmd := &cobra.Command{
			Use: use, Short: short,
			Args: func(cmd *cobra.Command, args []string) error {
				if len(args) < least || len(args) > most {
					return fmt.Errorf("it is: caddy credential-pool %s", use)
				}
				return nil
			},
			RunE: func(cmd *cobra.Command, args []string) error {
				op.cmd = cmd
				cmd.SilenceUsage = true
				if slices.Contains(args, "") { // as from a variable that is not set
					return errors.New("a name is empty")
				}
				return run(args)
			},
		}
		root.AddCommand(cmd)
		return cmd
	}

	add("status [<pool>]", "Shows the members of all pools, or of one", 0, 1, op.status)

	var parkFor string
	rotate := add("rotate <pool> [<to>]", "Parks the active member and moves on", 1, 2, func(args []string) error { return op.rotate(args, parkFor) })
	rotate.Flags().StringVar(&parkFor, "park-for", "", "For how long, such as 5m (default: the pool's park_for)")

	var parkTime, reason string
	park := add("park <pool> <member>", "Sets a member aside for a while", 2, 2, func(args []string) error { return op.park(args, parkTime, reason) })
	park.Flags().StringVar(&parkTime, "for", "", "For how long, such as 1h (default: the pool's park_for)")
	park.Flags().StringVar(&reason, "reason", "", "Why, for the notice and the status")

	add("recover <pool> <member>", "Ends a member's cooling and park", 2, 2, op.recover)
	add("list", "Lists the credentials of the vault, without secrets", 0, 0, op.list)

	var fields []string
	var kind string
	put := add("add <pool> <member>", "Puts a credential in the vault; the secret is read from a prompt, or from standard input", 2, 2,
		func(args []string) error { return op.add(args, kind, fields) })
	put.Flags().StringVar(&kind, "kind", vault.KindStatic, "static for a key, or oauth for a login: asked for in parts, or read from standard input as the JSON object that the admin API takes")
	put.Flags().StringArrayVar(&fields, "field", nil, "An extra field that is not secret, as name=value; repeatable")

	op.addImport(add)
	op.addLogin(add)
	add("remove <pool> <member>", "Removes a credential from the vault", 2, 2, op.remove)

	var limit int
	notices := add("notices", "Shows what the operator was told, the newest first", 0, 0, func([]string) error { return op.notices(limit) })
	notices.Flags().IntVar(&limit, "limit", 20, "How many at the most")

	var codex, rotateKey bool
	phantom := add("phantom [<pool>]", "Prints the tokens of a pool's clients that log in with OAuth, or revokes those of all pools", 0, 1,
		func(args []string) error { return op.phantom(args, codex, rotateKey) })
	phantom.Flags().BoolVar(&codex, "codex", false, "Print the auth.json of a Codex CLI that uses the pool")
	phantom.Flags().BoolVar(&rotateKey, "rotate", false, "Revoke the phantom tokens of all pools")

	root.AddCommand(explainCommand())
}

// call makes a request and decodes the answer. With --json it prints it
// instead, and reports that nothing is left to print.
func (op *operator) call(method, path string, body, into any) (printed bool, err error) {
	answer, err := op.ask(method, path, body)
	if err != nil {
		return false, err
	}
	return op.take(answer, into)
}

// take decodes an answer, or prints it with --json.
func (op *operator) take(answer []byte, into any) (printed bool, err error) {
	if op.json {
		_, err := op.cmd.OutOrStdout().Write(answer)
		return true, err
	}
	if into == nil || len(answer) == 0 {
		return false, nil
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return false, fmt.Errorf("reading the answer of the admin API: %w", err)
	}
	return false, nil
}

// ask makes a request and returns the answer.
func (op *operator) ask(method, path string, body any) ([]byte, error) {
	address, err := caddycmd.DetermineAdminAPIAddress(op.address, nil, "", "")
	if err != nil {
		return nil, fmt.Errorf("finding the admin API: %w", err)
	}
	var send io.Reader
	header := make(http.Header)
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encoding the request: %w", err)
		}
		send = bytes.NewReader(b)
		header.Set("Content-Type", "application/json")
	}
	res, err := caddycmd.AdminAPIRequest(address, method, path, header, send)
	if err != nil {
		return nil, apiFailure(address, err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the answer of the admin API: %w", err)
	}
	return answer, nil
}

// apiFailure takes what the API said out of an error of Caddy's client, which
// has no type.
func apiFailure(address string, err error) error {
	if strings.HasPrefix(err.Error(), "performing request: ") {
		return fmt.Errorf("no answer from the admin API at %s (is Caddy running? is --address right?): %w", address, err)
	}
	var said struct {
		Error string `json:"error"`
	}
	_, answer, refused := strings.Cut(err.Error(), "caddy responded with error: HTTP ")
	_, body, _ := strings.Cut(answer, ": ")
	if !refused || json.Unmarshal([]byte(body), &said) != nil || said.Error == "" {
		return err
	}
	return errors.New(said.Error)
}

// untilText is a time with the wait until then.
func untilText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	if wait := time.Until(t); wait >= 0 {
		return fmt.Sprintf("%s (in %s)", t.Local().Format(time.DateTime), wait.Round(time.Second))
	}
	return fmt.Sprintf("%s (%s)", t.Local().Format(time.DateTime), agoText(t))
}

// agoText is how long ago a time was.
func agoText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return fmt.Sprintf("%s ago", max(0, time.Since(t)).Round(time.Second))
}

// table prints rows below a heading.
func (op *operator) table(heading string, rows func(row func(...any))) error {
	w := tabwriter.NewWriter(op.cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, heading)
	rows(func(cells ...any) {
		texts := make([]string, len(cells))
		for i, c := range cells {
			texts[i] = fmt.Sprint(c)
		}
		fmt.Fprintln(w, strings.Join(texts, "\t"))
	})
	return w.Flush()
}

// tell tells the person something besides the command's result.
func (op *operator) tell(format string, args ...any) {
	fmt.Fprintf(op.cmd.ErrOrStderr(), format, args...)
}

func (op *operator) say(format string, args ...any) error {
	_, err := fmt.Fprintf(op.cmd.OutOrStdout(), format+"\n", args...)
	return err
}

func (op *operator) notices(limit int) error {
	var answer struct {
		Notices []Notice `json:"notices"`
	}
	path := adminPrefix + "notices?limit=" + strconv.Itoa(limit)
	if printed, err := op.call(http.MethodGet, path, nil, &answer); printed || err != nil {
		return err
	}
	return op.table("TIME\tKIND\tMESSAGE", func(row func(...any)) {
		for _, n := range answer.Notices {
			row(n.Time.Local().Format(time.DateTime), n.Kind, n.Message)
		}
	})
}

package caddymodule

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

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
	put.Flags().StringVar(&kind, "kind", vault.KindStatic, "static for a key, or oauth for a login, which is read as the JSON object that the admin API takes")
	put.Flags().StringArrayVar(&fields, "field", nil, "An extra field that is not secret, as name=value; repeatable")

	op.addImport(add)
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
	address, err := caddycmd.DetermineAdminAPIAddress(op.address, nil, "", "")
	if err != nil {
		return false, fmt.Errorf("finding the admin API: %w", err)
	}
	var send io.Reader
	header := make(http.Header)
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return false, fmt.Errorf("encoding the request: %w", err)
		}
		send = bytes.NewReader(b)
		header.Set("Content-Type", "application/json")
	}
	res, err := caddycmd.AdminAPIRequest(address, method, path, header, send)
	if err != nil {
		return false, apiFailure(address, err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return false, fmt.Errorf("reading the answer of the admin API: %w", err)
	}
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

func poolPath(name string, more ...string) string {
	var path strings.Builder
	path.WriteString(adminPrefix + "pools/" + url.PathEscape(name))
	for _, segment := range more {
		path.WriteString("/" + url.PathEscape(segment))
	}
	return path.String()
}

func (op *operator) status(args []string) error {
	var answer struct {
		Pools []poolView `json:"pools"`
	}
	if len(args) == 1 {
		answer.Pools = make([]poolView, 1)
		if printed, err := op.call(http.MethodGet, poolPath(args[0]), nil, &answer.Pools[0]); printed || err != nil {
			return err
		}
	} else if printed, err := op.call(http.MethodGet, adminPrefix+"pools", nil, &answer); printed || err != nil {
		return err
	}
	return op.table("POOL\tMEMBER\t\tSTATE\tUNTIL\tFAILURES\tLOGIN EXPIRES\tREFRESHED\tREASON", func(row func(...any)) {
		for _, p := range answer.Pools {
			for _, m := range p.Members {
				row(p.Name, m.Name, mark(m.Active), m.State, untilText(m.Until), m.Failures, untilText(m.ExpiresAt), agoText(m.RefreshedAt), m.why())
				for _, s := range m.Scopes {
					row(p.Name, m.Name, "", "cooling for "+s.Key, untilText(s.Until), s.Failures, "", "", fmt.Sprintf("%s (%s)", s.Meaning, s.Reason))
				}
			}
		}
	})
}

func mark(active bool) string {
	if active {
		return "active"
	}
	return ""
}

func (m memberView) why() string {
	if m.Meaning != "" {
		return fmt.Sprintf("%s (%s)", m.Meaning, m.Reason)
	}
	return m.Reason
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

func (op *operator) say(format string, args ...any) error {
	_, err := fmt.Fprintf(op.cmd.OutOrStdout(), format+"\n", args...)
	return err
}

func (op *operator) rotate(args []string, parkFor string) error {
	body := make(map[string]string)
	if len(args) == 2 {
		body["to"] = args[1]
	}
	if parkFor != "" {
		body["park_for"] = parkFor
	}
	var rot struct {
		From        string    `json:"from"`
		To          string    `json:"to"`
		ParkedUntil time.Time `json:"parked_until"`
	}
	printed, err := op.call(http.MethodPost, poolPath(args[0], "rotate"), body, &rot)
	switch {
	case printed || err != nil:
		return err
	case rot.From == rot.To:
		return op.say("%s is active already", rot.To)
	case rot.ParkedUntil.IsZero():
		return op.say("%s is active", rot.To)
	default:
		return op.say("%s is active; %s is parked until %s", rot.To, rot.From, untilText(rot.ParkedUntil))
	}
}

func (op *operator) park(args []string, parkFor, reason string) error {
	body := make(map[string]string)
	if parkFor != "" {
		body["for"] = parkFor
	}
	if reason != "" {
		body["reason"] = reason
	}
	return op.steer(args, "park", body)
}

func (op *operator) recover(args []string) error { return op.steer(args, "recover", nil) }

func (op *operator) steer(args []string, verb string, body any) error {
	var m memberView
	if printed, err := op.call(http.MethodPost, poolPath(args[0], "members", args[1], verb), body, &m); printed || err != nil {
		return err
	}
	if m.Until.IsZero() {
		return op.say("%s is %s", m.Name, m.State)
	}
	return op.say("%s is %s until %s", m.Name, m.State, untilText(m.Until))
}

func (op *operator) list([]string) error {
	var answer struct {
		Credentials []vault.Info `json:"credentials"`
	}
	if printed, err := op.call(http.MethodGet, adminPrefix+"credentials", nil, &answer); printed || err != nil {
		return err
	}
	return op.table("CREDENTIAL\tKIND\tUPDATED\tEXPIRES\tREFRESHED\tFIELDS\tERROR", func(row func(...any)) {
		for _, c := range answer.Credentials {
			updated, trouble := "", c.Error
			if !c.Updated.IsZero() {
				updated = c.Updated.Local().Format(time.DateTime)
			}
			if c.NeedsLogin {
				trouble = loginLostError(c.Reason).Error()
			}
			row(c.Name, c.Kind, updated, untilText(c.ExpiresAt), agoText(c.RefreshedAt), strings.Join(c.Fields, ", "), trouble)
		}
	})
}

func credentialPath(args []string) string {
	return adminPrefix + "credentials/" + url.PathEscape(args[0]) + "/" + url.PathEscape(args[1])
}

func (op *operator) add(args []string, kind string, fields []string) error {
	if kind != vault.KindStatic && kind != vault.KindOAuth {
		return errors.New("--kind must be static or oauth")
	}
	extra := make(map[string]string, len(fields))
	for _, field := range fields {
		name, value, ok := strings.Cut(field, "=")
		if !ok {
			return errors.New("--field wants name=value")
		}
		extra[name] = value
	}
	text, err := op.readSecret()
	if err != nil {
		return err
	}
	body := credentialBody{Kind: kind, Secret: text}
	if kind == vault.KindOAuth {
		if body, err = parseLogin(text); err != nil {
			return err
		}
		maps.Copy(extra, body.Fields)
	}
	body.Fields = extra
	return op.putCredential(args, body)
}

// parseLogin reads the JSON of a login. Its errors quote nothing of it.
func parseLogin(text string) (credentialBody, error) {
	var body credentialBody
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&body); err != nil || !strings.HasPrefix(strings.TrimSpace(text), "{") {
		return body, fmt.Errorf("a login is a JSON object %s", shapeOf(body))
	}
	if orDefault(body.Kind, vault.KindOAuth) != vault.KindOAuth {
		return body, errors.New("the login's kind must be oauth")
	}
	body.Kind = vault.KindOAuth
	return body, nil
}

func (op *operator) putCredential(args []string, body credentialBody) error {
	var c vault.Info
	if printed, err := op.call(http.MethodPut, credentialPath(args), body, &c); printed || err != nil {
		return err
	}
	if !op.hasMember(args) {
		return op.say("%s is in the vault; no pool of the running config has that member yet", c.Name)
	}
	return op.say("%s is in the vault", c.Name)
}

// hasMember reports whether a pool has a member, if that can be found out.
func (op *operator) hasMember(args []string) bool {
	var p poolView
	if _, err := op.call(http.MethodGet, poolPath(args[0]), nil, &p); err != nil {
		return false
	}
	return slices.ContainsFunc(p.Members, func(m memberView) bool { return m.Name == args[1] })
}

// readSecret asks on a terminal, without showing what is typed, and reads all
// of standard input elsewhere.
func (op *operator) readSecret() (string, error) {
	in := op.cmd.InOrStdin()
	var secret []byte
	var err error
	if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprint(op.cmd.ErrOrStderr(), "Secret: ")
		secret, err = term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(op.cmd.ErrOrStderr())
	} else {
		secret, err = io.ReadAll(io.LimitReader(in, maxAdminBody))
	}
	if err != nil {
		return "", fmt.Errorf("reading the secret: %w", err)
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(secret), "\n"), "\r")
	if text == "" {
		return "", errors.New("no secret was given; type it at the prompt, or send it to standard input")
	}
	return text, nil
}

func (op *operator) remove(args []string) error {
	if printed, err := op.call(http.MethodDelete, credentialPath(args), nil, nil); printed || err != nil {
		return err
	}
	return op.say("%s/%s is removed", args[0], args[1])
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

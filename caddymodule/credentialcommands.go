package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/credentialpool/caddy-credential-pool/vault"
)

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
	extra, err := parsePairs("--field", fields)
	if err != nil {
		return err
	}
	var body credentialBody
	if kind == vault.KindOAuth {
		body, err = op.readLogin(args)
	} else {
		body.Kind = kind
		body.Secret, err = op.readSecret("Secret")
	}
	if err != nil {
		return err
	}
	maps.Copy(extra, body.Fields)
	body.Fields = extra
	return op.putCredential(args, body)
}

// readLogin asks for a login on a terminal, and reads the JSON of one from
// standard input elsewhere.
func (op *operator) readLogin(args []string) (credentialBody, error) {
	p, ok := op.prompter()
	if !ok {
		text, err := op.readSecret("Login")
		if err != nil {
			return credentialBody{}, err
		}
		return parseLogin(text)
	}
	if err := op.tryCredential(args); err != nil { // before all is typed in
		return credentialBody{}, err
	}
	return p.login()
}

// tryCredential makes sure that the vault takes a credential of that name.
func (op *operator) tryCredential(args []string) error {
	_, err := op.ask(http.MethodPost, credentialPath(args)+"/try", nil)
	return err
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
	answer, err := op.ask(http.MethodPut, credentialPath(args), body)
	if err != nil {
		return err
	}
	return op.tellStored(args, answer)
}

// tellStored says what a put has come to.
func (op *operator) tellStored(args []string, answer []byte) error {
	var c vault.Info
	if printed, err := op.take(answer, &c); printed || err != nil {
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
	answer, err := op.ask(http.MethodGet, poolPath(args[0]), nil)
	if err != nil || json.Unmarshal(answer, &p) != nil {
		return false
	}
	return slices.ContainsFunc(p.Members, func(m memberView) bool { return m.Name == args[1] })
}

// readSecret asks for a secret on a terminal, without showing what is typed, and
// reads all of standard input elsewhere.
func (op *operator) readSecret(label string) (string, error) {
	in := op.cmd.InOrStdin()
	var text string
	var err error
	if f, ok := terminal(in); ok {
		text, err = readHidden(f, op.cmd.ErrOrStderr(), label)
	} else {
		var all []byte
		all, err = io.ReadAll(io.LimitReader(in, maxAdminBody))
		text = string(all)
	}
	if errors.Is(err, errGivenUp) {
		return "", err
	}
	if err != nil {
		return "", fmt.Errorf("reading the secret: %w", err)
	}
	if text = withoutNewline(text); text == "" {
		return "", errors.New("no secret was given; type it at the prompt, or send it to standard input")
	}
	return text, nil
}

// clientSecret reads the secret of the client that logs in, if it has one.
func (op *operator) clientSecret(file string) (string, error) {
	switch file {
	case "":
		return "", nil
	case "-":
		return op.readSecret("Client secret")
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("--client-secret-file: %w", err)
	}
	secret := withoutNewline(string(text))
	if secret == "" {
		return "", errors.New("--client-secret-file: the file is empty")
	}
	return secret, nil
}

// withoutNewline removes the end of the line that a secret stands in.
func withoutNewline(text string) string {
	return strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
}

func (op *operator) remove(args []string) error {
	if printed, err := op.call(http.MethodDelete, credentialPath(args), nil, nil); printed || err != nil {
		return err
	}
	return op.say("%s/%s is removed", args[0], args[1])
}

package caddymodule

import (
	"bufio"
	"errors"
	"io"
	"maps"
	"strings"
	"time"

	"github.com/credentialpool/caddy-credential-pool/vault"
)

// prompter asks a person.
type prompter struct {
	line   func(label string) (string, error)
	hidden func(label string) (string, error)
	say    func(format string, args ...any)
}

// prompter returns one if a person sits before the command.
func (op *operator) prompter() (*prompter, bool) {
	f, ok := terminal(op.cmd.InOrStdin())
	if !ok {
		return nil, false
	}
	lines := bufio.NewReader(f)
	return &prompter{
		line: func(label string) (string, error) {
			op.tell("%s: ", label)
			text, err := lines.ReadString('\n')
			if errors.Is(err, io.EOF) {
				op.tell("\n")
				return "", errGivenUp
			}
			return withoutNewline(text), err
		},
		hidden: func(label string) (string, error) {
			return readHidden(f, op.cmd.ErrOrStderr(), label+" (not shown)")
		},
		say: op.tell,
	}, true
}

// loginPart is a part of a login that a person is asked for.
type loginPart struct {
	label            string
	hidden, required bool
	set              func(b *credentialBody, text string) error
}

// of makes the part one that any text fits.
func (p loginPart) of(place func(b *credentialBody) *string) loginPart {
	p.set = func(b *credentialBody, text string) error {
		*place(b) = text
		return nil
	}
	return p
}

// tokenParts are asked for first, refreshParts if there is a refresh token, and
// fieldPart in the end, again and again.
var (
	tokenParts = []loginPart{
		loginPart{label: "Access token", hidden: true, required: true}.of(func(b *credentialBody) *string { return &b.AccessToken }),
		loginPart{label: "Refresh token, empty for none", hidden: true}.of(func(b *credentialBody) *string { return &b.RefreshToken }),
		{label: "End of the access token, such as 2006-01-02T15:04:05Z or 1h, empty if not known", set: setExpiry},
	}
	refreshParts = []loginPart{
		loginPart{label: "Token URL, where it is refreshed", required: true}.of(func(b *credentialBody) *string { return &b.TokenURL }),
		loginPart{label: "Client id", required: true}.of(func(b *credentialBody) *string { return &b.ClientID }),
		loginPart{label: "Client secret, empty for none", hidden: true}.of(func(b *credentialBody) *string { return &b.ClientSecret }),
		loginPart{label: "How the client shows it, params or header, empty for params"}.of(func(b *credentialBody) *string { return &b.AuthStyle }),
		{label: "Scopes, with spaces between, empty if not known", set: func(b *credentialBody, text string) error {
			b.Scopes = strings.Fields(text)
			return nil
		}},
	}
	fieldPart = loginPart{label: "Extra field that is not secret, as name=value, empty for no more", set: setField}
)

// ask asks for a part until the answer is one that the vault takes, and sets it
// in b. An empty answer is one too, unless the part is required.
func (p *prompter) ask(part loginPart, b *credentialBody) (text string, err error) {
	read := p.line
	if part.hidden {
		read = p.hidden
	}
	for {
		if text, err = read(part.label); err != nil {
			return "", err
		}
		if text = strings.TrimSpace(text); text == "" && !part.required {
			return "", nil
		}
		if err := checkPart(part, text); err != nil {
			p.say("That is not taken: %v. Once more, please.\n", err)
			continue
		}
		return text, part.set(b, text)
	}
}

// login asks for a login, one part after the other.
func (p *prompter) login() (credentialBody, error) {
	b := credentialBody{Kind: vault.KindOAuth, Fields: make(map[string]string)}
	for _, part := range tokenParts {
		if _, err := p.ask(part, &b); err != nil {
			return b, err
		}
	}
	if b.RefreshToken != "" {
		for _, part := range refreshParts {
			if _, err := p.ask(part, &b); err != nil {
				return b, err
			}
		}
	}
	for {
		if text, err := p.ask(fieldPart, &b); err != nil || text == "" {
			return b, err
		}
	}
}

// checkPart holds a part of a login to what the vault takes, in a login that
// has nothing else wrong.
func checkPart(part loginPart, text string) error {
	if text == "" {
		return errors.New("it is needed")
	}
	login := credentialBody{
		Kind: vault.KindOAuth, AccessToken: "token", RefreshToken: "token", TokenURL: "https://localhost", ClientID: "id",
		Fields: make(map[string]string),
	}
	if err := part.set(&login, text); err != nil {
		return err
	}
	c, err := login.credential("")
	if err == nil {
		err = c.Check()
	}
	if err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), vault.ErrInvalid.Error()+": "))
	}
	return nil
}

// setExpiry takes a time, or how long from now.
func setExpiry(b *credentialBody, text string) error {
	b.ExpiresAt = text
	if left, err := time.ParseDuration(text); err == nil {
		b.ExpiresAt = time.Now().Add(left).UTC().Format(time.RFC3339)
	}
	return nil
}

func setField(b *credentialBody, text string) error {
	field, err := parsePairs("a field", []string{text})
	maps.Copy(b.Fields, field)
	return err
}

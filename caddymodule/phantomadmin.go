package caddymodule

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"time"
)

// phantomView is a pool's phantom tokens in the answers of the API. They open the
// pool, but are no secret of an account.
type phantomView struct {
	Pool         string `json:"pool"`
	AccountID    string `json:"account_id"`
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	IDToken      string `json:"id_token"`

	// Updated is when the key was made that the tokens are made from.
	Updated time.Time `json:"updated"`
}

func getPhantom(a *App, r *http.Request, args []string) (int, any, error) {
	sp, err := poolOf(a, args[0])
	if err != nil {
		return 0, nil, err
	}
	if err := a.canHavePhantoms(); err != nil {
		return 0, nil, err
	}
	key, err := a.makePhantoms(r.Context())
	if err != nil {
		return 0, nil, err
	}
	p, err := newPhantomTokens(key.Key, sp.Name())
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, phantomView{sp.Name(), phantomAccount(sp.Name()), p.access, p.refresh, p.id, key.Updated}, nil
}

// rotation is the answer to a rotate of the key.
type rotation struct {
	Updated time.Time `json:"updated"`
}

func rotatePhantoms(a *App, r *http.Request, _ []string) (int, any, error) {
	if err := readBody(r, &struct{}{}, true); err != nil {
		return 0, nil, err
	}
	if err := a.canHavePhantoms(); err != nil {
		return 0, nil, err
	}
	key, err := a.rotatePhantoms(r.Context())
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, rotation{key.Updated}, nil
}

func phantomPath(segment string) string { return adminPrefix + "phantom/" + url.PathEscape(segment) }

func (op *operator) phantom(args []string, codex, rotate bool) error {
	switch {
	case rotate && (len(args) > 0 || codex):
		return errors.New("--rotate is about the phantom tokens of all pools; name none, and print the new ones afterwards")
	case rotate:
		return op.rotatePhantoms()
	case len(args) == 0:
		return errors.New("it is: caddy credential-pool phantom <pool>, or caddy credential-pool phantom --rotate")
	case codex && op.json:
		return errors.New("--codex and --json exclude each other")
	}
	var p phantomView
	if printed, err := op.call(http.MethodGet, phantomPath(args[0]), nil, &p); printed || err != nil {
		return err
	}
	if codex {
		return op.codexLogin(p)
	}
	return op.table("TOKEN\tVALUE", func(row func(...any)) {
		row("access_token", p.AccessToken)
		row("refresh_token", p.RefreshToken)
		row("id_token", p.IDToken)
		row("account_id", p.AccountID)
	})
}

func (op *operator) rotatePhantoms() error {
	var r rotation
	if printed, err := op.call(http.MethodPost, phantomPath("rotate"), nil, &r); printed || err != nil {
		return err
	}
	return op.say("the phantom tokens of all pools are revoked; print the new ones with caddy credential-pool phantom <pool>")
}

// codexAuth is the file in which Codex CLI keeps its login.
type codexAuth struct {
	Mode        string      `json:"auth_mode"`
	APIKey      *string     `json:"OPENAI_API_KEY"` // null: there is none
	Tokens      codexTokens `json:"tokens"`
	LastRefresh time.Time   `json:"last_refresh"`
}

type codexTokens struct {
	IDToken      string `json:"id_token"`
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	AccountID    string `json:"account_id"`
}

// codexLogin prints the login of a Codex CLI.
func (op *operator) codexLogin(p phantomView) error {
	enc := json.NewEncoder(op.cmd.OutOrStdout())
	enc.SetIndent("", "  ")
	return enc.Encode(codexAuth{
		Mode: "chatgpt", LastRefresh: time.Now().UTC().Truncate(time.Second),
		Tokens: codexTokens{p.IDToken, p.AccessToken, p.RefreshToken, p.AccountID},
	})
}

package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/credentialpool/caddy-credential-pool/vault"
)

// loginFile is where another program keeps its login.
type loginFile struct {
	program string

	// path is where it lies by default, below the home directory, unless the
	// program's own variable names a folder for it.
	variable, folder, file string

	read func(content []byte) (credentialBody, error)
}

// loginFiles are what can be imported, by the value of --from.
var loginFiles = map[string]loginFile{
	"codex":       {"Codex CLI", "CODEX_HOME", ".codex", "auth.json", readCodexLogin},
	"claude-code": {"Claude Code", "CLAUDE_CONFIG_DIR", ".claude", ".credentials.json", readClaudeCodeLogin},
}

// The token endpoints and public clients of the two programs. Neither has a
// client secret.
const (
	codexTokenURL = "https://auth.openai.com/oauth/token" // github.com/openai/codex, codex-rs/login
	codexClientID = "app_EMoamEEZ73f0CkXaXp7hrann"

	claudeTokenURL = "https://platform.claude.com/v1/oauth/token" // as Claude Code's own requests
	claudeClientID = "9d1c250a-e61b-44d9-88ed-5944d1962f5e"
)

// errNoLogin is what is wrong with most files. It quotes nothing of them.
var errNoLogin = errors.New("it holds no login with an access and a refresh token")

func readCodexLogin(content []byte) (credentialBody, error) {
	var file struct {
		Tokens struct {
			AccessToken  string `json:"access_token"`
			RefreshToken string `json:"refresh_token"`
			AccountID    string `json:"account_id"`
		} `json:"tokens"`
	}
	if json.Unmarshal(content, &file) != nil || file.Tokens.AccessToken == "" || file.Tokens.RefreshToken == "" {
		return credentialBody{}, errNoLogin
	}
	body := credentialBody{
		Kind: vault.KindOAuth, AccessToken: file.Tokens.AccessToken, RefreshToken: file.Tokens.RefreshToken,
		TokenURL: codexTokenURL, ClientID: codexClientID,
	}
	if id := file.Tokens.AccountID; id != "" {
		body.Fields = map[string]string{"account_id": id}
	}
	return body, nil
}

func readClaudeCodeLogin(content []byte) (credentialBody, error) {
	var file struct {
		Login struct {
			AccessToken  string   `json:"accessToken"`
			RefreshToken string   `json:"refreshToken"`
			ExpiresAt    int64    `json:"expiresAt"` // in milliseconds
			Scopes       []string `json:"scopes"`
		} `json:"claudeAiOauth"`
	}
	if json.Unmarshal(content, &file) != nil || file.Login.AccessToken == "" || file.Login.RefreshToken == "" {
		return credentialBody{}, errNoLogin
	}
	body := credentialBody{
		Kind: vault.KindOAuth, AccessToken: file.Login.AccessToken, RefreshToken: file.Login.RefreshToken,
		TokenURL: claudeTokenURL, ClientID: claudeClientID, Scopes: file.Login.Scopes,
	}
	if file.Login.ExpiresAt > 0 {
		body.ExpiresAt = time.UnixMilli(file.Login.ExpiresAt).UTC().Format(time.RFC3339)
	}
	return body, nil
}

// addImport adds the command import.
func (op *operator) addImport(add func(use, short string, least, most int, run func([]string) error) *cobra.Command) {
	var from string
	cmd := add("import <pool> <member> [<file>]", "Puts the login of another program in the vault", 2, 3,
		func(args []string) error { return op.importLogin(args, from) })
	cmd.Long = `Puts the login of the Codex CLI or of Claude Code in the vault, from where it is
refreshed from then on. Its refresh token works only once, so that program must
not refresh it any more: log it in again, or give it a token of the pool. The
file is where the program keeps it, unless one is given; - is standard input.`
	cmd.Flags().StringVar(&from, "from", "", "Whose login it is: codex or claude-code")
}

func (op *operator) importLogin(args []string, from string) error {
	source, ok := loginFiles[from]
	if !ok {
		return errors.New("--from must be codex or claude-code")
	}
	path := source.path()
	if len(args) == 3 {
		path = args[2]
	}
	content, err := op.readFile(path)
	if err != nil {
		return fmt.Errorf("reading the login of %s: %w", source.program, err)
	}
	body, err := source.read(content)
	if err != nil {
		return fmt.Errorf("%s is not a file of %s: %w", path, source.program, err)
	}
	return op.putCredential(args[:2], body)
}

// path is where the program keeps its login.
func (f loginFile) path() string {
	if folder := os.Getenv(f.variable); folder != "" {
		return filepath.Join(folder, f.file)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "."
	}
	return filepath.Join(home, f.folder, f.file)
}

func (op *operator) readFile(path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(io.LimitReader(op.cmd.InOrStdin(), maxAdminBody))
	}
	return os.ReadFile(path)
}

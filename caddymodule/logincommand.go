package caddymodule

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/spf13/cobra"
	"golang.org/x/oauth2"

	"github.com/credentialpool/caddy-credential-pool/vault"
)

// The ways to log in.
const (
	flowDevice = "device"
	flowCode   = "code"
)

const (
	// loginTime is how long is waited for the person, if --timeout does not say.
	loginTime = 10 * time.Minute

	// putTime bounds one attempt to put the login in the vault, whose own calls
	// are bounded by vaultTime.
	putTime = 2 * vaultTime
)

var errAdminSilent = errors.New("the admin API does not answer")

// loginFlags are the flags of the command login.
type loginFlags struct {
	server     authServer
	issuer     string
	clientID   string
	secretFile string
	authStyle  string
	scopes     []string
	params     []string
	fields     []string
	flow       string
	redirect   string
	timeout    time.Duration
}

// addLogin adds the command login.
func (op *operator) addLogin(add func(use, short string, least, most int, run func([]string) error) *cobra.Command) {
	f := new(loginFlags)
	cmd := add("login <pool> <member>", "Logs an account in with OAuth, and puts the login in the vault", 2, 2,
		func(args []string) error { return op.login(args, f) })
	cmd.Long = `Logs an account in at its provider, and puts the login in the vault, from where
it is refreshed from then on. It needs a client that the provider has registered
(--client-id), and where the provider's endpoints are: --issuer finds them.

With --flow device you enter a code in a browser on any machine (RFC 8628). With
--flow code a browser on this machine is sent back to the command (RFC 8252); if
that browser is elsewhere, choose a port with --redirect and forward it, as with
ssh -L 1455:127.0.0.1:1455. Nothing is asked of you before the vault is seen to
take the login.`
	cmd.Example = `  caddy credential-pool login api work --issuer https://login.example.com --client-id pool \
    --scope openid --scope offline_access`
	flags := cmd.Flags()
	flags.StringVar(&f.issuer, "issuer", "", "The authorization server, whose metadata (RFC 8414, OpenID Connect) names its endpoints")
	flags.StringVar(&f.server.AuthURL, "auth-url", "", "The authorization endpoint, in place of what the issuer names")
	flags.StringVar(&f.server.TokenURL, "token-url", "", "The token endpoint, in place of what the issuer names")
	flags.StringVar(&f.server.DeviceURL, "device-url", "", "The device authorization endpoint, in place of what the issuer names")
	flags.StringVar(&f.clientID, "client-id", "", "The id under which the provider has registered the client")
	flags.StringVar(&f.secretFile, "client-secret-file", "", "The file that holds the client's secret, if it has one; - is a prompt, or standard input")
	flags.StringVar(&f.authStyle, "auth-style", "", "How the client shows its secret: params, or header for HTTP Basic (default: as the issuer says, else params)")
	flags.StringArrayVar(&f.scopes, "scope", nil, "A scope to ask for; repeatable. Many providers give a refresh token only with offline_access")
	flags.StringVar(&f.flow, "flow", "", "device or code (default: device, if the provider has it)")
	flags.StringVar(&f.redirect, "redirect", defaultRedirect, "With --flow code, where on this machine the browser is sent back to, as the client is registered; port 0 is a free one")
	flags.StringArrayVar(&f.params, "param", nil, "A further parameter of the authorization request, as name=value; repeatable")
	flags.StringArrayVar(&f.fields, "field", nil, "An extra field of the credential that is not secret, as name=value; repeatable")
	flags.DurationVar(&f.timeout, "timeout", loginTime, "How long to wait for you, and after that for a vault that fails")
}

// authorization is the login of a person at an authorization server.
type authorization struct {
	name   string // of the credential
	server authServer
	config oauth2.Config
	params []oauth2.AuthCodeOption
	fields map[string]string // of the credential
	heard  *loginTransport
	client *http.Client // that has it

	// secrets are those that the server was told, and may repeat.
	secrets []string

	say  func(format string, args ...any)
	wait func(text string) (stop func())
}

// login logs in, and puts the result in the vault.
func (op *operator) login(args []string, f *loginFlags) error {
	a, err := f.authorization(args)
	if err != nil {
		return err
	}
	secret, err := op.clientSecret(f.secretFile)
	if err != nil {
		return err
	}
	if err := op.tryCredential(args); err != nil {
		return err
	}
	a.say, a.wait = op.tell, func(text string) func() { return spin(op.cmd.ErrOrStderr(), text) }
	if !op.hasMember(args) {
		op.tell("No pool of the running config has the member %s yet. The login is kept for it.\n", a.name)
	}
	ctx, end := signal.NotifyContext(op.cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer end()
	body, err := a.run(ctx, newTokenClient(), f, secret)
	switch {
	case ctx.Err() != nil:
		return errGivenUp
	case err != nil:
		return err
	}
	return op.keepLogin(ctx, args, body, f.timeout)
}

// authorization checks the flags that can be checked before anybody is asked.
func (f *loginFlags) authorization(args []string) (*authorization, error) {
	a := &authorization{name: args[0] + "/" + args[1]}
	switch {
	case f.clientID == "":
		return nil, errors.New("--client-id is missing: it is the id under which the provider has registered the client")
	case f.issuer == "" && f.server.TokenURL == "":
		return nil, errors.New("say where to log in: --issuer, or --token-url with --device-url or --auth-url")
	case !slices.Contains([]string{"", flowDevice, flowCode}, f.flow):
		return nil, errors.New("--flow must be device or code")
	case !slices.Contains([]string{"", vault.AuthParams, vault.AuthHeader}, f.authStyle):
		return nil, errors.New("--auth-style must be params or header")
	case f.timeout <= 0:
		return nil, errors.New("--timeout must be more than zero")
	}
	for _, e := range f.server.endpoints() {
		if *e.url == "" {
			continue
		}
		if err := vault.CheckTokenURL(*e.url); err != nil {
			return nil, fmt.Errorf("%s %w", e.flag, err)
		}
	}
	params, err := parsePairs("--param", f.params)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(params)) {
		if slices.Contains(ownParams, name) {
			return nil, fmt.Errorf("--param: %s is the command's own", name)
		}
		a.params = append(a.params, oauth2.SetAuthURLParam(name, params[name]))
	}
	if a.fields, err = parsePairs("--field", f.fields); err != nil {
		return nil, err
	}
	a.config = oauth2.Config{ClientID: f.clientID}
	for _, scope := range f.scopes {
		a.config.Scopes = append(a.config.Scopes, strings.Fields(scope)...)
	}
	return a, nil
}

// ownParams are those of an authorization request that --param can't change.
var ownParams = []string{
	"client_id", "client_secret", "code_challenge", "code_challenge_method", "redirect_uri", "response_mode",
	"response_type", "scope", "state",
}

// parsePairs reads the values of a flag. Its errors do not show them.
func parsePairs(flag string, pairs []string) (map[string]string, error) {
	parsed := make(map[string]string, len(pairs))
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("%s wants name=value", flag)
		}
		if _, twice := parsed[name]; twice {
			return nil, fmt.Errorf("%s names %s twice", flag, printable(name))
		}
		parsed[name] = value
	}
	return parsed, nil
}

// run finds the server and logs in there.
func (a *authorization) run(ctx context.Context, client *http.Client, f *loginFlags, secret string) (credentialBody, error) {
	a.server = f.server
	if f.issuer != "" {
		known, err := discover(ctx, client, f.issuer)
		if err != nil {
			return credentialBody{}, err
		}
		a.server = known
		given := f.server.endpoints()
		for i, e := range a.server.endpoints() {
			*e.url = orDefault(*given[i].url, *e.url)
		}
	}
	style, err := f.authStyle, error(nil)
	if style == "" {
		style, err = a.server.authStyle(secret)
	}
	if err != nil {
		return credentialBody{}, err
	}
	flow, err := a.server.flow(f.flow)
	if err != nil {
		return credentialBody{}, err
	}
	a.connect(client, secret, style)
	// All but the tokens is known, and what the vault would not take is said now.
	if _, err := a.body(&oauth2.Token{AccessToken: "to come", RefreshToken: "to come"}, style, time.Now()); err != nil {
		return credentialBody{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, f.timeout,
		fmt.Errorf("nobody has logged in within %s (--timeout); nothing was stored", f.timeout))
	defer cancel()
	var token *oauth2.Token
	if flow == flowDevice {
		token, err = a.deviceLogin(ctx)
	} else {
		token, err = a.codeLogin(ctx, f.redirect)
	}
	if err != nil {
		return credentialBody{}, err
	}
	a.warn(token)
	body, err := a.body(token, style, time.Now())
	if err != nil {
		err = fmt.Errorf("the provider's tokens can't be stored: %w", err)
	}
	return body, err
}

// flow returns how to log in: as wanted, if the server can do that.
func (s *authServer) flow(want string) (string, error) {
	switch {
	case s.TokenURL == "":
		return "", errors.New("the issuer names no token endpoint; give --token-url")
	case want == flowDevice && s.DeviceURL == "":
		return "", errors.New("the device authorization endpoint is not known; give --device-url, or use --flow code")
	case want == flowCode && s.AuthURL == "":
		return "", errors.New("the authorization endpoint is not known; give --auth-url, or use --flow device")
	case want != "":
		return want, nil
	case s.DeviceURL != "":
		return flowDevice, nil
	case s.AuthURL != "":
		return flowCode, nil
	}
	return "", errors.New("there is no endpoint to log in at; give --device-url or --auth-url")
}

// connect makes the client that speaks to the server.
func (a *authorization) connect(client *http.Client, secret, style string) {
	a.config.ClientSecret, a.secrets = secret, []string{secret}
	a.config.Endpoint = oauth2.Endpoint{
		AuthURL: a.server.AuthURL, TokenURL: a.server.TokenURL, DeviceAuthURL: a.server.DeviceURL,
		AuthStyle: oauth2Style(style),
	}
	a.heard = &loginTransport{listener: listener{next: client.Transport}}
	if style == vault.AuthHeader && secret != "" {
		basic := url.QueryEscape(a.config.ClientID) + ":" + url.QueryEscape(secret) // RFC 6749, section 2.3.1
		basic = base64.StdEncoding.EncodeToString([]byte(basic))
		a.heard.basic, a.secrets = "Basic "+basic, append(a.secrets, basic)
	}
	a.client = through(client, a.heard)
}

// asking makes the oauth2 package ask through the login's client.
func (a *authorization) asking(ctx context.Context) context.Context {
	return context.WithValue(ctx, oauth2.HTTPClient, a.client)
}

// body returns the login as it is put. The error is about what the vault would
// not take.
func (a *authorization) body(token *oauth2.Token, style string, now time.Time) (credentialBody, error) {
	body := credentialBody{
		Kind: vault.KindOAuth, AccessToken: token.AccessToken, RefreshToken: token.RefreshToken,
		TokenURL: a.server.TokenURL, ClientID: a.config.ClientID, ClientSecret: a.config.ClientSecret,
		Scopes: a.config.Scopes, Fields: make(map[string]string),
	}
	if body.ClientSecret != "" {
		body.AuthStyle = style
	}
	// What can be refreshed gets an end in any case; else nobody knows when to.
	if token.RefreshToken != "" || token.ExpiresIn > 0 || !token.Expiry.IsZero() {
		body.ExpiresAt = now.Add(lifetime(token, now)).UTC().Format(time.RFC3339)
	}
	if id, ok := token.Extra("id_token").(string); ok {
		if account := accountOf(id); account != "" {
			body.Fields["account_id"] = account
		}
	}
	maps.Copy(body.Fields, a.fields)
	c, err := body.credential(a.name)
	if err == nil {
		err = c.Check()
	}
	return body, err
}

// warn says what the server has not given.
func (a *authorization) warn(token *oauth2.Token) {
	if granted, ok := token.Extra("scope").(string); ok && granted != "" {
		given := append(strings.Fields(granted), strings.Split(granted, ",")...) // GitHub has commas
		missing := slices.DeleteFunc(slices.Clone(a.config.Scopes), func(s string) bool {
			return s == "offline_access" || slices.Contains(given, s)
		})
		if len(missing) > 0 {
			a.say("Warning: the provider has not granted the scope %s.\n", strings.Join(missing, ", "))
		}
	}
	switch {
	case token.RefreshToken != "":
	case slices.Contains(a.config.Scopes, "offline_access"):
		a.say("Warning: the provider gave no refresh token, although offline_access was asked for. The login ends with its\n" +
			"access token. May this client have one (its grant type refresh_token)?\n")
	default:
		a.say("Warning: the provider gave no refresh token. The login ends with its access token. If it should last,\n" +
			"log in again with --scope offline_access, or what this provider wants for it (Google: --param access_type=offline).\n")
	}
}

// keepLogin puts a login in the vault, and again if that fails: the person would
// have to log in once more.
func (op *operator) keepLogin(ctx context.Context, args []string, body credentialBody, patience time.Duration) error {
	waits := backoff.NewExponentialBackOff()
	waits.InitialInterval, waits.MaxInterval = time.Second, 15*time.Second
	answer, err := backoff.Retry(ctx, func() ([]byte, error) {
		ctx, cancel := context.WithTimeoutCause(ctx, putTime, errAdminSilent)
		defer cancel()
		return unless(ctx, func() ([]byte, error) { return op.ask(http.MethodPut, credentialPath(args), body) })
	}, backoff.WithBackOff(waits), backoff.WithMaxElapsedTime(patience), backoff.WithNotify(func(err error, wait time.Duration) {
		op.tell("You are logged in, but the vault does not take it: %v.\n"+
			"It is tried again in %s, until it works; mend it meanwhile. Ctrl-C gives the login up.\n", err, wait.Round(time.Second))
	}))
	switch {
	case ctx.Err() != nil:
		return errors.New("the login is given up; if caddy credential-pool list does not show it, log in again")
	case err != nil:
		return fmt.Errorf("the login is lost, since the vault did not take it within %s (--timeout): %w; mend that and log in again", patience, err)
	}
	return op.tellStored(args, answer)
}

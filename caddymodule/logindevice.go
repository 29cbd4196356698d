package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/oauth2"
)

// How often a server is asked, in seconds (RFC 8628, section 3.2).
const (
	defaultPoll = 5    // if it does not say
	slowestPoll = 60   // when it can't be reached, unless it wants it slower
	maxPoll     = 3600 // whatever it says
)

// deviceLogin logs in with the device authorization grant of RFC 8628: the
// person enters a code in any browser, and meanwhile the server is asked for the
// tokens again and again.
func (a *authorization) deviceLogin(ctx context.Context) (*oauth2.Token, error) {
	code, err := a.deviceCode(ctx)
	if err != nil {
		return nil, err
	}
	a.secrets = append(a.secrets, code.DeviceCode)
	end, _ := ctx.Deadline() // of the login
	a.tellCode(code, end)
	told := ""
	for {
		done := a.wait("Waiting for the login")
		token, err := a.config.DeviceAccessToken(a.asking(ctx), code)
		done()
		switch {
		case err == nil:
			return token, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case !code.Expiry.IsZero() && !time.Now().Before(code.Expiry):
			return nil, errors.New(refusalHints["expired_token"])
		case !a.mayPass():
			return a.rescue(err)
		}
		if why := a.whyNoTokens("the token endpoint", err).Error(); why != told {
			a.say("%s. It is asked again.\n", sentence(why))
			told = why
		}
		// RFC 8628, section 3.5: slow_down is for all that follow, and a server that
		// does not answer is asked less often.
		code.Interval += 5 * a.heard.slowed
		a.heard.slowed = 0
		code.Interval = max(code.Interval, min(2*code.Interval, slowestPoll))
	}
}

// mayPass reports whether the server may answer again after its last answer: it
// could not be reached, or is not well.
func (a *authorization) mayPass() bool {
	return a.heard.err != nil || a.heard.status >= 500 || a.heard.status == http.StatusTooManyRequests
}

// deviceCode asks for a code.
func (a *authorization) deviceCode(ctx context.Context) (*oauth2.DeviceAuthResponse, error) {
	options := a.params
	if a.config.ClientSecret != "" && a.config.Endpoint.AuthStyle == oauth2.AuthStyleInParams {
		options = append(options, oauth2.SetAuthURLParam("client_secret", a.config.ClientSecret))
	}
	// The package does not heed the context here.
	code, err := unless(ctx, func() (*oauth2.DeviceAuthResponse, error) {
		return a.config.DeviceAuth(a.asking(ctx), options...)
	})
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, a.whyNoTokens("the device authorization endpoint", err)
	case code.DeviceCode == "" || code.UserCode == "":
		return nil, errors.New("the answer of the device authorization endpoint holds no code; is its URL right?")
	}
	for _, page := range []string{code.VerificationURI, orDefault(code.VerificationURIComplete, code.VerificationURI)} {
		if u, err := url.Parse(page); err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
			return nil, errors.New("the device authorization endpoint names no page to open; is its URL right?")
		}
	}
	if code.Interval = min(code.Interval, maxPoll); code.Interval < 1 {
		code.Interval = defaultPoll
	}
	if !code.Expiry.After(time.Now()) { // nonsense; the command's own timeout holds
		code.Expiry = time.Time{}
	}
	return code, nil
}

// tellCode says what the person has to do, until the code or the login ends.
func (a *authorization) tellCode(code *oauth2.DeviceAuthResponse, end time.Time) {
	a.say("\nTo log in %s, open this page in a browser, on any machine:\n\n    %s\n\nand enter the code:\n\n    %s\n\n",
		a.name, shown(code.VerificationURI), shown(code.UserCode))
	if code.VerificationURIComplete != "" {
		a.say("This page has the code filled in:\n\n    %s\n\n", shown(code.VerificationURIComplete))
	}
	if !code.Expiry.IsZero() && code.Expiry.Before(end) {
		end = code.Expiry
	}
	a.say("That has to be done within %s.\n", time.Until(end).Round(time.Second))
}

// rescue makes the best of an answer that the oauth2 package takes for a
// failure: tokens in one that is odd elsewhere must not get lost.
func (a *authorization) rescue(err error) (*oauth2.Token, error) {
	if token, ok := a.heard.token(err); ok && a.heard.err == nil {
		return token, nil
	}
	return nil, a.whyNoTokens("the token endpoint", err)
}

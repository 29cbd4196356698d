package caddymodule

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
)

// typist answers prompts, one after the other, and keeps what was shown.
type typist struct {
	answers []string
	shown   strings.Builder
}

func (y *typist) prompter() *prompter {
	answer := func(label string) (string, error) {
		fmt.Fprintf(&y.shown, "%s\n", label)
		if len(y.answers) == 0 {
			return "", errGivenUp
		}
		next := y.answers[0]
		y.answers = y.answers[1:]
		return next, nil
	}
	return &prompter{
		line:   func(label string) (string, error) { return answer("shown: " + label) },
		hidden: func(label string) (string, error) { return answer("hidden: " + label) },
		say:    func(format string, args ...any) { fmt.Fprintf(&y.shown, format, args...) },
	}
}

func TestPrompt_asksForALogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := &typist{answers: []string{
			canaryA + " ", canaryB, "1h", "https://id.example.com/token", "app", canaryField, "header", "a  b",
			"account_id=acc=1", "plan=team", "",
		}}
		got, err := y.prompter().login()
		want := credentialBody{
			Kind: "oauth", AccessToken: canaryA, RefreshToken: canaryB, ExpiresAt: "2000-01-01T01:00:00Z",
			TokenURL: "https://id.example.com/token", ClientID: "app", ClientSecret: canaryField, AuthStyle: "header",
			Scopes: []string{"a", "b"}, Fields: map[string]string{"account_id": "acc=1", "plan": "team"},
		}
		if err != nil || !reflect.DeepEqual(got, want) || len(y.answers) > 0 {
			t.Errorf("error %v, got %d fields, %d answers are left", err, len(got.Fields), len(y.answers))
		}
		if hidden := strings.Count(y.shown.String(), "hidden: "); hidden != 3 {
			t.Errorf("%d prompts hide what is typed:\n%s", hidden, y.shown.String())
		}
	})
}

func TestPrompt_asksForLessWithoutARefreshToken(t *testing.T) {
	y := &typist{answers: []string{canaryA, "", "", ""}}
	got, err := y.prompter().login()
	if err != nil || got.AccessToken != canaryA || got.ExpiresAt != "" || len(y.answers) > 0 || strings.Contains(y.shown.String(), "Client") {
		t.Errorf("error %v, %d answers are left, and it asks\n%s", err, len(y.answers), y.shown.String())
	}
}

func TestPrompt_asksAgain(t *testing.T) {
	right := []string{canaryA, canaryB, "2030-01-01T00:00:00Z", "http://127.0.0.1:1/token", "app", canaryField, "params", "a", "x=1", ""}
	for at, wrong := range map[int]map[string]string{
		0: {"": "it is needed", "a\x01b": "access_token has a control character", strings.Repeat("x", 32<<10+1): "has more than 32768 bytes"},
		1: {"a\x01b": "refresh_token has a control character"},
		2: {"tomorrow": "expires_at: it must be a time such as", "2030-01-01": "it must be a time such as", "0001-01-01T00:00:01Z": "expires_at is out of range"},
		3: {"": "it is needed", "id.example.com/token": "token_url is not an https URL with a host", "http://id.example.com/": "token_url is not https"},
		4: {"": "it is needed", "\x01": "client_id has a control character"},
		6: {"basic": "auth_style is not known (known: params, header)"},
		7: {strings.Repeat("a ", 65): "65 scopes are too many"},
		8: {"plan": "a field wants name=value", "Plan=x": "a field's name is not of 1 to 63 of a-z", "plan=": `field "plan" is empty`},
	} {
		for text, want := range wrong {
			y := &typist{answers: append(append(append([]string{}, right[:at]...), text), right[at:]...)}
			got, err := y.prompter().login()
			if err != nil || got.AccessToken != canaryA || got.ClientID != "app" || got.Fields["x"] != "1" {
				t.Errorf("%d %.20q: error %v", at, text, err)
			}
			if !strings.Contains(y.shown.String(), want) || strings.Count(y.shown.String(), "Once more, please.") != 1 {
				t.Errorf("%d %.20q: it says\n%s\nwant %s", at, text, y.shown.String(), want)
			}
		}
	}
}

func TestPrompt_canBeGivenUpAnywhere(t *testing.T) {
	all := []string{canaryA, canaryB, "", "https://id.example.com/token", "app", "", "", "", "x=1"}
	for n := range all {
		y := &typist{answers: all[:n]}
		if _, err := y.prompter().login(); !errors.Is(err, errGivenUp) {
			t.Errorf("after %d answers: error %v", n, err)
		}
		for _, form := range canaries() {
			if strings.Contains(y.shown.String(), form) {
				t.Error("it shows a secret")
			}
		}
	}
}

package classify

import (
	"strings"
	"testing"
	"time"
)

func TestUnquoted(t *testing.T) {
	for message, want := range map[string]string{
		"the model `x` does not exist":           "the model ` does not exist",
		"the models 'a' and 'b' are not":         "the models ' are not",
		`unknown name "a" at 'b': no field`:      `unknown name " at ': no field`,
		`"x" is none`:                            `" is none`,
		"you're out of it, and don't [x] again":  "you're out of it, and don't [ again",
		"users' quota is `x":                     "users' quota is `",
		"“x” and ‘y’ and «z» are none":           "“ and ‘ and « are none",
		"it isn’t ours":                          "it isn’t ours",
		"name 'it's y' is taken":                 "name ' is taken",
		"model: x. your limit is reached":        "model: ",
		"the 'a` b' c` d":                        "the ' c`",
		"limit for `a` in `b` (tpm): limit 7000": "limit for ` (tpm): limit 7000",
		"":                                       "", "'": "'", "[": "[", "plain": "plain",
	} {
		if got := string(unquoted([]byte(message))); got != want {
			t.Errorf("%s: %q, want %q", message, got, want)
		}
	}
}

func TestBegins(t *testing.T) {
	for _, tt := range []struct {
		message, words string
		want           bool
	}{
		{"your limit is reached", "your limit", true},
		{"not your limit", "your limit", false},
		{"not your limit", "*your limit", true},
		{"your team t has a limit", "your team * has a limit", true},
		{"your team t is new. it has a limit", "your team * has a limit", false},
		{"your team " + strings.Repeat("t", 200) + " has a limit", "your team * has a limit", false},
		{"is at a and b", "*at * and b", true},
		{"", "a", false},
		{"", "*a", false},
	} {
		if got := begins([]byte(tt.message), tt.words); got != tt.want {
			t.Errorf("%q begins with %q: %v", tt.message, tt.words, got)
		}
	}
}

func TestWithoutEscapedQuotes(t *testing.T) {
	for body, want := range map[string]string{
		`{"a":"b"}`:                       `{"a":"b"}`,
		`{"a":"no \"b\" or \"c\" d"}`:     `{"a":"no \" d"}`,
		`{"a":"\"b\"","c":"\\","d":"\""}`: `{"a":"\"","c":"\\","d":"\""}`,
		`\`:                               `\`,
	} {
		if got := string(withoutEscapedQuotes([]byte(body))); got != want {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
}

func FuzzUnquoted(f *testing.F) {
	f.Add("a 'b' `c` \"d\" [e] “f” model: g")
	f.Fuzz(func(t *testing.T, message string) {
		start := time.Now()
		got := unquoted([]byte(message))
		if len(got) > len(message) || time.Since(start) > time.Second {
			t.Errorf("%q: %q", message, got)
		}
		// What is between the first and the last mark is never the message's.
		if got := string(unquoted([]byte("a `" + message + "` b"))); got != "a ` b" && !hasIntroduction(message) {
			t.Errorf("quoted %q: %q", message, got)
		}
	})
}

func hasIntroduction(message string) bool {
	for _, intro := range introductions {
		if strings.Contains("a `"+message+"` b", intro) {
			return true
		}
	}
	return false
}

package vault

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const canary = "canary-hunter2"

// holder has a secret in every place that a printer treats in its own way.
type holder struct {
	Exported Secret
	Pointer  *Secret
	Map      map[string]Secret
	Slice    []Secret
	Any      any
	hidden   Secret
	deep     struct{ hidden []Secret }
}

func newHolder() holder {
	s := NewSecret(canary)
	h := holder{
		Exported: s, Pointer: &s, Map: map[string]Secret{"k": s}, Slice: []Secret{s}, Any: s, hidden: s,
	}
	h.deep.hidden = []Secret{s}
	return h
}

func TestSecret_revealsOnlyOnRequest(t *testing.T) {
	s := NewSecret(canary)
	if got := s.Reveal(); got != canary {
		t.Errorf("Reveal() = %q, want the secret", got)
	}
	if s.IsZero() {
		t.Error("IsZero() = true for a secret")
	}
	for _, empty := range []Secret{{}, NewSecret("")} {
		if empty.Reveal() != "" || !empty.IsZero() {
			t.Errorf("an empty secret reveals %q, IsZero() = %t", empty.Reveal(), empty.IsZero())
		}
	}
}

func TestSecret_isRedactedUnderEveryVerb(t *testing.T) {
	s := NewSecret(canary)
	for verb := 'A'; verb <= 'z'; verb++ {
		for _, flags := range []string{"", "+", "#", "-40", "040", " ", ".3"} {
			format := "%" + flags + string(verb)
			// fmt itself answers T and p, and w outside of Errorf.
			if got := fmt.Sprintf(format, s); isLetter(verb) && !strings.ContainsRune("Tpw", verb) && got != redacted {
				t.Errorf("%s gives %q, want %s", format, got, redacted)
			}
			for _, in := range []any{s, &s, newHolder(), Credential{Secret: s, Fields: map[string]Secret{"f": s}}} {
				if got := fmt.Sprintf(format, in); leaks(got) {
					t.Errorf("%s of %T leaks: %s", format, in, got)
				}
			}
		}
	}
	if got := s.String() + s.GoString() + fmt.Sprint(s) + fmt.Sprintln(s); leaks(got) || !strings.Contains(got, redacted) {
		t.Errorf("printed: %s", got)
	}
	if err := fmt.Errorf("wrapping %v and %+v", s, newHolder()); leaks(err.Error()) {
		t.Errorf("error leaks: %v", err)
	}
}

func TestSecret_isRedactedByEncoders(t *testing.T) {
	s := NewSecret(canary)
	if got, err := json.Marshal(s); err != nil || string(got) != `"REDACTED"` {
		t.Errorf("JSON is %s, %v", got, err)
	}
	if got, err := s.MarshalText(); err != nil || string(got) != redacted {
		t.Errorf("text is %s, %v", got, err)
	}
	if got, err := json.Marshal(newHolder()); err != nil || leaks(string(got)) {
		t.Errorf("JSON of a struct is %s, %v", got, err)
	}
	if got, err := xml.Marshal(s); err != nil || leaks(string(got)) {
		t.Errorf("XML is %s, %v", got, err)
	}
}

func TestSecret_isRedactedByLoggers(t *testing.T) {
	s := NewSecret(canary)
	var out bytes.Buffer
	for _, enc := range []zapcore.Encoder{
		zapcore.NewJSONEncoder(zap.NewDevelopmentEncoderConfig()),
		zapcore.NewConsoleEncoder(zap.NewDevelopmentEncoderConfig()),
	} {
		logger := zap.New(zapcore.NewCore(enc, zapcore.AddSync(&out), zap.DebugLevel))
		logger.Info("zap", zap.Any("secret", s), zap.Any("pointer", &s), zap.Any("holder", newHolder()),
			zap.Stringer("stringer", s), zap.Reflect("reflect", s), zap.Reflect("holder", newHolder()))
		logger.Sugar().Infow("sugar "+fmt.Sprint(newHolder()), "secret", s, "holder", newHolder())
		logger.Sugar().Infof("%v %+v %#v", s, newHolder(), newHolder())
	}
	for _, h := range []slog.Handler{slog.NewJSONHandler(&out, nil), slog.NewTextHandler(&out, nil)} {
		slog.New(h).Info("slog", "secret", s, "pointer", &s, "holder", newHolder())
	}
	if leaks(out.String()) {
		t.Errorf("a log leaks:\n%s", &out)
	}
	if n := strings.Count(out.String(), redacted); n < 30 {
		t.Errorf("REDACTED stands %d times in the logs, so they were not written:\n%s", n, &out)
	}
}

func isLetter(r rune) bool { return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' }

// leaks looks for the canary in clear and as the verbs for bytes would print it.
func leaks(s string) bool {
	s = strings.ToLower(s)
	return strings.Contains(s, "hunter2") ||
		strings.Contains(s, fmt.Sprintf("%x", "hunter2")) ||
		strings.Contains(s, fmt.Sprintf("% x", "hunter2")) ||
		strings.Contains(s, "104 117 110 116 101 114 50")
}

package caddymodule

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// terminal returns the file if it is one that a person sits at.
func terminal(stream any) (*os.File, bool) {
	f, ok := stream.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

// errGivenUp is returned when the person ends a prompt, or the command.
var errGivenUp = errors.New("given up; nothing was stored")

// readHidden asks for a line at a terminal, and does not show what is typed. A
// terminal's own lines are cut at 1,024 or 4,096 bytes, depending on the system,
// and tokens can be longer; so the keys are read one by one.
func readHidden(f *os.File, w io.Writer, label string) (string, error) {
	state, err := term.MakeRaw(int(f.Fd())) // before it is asked: nothing that is typed may be shown
	if err != nil {
		return "", err
	}
	defer func() {
		_ = term.Restore(int(f.Fd()), state)
		fmt.Fprintln(w)
	}()
	fmt.Fprintf(w, "%s: ", label)
	const (
		ctrlC, ctrlD, ctrlH, ctrlU, del = 0x03, 0x04, 0x08, 0x15, 0x7f
	)
	var line []byte
	for key := make([]byte, 1); len(line) <= maxAdminBody; {
		if _, err := f.Read(key); err != nil {
			return "", err
		}
		switch key[0] {
		case '\r', '\n':
			return string(line), nil
		case ctrlC, ctrlD:
			return "", errGivenUp
		case ctrlU:
			line = line[:0]
		case ctrlH, del:
			_, size := utf8.DecodeLastRune(line)
			line = line[:len(line)-size]
		default:
			line = append(line, key[0])
		}
	}
	return "", fmt.Errorf("it has more than %d bytes", maxAdminBody)
}

// spin shows on a terminal that the command waits, until the returned function
// is called, which takes it away again. Elsewhere it is one line.
func spin(w io.Writer, text string) (stop func()) {
	if _, ok := terminal(w); !ok || os.Getenv("TERM") == "dumb" {
		fmt.Fprintf(w, "%s…\n", text)
		return func() {}
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		turn := time.NewTicker(120 * time.Millisecond)
		defer turn.Stop()
		for i := 0; ; i++ {
			fmt.Fprintf(w, "\r%c %s", `|/-\`[i%4], text)
			select {
			case <-end:
				fmt.Fprintf(w, "\r%s\r", strings.Repeat(" ", len(text)+2))
				return
			case <-turn.C:
			}
		}
	}()
	return func() {
		close(end)
		<-ended
	}
}

// sentence makes one of an error's text.
func sentence(text string) string {
	if text == "" {
		return text
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

package caddymodule

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

func poolPath(name string, more ...string) string {
	var path strings.Builder
	path.WriteString(adminPrefix + "pools/" + url.PathEscape(name))
	for _, segment := range more {
		path.WriteString("/" + url.PathEscape(segment))
	}
	return path.String()
}

func (op *operator) status(args []string) error {
	var answer struct {
		Pools []poolView `json:"pools"`
	}
	if len(args) == 1 {
		answer.Pools = make([]poolView, 1)
		if printed, err := op.call(http.MethodGet, poolPath(args[0]), nil, &answer.Pools[0]); printed || err != nil {
			return err
		}
	} else if printed, err := op.call(http.MethodGet, adminPrefix+"pools", nil, &answer); printed || err != nil {
		return err
	}
	return op.table("POOL\tMEMBER\t\tSTATE\tUNTIL\tFAILURES\tLOGIN EXPIRES\tREFRESHED\tREASON", func(row func(...any)) {
		for _, p := range answer.Pools {
			for _, m := range p.Members {
				row(p.Name, m.Name, mark(m.Active), m.State, untilText(m.Until), m.Failures, untilText(m.ExpiresAt), agoText(m.RefreshedAt), m.why())
				for _, s := range m.Scopes {
					row(p.Name, m.Name, "", "cooling for "+s.Key, untilText(s.Until), s.Failures, "", "", fmt.Sprintf("%s (%s)", s.Meaning, s.Reason))
				}
			}
		}
	})
}

func mark(active bool) string {
	if active {
		return "active"
	}
	return ""
}

func (m memberView) why() string {
	if m.Meaning != "" {
		return fmt.Sprintf("%s (%s)", m.Meaning, m.Reason)
	}
	return m.Reason
}

func (op *operator) rotate(args []string, parkFor string) error {
	body := make(map[string]string)
	if len(args) == 2 {
		body["to"] = args[1]
	}
	if parkFor != "" {
		body["park_for"] = parkFor
	}
	var rot struct {
		From        string    `json:"from"`
		To          string    `json:"to"`
		ParkedUntil time.Time `json:"parked_until"`
	}
	printed, err := op.call(http.MethodPost, poolPath(args[0], "rotate"), body, &rot)
	switch {
	case printed || err != nil:
		return err
	case rot.From == rot.To:
		return op.say("%s is active already", rot.To)
	case rot.ParkedUntil.IsZero():
		return op.say("%s is active", rot.To)
	default:
		return op.say("%s is active; %s is parked until %s", rot.To, rot.From, untilText(rot.ParkedUntil))
	}
}

func (op *operator) park(args []string, parkFor, reason string) error {
	body := make(map[string]string)
	if parkFor != "" {
		body["for"] = parkFor
	}
	if reason != "" {
		body["reason"] = reason
	}
	return op.steer(args, "park", body)
}

func (op *operator) recover(args []string) error { return op.steer(args, "recover", nil) }

func (op *operator) steer(args []string, verb string, body any) error {
	var m memberView
	if printed, err := op.call(http.MethodPost, poolPath(args[0], "members", args[1], verb), body, &m); printed || err != nil {
		return err
	}
	if m.Until.IsZero() {
		return op.say("%s is %s", m.Name, m.State)
	}
	return op.say("%s is %s until %s", m.Name, m.State, untilText(m.Until))
}

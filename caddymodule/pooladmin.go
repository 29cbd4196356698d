package caddymodule

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/credentialpool/caddy-credential-pool/pool"
)

// poolView is a pool in the answers of the API.
type poolView struct {
	Name     string       `json:"name"`
	Provider string       `json:"provider"`
	Active   string       `json:"active"`
	Members  []memberView `json:"members"`
}

type memberView struct {
	Name     string           `json:"name"`
	Position int              `json:"position"`
	Active   bool             `json:"active"`
	State    pool.MemberState `json:"state"`
	Reason   string           `json:"reason,omitempty"`
	Meaning  pool.Meaning     `json:"meaning,omitempty"`
	Until    time.Time        `json:"until,omitzero"`
	Failures int              `json:"failures"`
	Kind     string           `json:"kind,omitempty"`

	// ExpiresAt is when a login's access token ends, and RefreshedAt when it was
	// last refreshed.
	ExpiresAt   time.Time `json:"expires_at,omitzero"`
	RefreshedAt time.Time `json:"refreshed_at,omitzero"`

	// Scopes are the models and parts of the API that the member is out for,
	// while it is in its state for all else.
	Scopes []scopeView `json:"scopes,omitempty"`
}

type scopeView struct {
	Key      string       `json:"key"`
	Until    time.Time    `json:"until"`
	Reason   string       `json:"reason,omitempty"`
	Meaning  pool.Meaning `json:"meaning"`
	Failures int          `json:"failures"`
}

func (sp *servedPool) view() poolView {
	st := sp.Status(time.Now())
	v := poolView{Name: st.Name, Provider: sp.provider.Name, Active: st.Active, Members: make([]memberView, len(st.Members))}
	for i, m := range st.Members {
		v.Members[i] = sp.memberView(m)
	}
	return v
}

func (sp *servedPool) memberView(m pool.MemberStatus) memberView {
	v := memberView{
		Name: m.Name, Position: m.Position, Active: m.Active, State: m.State, Reason: m.Reason,
		Meaning: m.Meaning, Until: noticeTime(m.Until), Failures: m.Failures,
	}
	if a := sp.armed[m.Position].Load(); a != nil {
		v.Kind, v.ExpiresAt, v.RefreshedAt = a.kind, noticeTime(a.expires), noticeTime(a.refreshed)
	}
	for _, s := range m.Scopes {
		v.Scopes = append(v.Scopes, scopeView{s.Key, noticeTime(s.Until), s.Reason, s.Meaning, s.Failures})
	}
	return v
}

// poolOf returns the pool that a path names.
func poolOf(a *App, name string) (*servedPool, error) {
	if sp, ok := a.pools[name]; ok {
		return sp, nil
	}
	return nil, apiError(http.StatusNotFound, "unknown pool %q; there are: %s", printable(name), list(a.poolNames()))
}

// memberError says which members there are.
func (sp *servedPool) memberError(err error) error {
	if errors.Is(err, pool.ErrUnknownMember) {
		return apiError(http.StatusNotFound, "unknown member of pool %s; there are: %s", sp.Name(), list(sp.names))
	}
	return err
}

func getPools(a *App, _ *http.Request, _ []string) (int, any, error) {
	views := make([]poolView, 0, len(a.pools))
	for _, name := range a.poolNames() {
		views = append(views, a.pools[name].view())
	}
	return http.StatusOK, map[string]any{"pools": views}, nil
}

func getPool(a *App, _ *http.Request, args []string) (int, any, error) {
	sp, err := poolOf(a, args[0])
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, sp.view(), nil
}

func rotate(a *App, r *http.Request, args []string) (int, any, error) {
	sp, err := poolOf(a, args[0])
	if err != nil {
		return 0, nil, err
	}
	var want struct {
		To      string   `json:"to"`
		ParkFor duration `json:"park_for"`
	}
	if err := readBody(r, &want, true); err != nil {
		return 0, nil, err
	}
	rot, err := sp.Rotate(time.Now(), want.To, time.Duration(want.ParkFor))
	if err != nil {
		return 0, nil, sp.memberError(err)
	}
	return http.StatusOK, struct {
		Pool        string    `json:"pool"`
		From        string    `json:"from"`
		To          string    `json:"to"`
		ParkedUntil time.Time `json:"parked_until,omitzero"`
	}{sp.Name(), rot.From, rot.To, noticeTime(rot.ParkedUntil)}, nil
}

func park(a *App, r *http.Request, args []string) (int, any, error) {
	sp, err := poolOf(a, args[0])
	if err != nil {
		return 0, nil, err
	}
	var want struct {
		For    duration `json:"for"`
		Reason string   `json:"reason"`
	}
	if err := readBody(r, &want, true); err != nil {
		return 0, nil, err
	}
	if len(want.Reason) > 200 || strings.ContainsFunc(want.Reason, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return 0, nil, apiError(http.StatusBadRequest, "reason: it must be one line of at most 200 bytes")
	}
	m, err := sp.Park(time.Now(), args[1], time.Duration(want.For), want.Reason)
	if err != nil {
		return 0, nil, sp.memberError(err)
	}
	return http.StatusOK, sp.memberView(m), nil
}

func recoverMember(a *App, r *http.Request, args []string) (int, any, error) {
	sp, err := poolOf(a, args[0])
	if err != nil {
		return 0, nil, err
	}
	if err := readBody(r, &struct{}{}, true); err != nil {
		return 0, nil, err
	}
	m, err := sp.Recover(time.Now(), args[1])
	if err != nil {
		return 0, nil, sp.memberError(err)
	}
	return http.StatusOK, sp.memberView(m), nil
}

package caddymodule

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/credentialpool/caddy-credential-pool/pool"
	"github.com/credentialpool/caddy-credential-pool/vault"
)

func init() {
	caddy.RegisterModule(adminAPI{})
}

const (
	adminPrefix  = "/credential_pool/"
	maxAdminBody = 2 << 20
)

// adminAPI is the operator's side of the pools, below /credential_pool/ of
// Caddy's admin endpoint. No answer ever holds a secret of an account.
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.credential_pool",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// Routes returns the routes of the admin API.
func (adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: adminPrefix, Handler: caddy.AdminHandlerFunc(serveAdmin)}}
}

// adminRoute is one route. A segment of the pattern in braces takes any value.
type adminRoute struct {
	method, pattern string
	serve           func(a *App, r *http.Request, args []string) (status int, answer any, err error)
}

var adminRoutes = []adminRoute{
	{http.MethodGet, "pools", getPools},
	{http.MethodGet, "pools/{pool}", getPool},
	{http.MethodPost, "pools/{pool}/rotate", rotate},
	{http.MethodPost, "pools/{pool}/members/{member}/park", park},
	{http.MethodPost, "pools/{pool}/members/{member}/recover", recoverMember},
	{http.MethodGet, "credentials", listCredentials},
	{http.MethodGet, "credentials/{pool}/{member}", getCredential},
	{http.MethodPut, "credentials/{pool}/{member}", putCredential},
	{http.MethodDelete, "credentials/{pool}/{member}", deleteCredential},
	{http.MethodGet, "notices", getNotices},
	{http.MethodGet, "phantom/{pool}", getPhantom},
	{http.MethodPost, "phantom/rotate", rotatePhantoms},
}

// match returns the values of the pattern's braces. The path is as it was sent,
// so that an escaped slash belongs to a name, which is then refused as one.
func (ar adminRoute) match(path string) ([]string, bool) {
	want, have := strings.Split(ar.pattern, "/"), strings.Split(path, "/")
	if len(want) != len(have) {
		return nil, false
	}
	var args []string
	for i, w := range want {
		switch {
		case strings.HasPrefix(w, "{"):
			arg, err := url.PathUnescape(have[i])
			if err != nil {
				return nil, false
			}
			args = append(args, arg)
		case w != have[i]:
			return nil, false
		}
	}
	return args, true
}

// serveAdmin finds the route, and the app that is running now: the routes are
// set up before the apps, and outlive a config that fails to load.
func serveAdmin(w http.ResponseWriter, r *http.Request) error {
	path := strings.TrimSuffix(strings.TrimPrefix(r.URL.EscapedPath(), adminPrefix), "/")
	var allowed []string
	for _, route := range adminRoutes {
		args, ok := route.match(path)
		if !ok {
			continue
		}
		if route.method != r.Method {
			allowed = append(allowed, route.method)
			continue
		}
		app, err := runningApp()
		if err != nil {
			return err
		}
		status, answer, err := route.serve(app, r, args)
		if err != nil {
			return adminError(err)
		}
		return writeAdmin(w, status, answer)
	}
	if len(allowed) > 0 {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		return apiError(http.StatusMethodNotAllowed, "method not allowed; allowed: %s", strings.Join(allowed, ", "))
	}
	var known []string
	for _, route := range adminRoutes {
		known = append(known, route.method+" "+adminPrefix+route.pattern)
	}
	return apiError(http.StatusNotFound, "no such path; there are: %s", strings.Join(known, ", "))
}

func writeAdmin(w http.ResponseWriter, status int, answer any) error {
	if answer == nil {
		w.WriteHeader(status)
		return nil
	}
	body, err := json.Marshal(answer)
	if err != nil {
		return apiError(http.StatusInternalServerError, "encoding the answer: %v", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
	return nil
}

func runningApp() (*App, error) {
	// Before the first config and after the last, the context has none.
	var app any
	if ctx := caddy.ActiveContext(); ctx.Context != nil {
		app, _ = ctx.AppIfConfigured("credential_pool")
	}
	if a, ok := app.(*App); ok && a != nil {
		return a, nil
	}
	return nil, apiError(http.StatusServiceUnavailable, "the running config has no credential_pool; add the global option credential_pool to it")
}

// apiError must be returned as it is: Caddy takes a wrapped one for a 500.
func apiError(status int, format string, args ...any) caddy.APIError {
	err := fmt.Errorf(format, args...)
	return caddy.APIError{HTTPStatus: status, Err: err, Message: err.Error()}
}

// adminError finds the status of an error of the pool or the vault.
func adminError(err error) error {
	status := http.StatusServiceUnavailable // what is none of these is the storage's
	if known, ok := errors.AsType[caddy.APIError](err); ok {
		return known
	}
	switch is := func(target error) bool { return errors.Is(err, target) }; {
	case is(vault.ErrInvalid):
		status = http.StatusBadRequest
	case is(pool.ErrUnknownMember), is(vault.ErrNotFound):
		status = http.StatusNotFound
	case is(pool.ErrConflict), is(errInlineMember), is(vault.ErrNoIdentity),
		is(vault.ErrWrongIdentity), is(vault.ErrCorrupt), is(vault.ErrForeign):
		status = http.StatusConflict
	}
	return apiError(status, "%v", err)
}

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

// list is names for the text of an error.
func list(names []string) string { return orDefault(strings.Join(names, ", "), "none") }

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

func listCredentials(a *App, r *http.Request, _ []string) (int, any, error) {
	infos, err := a.listCredentials(r.Context())
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, map[string]any{"credentials": infos}, nil
}

func getCredential(a *App, r *http.Request, args []string) (int, any, error) {
	name, err := credentialName(args)
	if err != nil {
		return 0, nil, err
	}
	infos, err := a.listCredentials(r.Context())
	if err != nil {
		return 0, nil, err
	}
	for _, info := range infos {
		if info.Name == name {
			return http.StatusOK, info, nil
		}
	}
	return 0, nil, unknownCredential(name, infos)
}

// unknownCredential says which credentials there are.
func unknownCredential(name string, infos []vault.Info) error {
	known := make([]string, len(infos))
	for i, info := range infos {
		known[i] = info.Name
	}
	return apiError(http.StatusNotFound, "no such credential: %s; there are: %s", name, list(known))
}

func putCredential(a *App, r *http.Request, args []string) (int, any, error) {
	name, err := credentialName(args)
	if err != nil {
		return 0, nil, err
	}
	var want credentialBody
	if err := readBody(r, &want, false); err != nil {
		return 0, nil, err
	}
	c, err := want.credential(name)
	if err != nil {
		return 0, nil, err
	}
	info, err := a.putCredential(r.Context(), c)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, info, nil
}

func deleteCredential(a *App, r *http.Request, args []string) (int, any, error) {
	name, err := credentialName(args)
	if err != nil {
		return 0, nil, err
	}
	err = a.deleteCredential(r.Context(), name)
	if sp, position := a.seat(name); errors.Is(err, vault.ErrNotFound) && sp != nil && sp.isInline(sp.names[position]) {
		return 0, nil, errInlineMember
	}
	if errors.Is(err, vault.ErrNotFound) {
		infos, listErr := a.listCredentials(r.Context())
		if listErr != nil {
			return 0, nil, listErr
		}
		err = unknownCredential(name, infos)
	}
	return http.StatusNoContent, nil, err
}

func credentialName(args []string) (string, error) {
	for i, what := range []string{"pool", "member"} {
		if err := checkName(what, args[i]); err != nil {
			return "", apiError(http.StatusBadRequest, "%v", err)
		}
	}
	return args[0] + "/" + args[1], nil
}

func getNotices(_ *App, r *http.Request, _ []string) (int, any, error) {
	limit := 0
	if text := r.URL.Query().Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return 0, nil, apiError(http.StatusBadRequest, "limit: it must be a count from 1")
		}
		limit = n
	}
	return http.StatusOK, map[string]any{"notices": notices.recent(limit)}, nil
}

// duration is a duration in a body, such as "5m". Zero stands for the default.
type duration time.Duration

// UnmarshalJSON implements [json.Unmarshaler].
func (d *duration) UnmarshalJSON(b []byte) error {
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return errDuration
	}
	parsed, err := caddy.ParseDuration(text)
	if err != nil || parsed <= 0 || parsed > pool.MaxPark {
		return errDuration
	}
	*d = duration(parsed)
	return nil
}

var errDuration = errors.New(`a duration must be a text such as "5m" or "1h30m", more than zero and at most a year`)

// readBody reads a JSON object with no keys but the known ones. What is wrong
// is said without quoting the body, which may hold a secret.
func readBody(r *http.Request, into any, mayBeEmpty bool) error {
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxAdminBody))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return apiError(http.StatusRequestEntityTooLarge, "the body has more than %d bytes", maxAdminBody)
	}
	if err != nil {
		return apiError(http.StatusBadRequest, "the body can't be read")
	}
	body = bytes.TrimSpace(body)
	if len(body) == 0 && mayBeEmpty {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	switch err := dec.Decode(into); {
	case errors.Is(err, errDuration):
		return apiError(http.StatusBadRequest, "%v", errDuration)
	case err != nil || body[0] != '{': // null decodes into anything
		return apiError(http.StatusBadRequest, "the body must be a JSON object %s", shapeOf(into))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return apiError(http.StatusBadRequest, "something follows the JSON object in the body")
	}
	return nil
}

// shapeOf shows the keys of a body.
func shapeOf(into any) string {
	b, err := json.Marshal(into)
	if err != nil {
		return ""
	}
	var keys map[string]any
	if json.Unmarshal(b, &keys) != nil || len(keys) == 0 {
		return "without keys"
	}
	return "with no keys but " + strings.Join(slices.Sorted(maps.Keys(keys)), ", ")
}

// Interface guards
var (
	_ caddy.Module      = (*adminAPI)(nil)
	_ caddy.AdminRouter = (*adminAPI)(nil)
)

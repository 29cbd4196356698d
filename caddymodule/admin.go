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
	{http.MethodPost, "credentials/{pool}/{member}/try", tryCredential},
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

// list is names for the text of an error.
func list(names []string) string { return orDefault(strings.Join(names, ", "), "none") }

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

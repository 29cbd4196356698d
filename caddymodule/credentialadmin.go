package caddymodule

import (
	"errors"
	"net/http"

	"github.com/credentialpool/caddy-credential-pool/vault"
)

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

// tryCredential lets whoever is about to put a credential that is costly to come
// by, such as a login, know beforehand that it will be taken.
func tryCredential(a *App, r *http.Request, args []string) (int, any, error) {
	name, err := credentialName(args)
	if err != nil {
		return 0, nil, err
	}
	if err := readBody(r, &struct{}{}, true); err != nil {
		return 0, nil, err
	}
	return http.StatusNoContent, nil, a.tryCredential(r.Context(), name)
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

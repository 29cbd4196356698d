package caddymodule

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// Client is somebody who may use a pool.
type Client struct {
	// The client's name, for the operator.
	Name string `json:"name"`

	// The client's token, of at least 8 characters and without a space.
	// Placeholders such as `{env.AGENT_1_TOKEN}` keep it out of the config.
	// Either this or `phantom` is required.
	Token string `json:"token,omitempty"`

	// The client's token is the pool's phantom access token, which
	// `caddy credential-pool phantom <pool>` prints: for clients that log in with
	// OAuth. Default: false.
	Phantom bool `json:"phantom,omitempty"`
}

// client is a Client compiled at Provision, by its token.
type client struct {
	name string
	hash [sha256.Size]byte
}

func (h *Handler) validateClients() error {
	if h.AllowAnyClient == (len(h.Clients) > 0) {
		if h.AllowAnyClient {
			return errors.New("client and allow_any_client exclude each other")
		}
		return errors.New("no client may use the pool: add `client <name> <token>`, or allow_any_client if the network is closed")
	}
	names := make(map[string]struct{}, len(h.Clients))
	for _, c := range h.Clients {
		if err := checkName("client", c.Name); err != nil {
			return err
		}
		if _, twice := names[c.Name]; twice {
			return fmt.Errorf("client %s is given twice", c.Name)
		}
		names[c.Name] = struct{}{}
		if c.Phantom && c.Token != "" {
			return fmt.Errorf("client %s: token and phantom exclude each other", c.Name)
		}
	}
	return nil
}

func (h *Handler) provisionClients() error {
	repl := caddy.NewReplacer()
	h.clients = make(map[string]client, len(h.Clients))
	for _, c := range h.Clients {
		if c.Phantom {
			if h.phantom != "" {
				return fmt.Errorf("clients %s and %s have the same token: a pool has one phantom", h.phantom, c.Name)
			}
			h.phantom = c.Name
			if err := h.app.canHavePhantoms(); err != nil {
				return fmt.Errorf("client %s: %w", c.Name, err)
			}
			continue
		}
		token, err := expand(repl, c.Token)
		if err != nil {
			return fmt.Errorf("client %s: token: %w", c.Name, err)
		}
		if len(token) < minSecret || strings.ContainsAny(token, " \t\r\n") {
			return fmt.Errorf("client %s: the token needs at least %d characters and no space", c.Name, minSecret)
		}
		if other, ok := h.clients[token]; ok {
			return fmt.Errorf("clients %s and %s have the same token", other.name, c.Name)
		}
		h.clients[token] = client{c.Name, sha256.Sum256([]byte(token))}
	}
	return nil
}

// knows reports whether the request shows the token of one of the clients. The
// error says that nobody can tell, since the key of the phantoms can't be read.
func (h *Handler) knows(r *http.Request) (bool, error) {
	if h.shows(r, h.matches) {
		return true, nil
	}
	if h.phantom == "" || !h.shows(r, looksLikePhantom) {
		return false, nil
	}
	p, err := h.app.phantomsWith(r.Context(), h.pool, func(*phantomTokens) bool { return h.shows(r, h.matches) })
	return p != nil, err
}

// shows reports whether a token for which that holds is where the request can
// show one.
func (h *Handler) shows(r *http.Request, holds func(token string) bool) bool {
	bearer, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(bearer, "Bearer") && holds(strings.TrimSpace(token)) {
		return true
	}
	return slices.ContainsFunc(h.pool.doors, func(in injection) bool { return holds(in.presented(r)) })
}

// matches compares with every client's token in a time that does not tell
// which one came close.
func (h *Handler) matches(token string) bool {
	if token == "" {
		return false
	}
	sum := sha256.Sum256([]byte(token))
	found := 0
	for _, c := range h.clients {
		found |= subtle.ConstantTimeCompare(sum[:], c.hash[:])
	}
	// That changes while the config stays, when the key of the phantoms is rotated.
	if phantoms := h.pool.phantoms.Load(); h.phantom != "" && phantoms != nil {
		found |= subtle.ConstantTimeCompare(sum[:], phantoms.accessHash[:])
	}
	return found == 1
}

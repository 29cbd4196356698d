package caddymodule

import "maps"

// mergedClients are a handler's clients together with the one that shows the
// pool's phantom.
type mergedClients struct {
	with    *phantomTokens
	clients map[string]client
}

// tokens returns who may show which token now. The phantom is looked up for each
// request: it changes while the config stays, when its key is rotated.
func (h *Handler) tokens() map[string]client {
	if h.phantom == "" {
		return h.clients
	}
	phantom := h.pool.phantoms.Load()
	if phantom == nil || phantom == noPhantoms {
		return h.clients
	}
	merged := h.merged.Load()
	if merged == nil || merged.with != phantom {
		merged = &mergedClients{phantom, maps.Clone(h.clients)}
		merged.clients[phantom.access] = client{h.phantom, phantom.accessHash}
		h.merged.Store(merged)
	}
	return merged.clients
}

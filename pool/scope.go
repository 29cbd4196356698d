package pool

import "strings"

// maxScopes bounds the keys that one member can be benched for. A failure of
// one more benches the whole member: one that is out for so many models is as
// good as out, and a client that makes up names of models must not make the
// state grow, nor use a member on without end.
const maxScopes = 32

// maxKey bounds the bytes of a key that is kept.
const maxKey = 160

// The forms of a key.
const (
	bareModel     = "model"
	modelPrefix   = "model:"
	oneModel      = "model="
	keyCharacters = "abcdefghijklmnopqrstuvwxyz0123456789._-/:=@+"
)

// ModelKey is the scope key of a request for the model of that name; empty if
// the name is.
func ModelKey(name string) string {
	if name == "" {
		return ""
	}
	return modelPrefix + strings.ToLower(name)
}

// covers reports whether a bench for the one key is about requests with the
// other. A request has one key, in lower case: "model:" and the full name of the
// model that it asks for, or else anything. The key of a bench is one of these:
//
//	"model:opus"       every model whose name contains "opus"
//	"model=gpt-4o"     this model alone; "gpt-4o-mini" is another one
//	"resource:search"  what has this very key
//
// Nothing is known about a request without a key, and it is let through.
func covers(bench, request string) bool {
	t := targetOf(bench)
	return t.covers(askedOf(request))
}

// target is the key of a bench, taken apart.
type target struct {
	kind    targetKind
	name    string
	letters uint64
}

type targetKind byte

const (
	thisKey targetKind = iota
	thisModel
	modelsWith
)

func targetOf(bench string) target {
	if part, ok := strings.CutPrefix(bench, modelPrefix); ok {
		return target{modelsWith, part, letters(part)}
	}
	if name, ok := strings.CutPrefix(bench, oneModel); ok {
		return target{thisModel, name, letters(name)}
	}
	return target{thisKey, bench, letters(bench)}
}

// asked is the key of a request, taken apart.
type asked struct {
	key, model string
	isModel    bool
	letters    uint64
}

func askedOf(request string) asked {
	model, isModel := strings.CutPrefix(request, modelPrefix)
	return asked{request, model, isModel, letters(model)} // the whole key if that is no model
}

func (t *target) covers(r asked) bool {
	if t.letters&^r.letters != 0 {
		return false
	}
	switch t.kind {
	case modelsWith:
		return r.isModel && strings.Contains(r.model, t.name)
	case thisModel:
		return r.isModel && r.model == t.name
	default:
		return r.key != "" && r.key == t.name
	}
}

// letters is the set of the bytes of s, folded: what is not among those of a
// request is not in its key, and most benches need no closer look.
func letters(s string) (set uint64) {
	for i := range len(s) {
		set |= 1 << (s[i] % 64)
	}
	return set
}

// benchKey returns the key that a verdict benches, if the request had the other
// one; empty for the whole member. "Whatever model was asked for" becomes that
// model. It is the whole member if that is not known, or too odd to be kept.
func benchKey(v Verdict, request string) string {
	if v.Scope != ScopeModel {
		return ""
	}
	key := v.Key
	if key == bareModel {
		name, ok := strings.CutPrefix(request, modelPrefix)
		if !ok {
			return ""
		}
		key = oneModel + name
	}
	if !isBenchKey(key) {
		return ""
	}
	return key
}

// Covers reports whether a bench for what the verdict says is out would keep
// requests with that key from the member.
func (v Verdict) Covers(request string) bool {
	return v.Scope != ScopeModel || covers(benchKey(v, request), request)
}

// isBenchKey reports whether the key can be kept and shown. Part of it may have
// been chosen by a client.
func isBenchKey(key string) bool {
	at := strings.IndexAny(key, ":=")
	return at > 0 && at < len(key)-1 && len(key) <= maxKey && !strings.Contains(key, "//") && // nor be a link
		!strings.ContainsFunc(key, func(c rune) bool { return !strings.ContainsRune(keyCharacters, c) })
}

// requestOf returns the key of a request that is for just what a bench is for.
func requestOf(bench string) string {
	if name, ok := strings.CutPrefix(bench, oneModel); ok {
		return modelPrefix + name
	}
	return bench
}

package pool

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// DocumentVersion is the version of [Document] that this package writes.
const DocumentVersion = 1

// maxRestoredFailures bounds what a document may say about failures in a row,
// so that counting on from it can't overflow. Every cooldown is at its cap long
// before.
const maxRestoredFailures = 1000

// ErrNewerDocument is returned for a document that a newer version wrote.
var ErrNewerDocument = errors.New("the saved state was written by a newer version")

// Document is a [State] as it is saved. It holds no secret: a member's identity
// is an id or a keyed hash.
type Document struct {
	Version int    `json:"version"`
	Active  string `json:"active,omitempty"`

	// Exhausted is whether the operator was told that the pool is exhausted.
	Exhausted bool `json:"exhausted,omitempty"`

	// ExhaustedKeys are the keys for which the operator was told so.
	ExhaustedKeys []string `json:"exhausted_keys,omitempty"`

	Records []DocumentRecord `json:"records,omitempty"`
}

// DocumentRecord is what is saved about one credential.
type DocumentRecord struct {
	Member       string    `json:"member"`
	Identity     string    `json:"identity"`
	CoolingUntil time.Time `json:"cooling_until,omitzero"`
	Meaning      Meaning   `json:"meaning,omitempty"`
	Reason       string    `json:"reason,omitempty"`
	ParkedUntil  time.Time `json:"parked_until,omitzero"`
	ParkReason   string    `json:"park_reason,omitempty"`
	Failures     int       `json:"failures,omitempty"`

	Scopes []DocumentScope `json:"scopes,omitempty"`
}

// DocumentScope is what is saved about one key of a credential.
type DocumentScope struct {
	Key          string    `json:"key"`
	CoolingUntil time.Time `json:"cooling_until,omitzero"`
	Meaning      Meaning   `json:"meaning,omitempty"`
	Reason       string    `json:"reason,omitempty"`
	Failures     int       `json:"failures,omitempty"`
}

// ParseDocument reads a saved document. It fails with [ErrNewerDocument] if it
// is of a version that this package does not know.
func ParseDocument(data []byte) (Document, error) {
	var d Document
	if err := json.Unmarshal(data, &d); err != nil {
		return Document{}, fmt.Errorf("reading the saved state: %w", err)
	}
	if d.Version > DocumentVersion {
		return Document{}, fmt.Errorf("%w: version %d, this one knows %d", ErrNewerDocument, d.Version, DocumentVersion)
	}
	if d.Version < 1 {
		return Document{}, errors.New("reading the saved state: it has no version")
	}
	return d, nil
}

// Document returns the state in the form in which it is saved, and its
// revision.
func (s *State) Document(now time.Time) (Document, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := Document{Version: DocumentVersion, Active: s.active}
	for key, g := range s.edges {
		switch {
		case !g.exhausted || !g.untold.IsZero():
		case key == "":
			d.Exhausted = true
		default:
			d.ExhaustedKeys = append(d.ExhaustedKeys, key)
		}
	}
	slices.Sort(d.ExhaustedKeys)
	for c, r := range s.records {
		if saved := r.document(c, now); !r.lapsed(now) || saved.Failures != 0 || len(saved.Scopes) > 0 {
			d.Records = append(d.Records, saved)
		}
	}
	slices.SortFunc(d.Records, func(a, b DocumentRecord) int {
		return cmp.Or(cmp.Compare(a.Member, b.Member), cmp.Compare(a.Identity, b.Identity))
	})
	return d, s.revision.Load()
}

func (r *record) document(c credential, now time.Time) DocumentRecord {
	d := DocumentRecord{
		Member:       c.member,
		Identity:     c.identity,
		CoolingUntil: r.coolingUntil.UTC(),
		Meaning:      r.meaning,
		Reason:       r.reason,
		ParkedUntil:  r.parkedUntil.UTC(),
		ParkReason:   r.parkReason,
		Failures:     r.failures,
	}
	for _, sc := range r.scopes {
		if sc.cooling(now) || sc.failures != 0 {
			d.Scopes = append(d.Scopes, DocumentScope{sc.key, sc.coolingUntil.UTC(), sc.meaning, sc.reason, sc.failures})
		}
	}
	slices.SortFunc(d.Scopes, func(a, b DocumentScope) int { return cmp.Compare(a.Key, b.Key) })
	return d
}

// Restore adds what was saved to the state. Of two deadlines the longer one
// wins, and none reaches further than maxCooldown from now, or [MaxPark] for a
// park, since the clock that they were written by may have been another one.
// Keys that this package would not write are left out. What the state already
// knows of the pointer stays.
func (s *State) Restore(d Document, now time.Time, maxCooldown time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	latest, latestPark := now.Add(orDefault(maxCooldown, DefaultMaxCooldown)), now.Add(MaxPark)
	for _, saved := range d.Records {
		if saved.Member == "" || saved.Identity == "" {
			continue
		}
		r := s.record(credential{saved.Member, saved.Identity})
		s.restore(&r.bench, DocumentScope{"", saved.CoolingUntil, saved.Meaning, saved.Reason, saved.Failures}, now, latest)
		for _, sc := range saved.Scopes {
			if isBenchKey(sc.Key) && r.room(sc.Key, now) {
				s.restore(r.of(sc.Key, now), sc, now, latest)
			}
		}
		if until := earlier(saved.ParkedUntil, latestPark); until.After(r.parkedUntil) {
			r.parkedUntil, r.parkReason = until, saved.ParkReason
		}
	}
	if s.active == "" {
		s.active, s.edges[""].exhausted = d.Active, d.Exhausted
		s.restoreEdges(d.ExhaustedKeys)
	}
	s.version.Add(1)
}

// restore adds what was saved about one bench.
func (s *State) restore(b *bench, saved DocumentScope, now, latest time.Time) {
	if until := earlier(saved.CoolingUntil, latest); until.After(b.coolingUntil) {
		if !b.cooling(now) {
			b.epoch = s.nextBench() // a lease from before knows nothing of this bench
		}
		b.coolingUntil, b.meaning, b.reason = until, saved.Meaning, saved.Reason
	}
	b.failures = max(b.failures, min(saved.Failures, maxRestoredFailures))
}

// restoreEdges enters the edges of keys. Those that somebody is ready for by
// now are left, and told, when the pool is next looked at.
func (s *State) restoreEdges(keys []string) {
	for _, key := range keys[:min(len(keys), maxEdges)] {
		if isBenchKey(key) {
			s.edge(key).exhausted = true
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

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
	d := Document{Version: DocumentVersion, Active: s.active, Exhausted: s.exhausted && s.untold.IsZero()}
	for c, r := range s.records {
		if r.lapsed(now) && r.failures == 0 {
			continue
		}
		d.Records = append(d.Records, DocumentRecord{
			Member:       c.member,
			Identity:     c.identity,
			CoolingUntil: r.coolingUntil.UTC(),
			Meaning:      r.meaning,
			Reason:       r.reason,
			ParkedUntil:  r.parkedUntil.UTC(),
			ParkReason:   r.parkReason,
			Failures:     r.failures,
		})
	}
	slices.SortFunc(d.Records, func(a, b DocumentRecord) int {
		return cmp.Or(cmp.Compare(a.Member, b.Member), cmp.Compare(a.Identity, b.Identity))
	})
	return d, s.revision.Load()
}

// Restore adds what was saved to the state. Of two deadlines the longer one
// wins, and none reaches further than maxCooldown from now, or [MaxPark] for a
// park, since the clock that they were written by may have been another one. What the state already
// knows of the pointer stays.
func (s *State) Restore(d Document, now time.Time, maxCooldown time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active == "" {
		s.active, s.exhausted = d.Active, d.Exhausted
	}
	latest, latestPark := now.Add(orDefault(maxCooldown, DefaultMaxCooldown)), now.Add(MaxPark)
	for _, saved := range d.Records {
		if saved.Member == "" || saved.Identity == "" {
			continue
		}
		r := s.record(credential{saved.Member, saved.Identity})
		if until := earlier(saved.CoolingUntil, latest); until.After(r.coolingUntil) {
			if !r.cooling(now) {
				r.epoch++ // a lease from before knows nothing of this bench
			}
			r.coolingUntil, r.meaning, r.reason = until, saved.Meaning, saved.Reason
		}
		if until := earlier(saved.ParkedUntil, latestPark); until.After(r.parkedUntil) {
			r.parkedUntil, r.parkReason = until, saved.ParkReason
		}
		r.failures = max(r.failures, min(saved.Failures, maxRestoredFailures))
	}
	s.version.Add(1)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

package nostr

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	nip "fiatjaf.com/nostr"
	"fiatjaf.com/nostr/nip13"

	"github.com/geistnet/geist/ghost"
)

// The types of NIP-01. An Event's PubKey converts to a ghost.Key.
type (
	Event     = nip.Event
	ID        = nip.ID
	Kind      = nip.Kind
	Tag       = nip.Tag
	Tags      = nip.Tags
	TagMap    = nip.TagMap
	Filter    = nip.Filter
	PubKey    = nip.PubKey
	Timestamp = nip.Timestamp // seconds since 1970
)

// Bounds of every event that is read, whoever sent it.
const (
	MaxEventBytes = 32 << 10 // as JSON
	MaxTags       = 128
	MaxTagItems   = 32
	MaxItemBytes  = 2048
	MaxContent    = 16 << 10 // bytes
)

// maxTime is the last second of the year 9999.
const maxTime = 253402300799

// Sign sets the event's key, id and signature. Equal events get equal
// signatures. CreatedAt, Kind, Tags and Content are the caller's.
func Sign(e *Event, s ghost.Secret) error {
	k, err := s.Public()
	if err != nil {
		return err
	}
	if err := CheckShape(e); err != nil {
		return err
	}
	if e.Tags == nil {
		e.Tags = Tags{}
	}
	e.PubKey = PubKey(k)
	e.ID = e.GetID()
	if e.Sig, err = s.Sign(ghost.Digest(e.ID)); err != nil {
		return fmt.Errorf("sign an event of kind %d: %w", e.Kind, err)
	}
	return nil
}

// Verify checks the id and the signature.
func Verify(e *Event) error {
	if !e.CheckID() {
		return fmt.Errorf("id %s is not that of the event", hex.EncodeToString(e.ID[:]))
	}
	return ghost.Key(e.PubKey).Verify(ghost.Digest(e.ID), e.Sig)
}

// CheckShape checks the bounds of an event, not its signature.
func CheckShape(e *Event) error {
	switch {
	case e.CreatedAt < 1 || e.CreatedAt > maxTime:
		return fmt.Errorf("created_at %d is not between 1 and %d", e.CreatedAt, int64(maxTime))
	case len(e.Content) > MaxContent:
		return fmt.Errorf("content of %d bytes, at most %d", len(e.Content), MaxContent)
	case len(e.Tags) > MaxTags:
		return fmt.Errorf("%d tags, at most %d", len(e.Tags), MaxTags)
	}
	sum := len(e.Content)
	for i, t := range e.Tags {
		if len(t) == 0 || len(t) > MaxTagItems {
			return fmt.Errorf("tag %d has %d items, must have 1 to %d", i, len(t), MaxTagItems)
		}
		for _, s := range t {
			if len(s) > MaxItemBytes {
				return fmt.Errorf("tag %d has an item of %d bytes, at most %d", i, len(s), MaxItemBytes)
			}
			sum += len(s)
		}
	}
	if sum > MaxEventBytes {
		return fmt.Errorf("tags and content of %d bytes, at most %d", sum, MaxEventBytes)
	}
	return nil
}

// wire is an event as NIP-01 writes it. Pointers tell absent from empty.
type wire struct {
	ID        *string `json:"id"`
	PubKey    *string `json:"pubkey"`
	CreatedAt *int64  `json:"created_at"`
	Kind      *int64  `json:"kind"`
	Tags      *[]Tag  `json:"tags"`
	Content   *string `json:"content"`
	Sig       *string `json:"sig"`
}

// Decode reads one event of at most MaxEventBytes and checks its shape. The
// signature is Verify's matter.
func Decode(b []byte) (*Event, error) {
	if len(b) > MaxEventBytes {
		return nil, fmt.Errorf("event of %d bytes, at most %d", len(b), MaxEventBytes)
	}
	var w wire
	if err := json.Unmarshal(b, &w); err != nil {
		return nil, fmt.Errorf("event: %w", err)
	}
	if w.ID == nil || w.PubKey == nil || w.CreatedAt == nil || w.Kind == nil || w.Tags == nil || w.Content == nil || w.Sig == nil {
		return nil, errors.New("event: one of id, pubkey, created_at, kind, tags, content, sig is missing")
	}
	if *w.Kind < 0 || *w.Kind > 65535 {
		return nil, fmt.Errorf("event: kind %d is not between 0 and 65535", *w.Kind)
	}
	e := &Event{CreatedAt: Timestamp(*w.CreatedAt), Kind: Kind(*w.Kind), Tags: *w.Tags, Content: *w.Content}
	for _, f := range []struct {
		name string
		to   []byte
		from string
	}{{"id", e.ID[:], *w.ID}, {"pubkey", e.PubKey[:], *w.PubKey}, {"sig", e.Sig[:], *w.Sig}} {
		if err := unhex(f.to, f.from); err != nil {
			return nil, fmt.Errorf("event: %s: %w", f.name, err)
		}
	}
	if err := CheckShape(e); err != nil {
		return nil, fmt.Errorf("event: %w", err)
	}
	return e, nil
}

// unhex reads exactly len(to) bytes in lower-case hexadecimal.
func unhex(to []byte, from string) error {
	if len(from) != 2*len(to) {
		return fmt.Errorf("%d characters, must be %d", len(from), 2*len(to))
	}
	for i := range len(from) {
		if c := from[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return fmt.Errorf("character %d is no lower-case hexadecimal digit", i)
		}
	}
	_, err := hex.Decode(to, []byte(from))
	return err
}

// Encode writes an event as one line of JSON.
func Encode(e *Event) []byte {
	w := struct {
		ID        string `json:"id"`
		PubKey    string `json:"pubkey"`
		CreatedAt int64  `json:"created_at"`
		Kind      int    `json:"kind"`
		Tags      Tags   `json:"tags"`
		Content   string `json:"content"`
		Sig       string `json:"sig"`
	}{hex.EncodeToString(e.ID[:]), hex.EncodeToString(e.PubKey[:]), int64(e.CreatedAt), int(e.Kind), e.Tags, e.Content, hex.EncodeToString(e.Sig[:])}
	if w.Tags == nil {
		w.Tags = Tags{}
	}
	var b bytes.Buffer
	j := json.NewEncoder(&b)
	j.SetEscapeHTML(false)
	if err := j.Encode(w); err != nil {
		panic("nostr: internal error: " + err.Error())
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// Expiration is the time of NIP-40 after which the event counts no more, or 0
// without one. A tag that is no such time is an expiration of 1: long past.
func Expiration(e *Event) Timestamp {
	for _, t := range e.Tags {
		if len(t) == 0 || t[0] != "expiration" {
			continue
		}
		if len(t) < 2 {
			return 1
		}
		n, err := strconv.ParseInt(t[1], 10, 64)
		if err != nil || n < 1 || n > maxTime {
			return 1
		}
		return Timestamp(n)
	}
	return 0
}

// Work is the proof of work of NIP-13 that the event commits to, in bits, and 0
// where it has none or less than it claims.
func Work(e *Event) int { return max(0, nip13.CommittedDifficulty(*e)) }

// Newer tells whether a replaces b at the same address: the later one, and of
// two of the same second the one with the smaller id (NIP-01).
func Newer(a, b *Event) bool {
	if a.CreatedAt != b.CreatedAt {
		return a.CreatedAt > b.CreatedAt
	}
	return bytes.Compare(a.ID[:], b.ID[:]) < 0
}

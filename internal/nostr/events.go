package nostr

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/bbolt"
)

// What keep says of an event that it does not take.
var (
	errDuplicate = errors.New("duplicate: the event is there already") // publishing again is no fault
	errOlder     = errors.New("duplicate: a newer event has this address")
	errDeleted   = errors.New("blocked: its author deleted it")
)

const kindDeletion Kind = 5

var bucketEvents = []byte("events") // id to JSON

// An eventStore keeps events in a file of bbolt and all of them in memory, where
// queries look. Every event there is verified and counts: replaced, deleted
// and expired ones are gone.
type eventStore struct {
	db        *bbolt.DB
	most      int   // events
	mostBytes int64 // of their JSON
	perAuthor int

	writing sync.Mutex // held for a whole change, its write to disk included

	mu      sync.RWMutex // guards all below
	events  []*stored    // newest first, then by id
	byID    map[ID]*stored
	byAddr  map[address]*stored
	authors map[PubKey]int
	bytes   int64
	gone    map[deletion]Timestamp // what was deleted, until when that counts
}

type stored struct {
	*Event
	size    int64
	expires Timestamp // 0: never
}

type address struct {
	author PubKey
	kind   Kind
	d      string
}

// A deletion names what an author deleted: an event, or an address.
type deletion struct {
	author PubKey
	id     ID
	addr   address
}

// openStore opens or makes the file at path. Events in it that do not verify or
// have expired are left out.
func openStore(path string, most, perAuthor int, mostBytes int64, now Timestamp) (*eventStore, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 2 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("open event store %s: %w", path, err)
	}
	s := &eventStore{db: db, most: most, mostBytes: mostBytes, perAuthor: perAuthor,
		byID: map[ID]*stored{}, byAddr: map[address]*stored{}, authors: map[PubKey]int{}, gone: map[deletion]Timestamp{}}
	var bad [][]byte
	err = db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketEvents)
		if err != nil {
			return err
		}
		err = b.ForEach(func(k, v []byte) error {
			e, err := Decode(v)
			if err == nil {
				err = Verify(e)
			}
			if x := (&stored{Event: e, size: int64(len(v))}); err == nil && !s.expired(x, now) {
				s.insert(x)
			} else {
				bad = append(bad, bytes.Clone(k))
			}
			return nil
		})
		for _, k := range bad {
			err = errors.Join(err, b.Delete(k))
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read event store %s: %w", path, err), db.Close())
	}
	return s, nil
}

func (s *eventStore) close() error { return s.db.Close() }

func (s *eventStore) expired(x *stored, now Timestamp) bool {
	x.expires = Expiration(x.Event)
	return x.expires != 0 && x.expires <= now
}

// addressOf is where an event replaces others; ok is false for one that does not.
func addressOf(e *Event) (a address, ok bool) {
	switch {
	case e.Kind.IsAddressable():
		return address{e.PubKey, e.Kind, e.Tags.GetD()}, true
	case e.Kind.IsReplaceable():
		return address{e.PubKey, e.Kind, ""}, true
	}
	return a, false
}

// compareStored orders newest first.
func compareStored(a, b *stored) int {
	if a.ID == b.ID {
		return 0
	}
	if Newer(a.Event, b.Event) {
		return -1
	}
	return 1
}

// insert puts a new event into memory. The caller holds mu, or is alone.
func (s *eventStore) insert(x *stored) {
	i, _ := slices.BinarySearchFunc(s.events, x, compareStored)
	s.events = slices.Insert(s.events, i, x)
	s.byID[x.ID] = x
	if a, ok := addressOf(x.Event); ok {
		s.byAddr[a] = x
	}
	s.authors[x.PubKey]++
	s.bytes += x.size
	for _, d := range deletions(x.Event) {
		s.gone[d] = max(s.gone[d], x.CreatedAt)
	}
}

// remove takes an event out of memory. The caller holds mu. What a deletion
// deleted may come back once the deletion itself is gone.
func (s *eventStore) remove(x *stored) {
	if i, ok := slices.BinarySearchFunc(s.events, x, compareStored); ok {
		s.events = slices.Delete(s.events, i, i+1)
	}
	delete(s.byID, x.ID)
	if a, ok := addressOf(x.Event); ok && s.byAddr[a] == x {
		delete(s.byAddr, a)
	}
	if s.authors[x.PubKey]--; s.authors[x.PubKey] == 0 {
		delete(s.authors, x.PubKey)
	}
	s.bytes -= x.size
	for _, d := range deletions(x.Event) {
		if s.gone[d] == x.CreatedAt {
			delete(s.gone, d)
		}
	}
}

// deletions are what an event of NIP-09 deletes: only its author's.
func deletions(e *Event) (out []deletion) {
	if e.Kind != kindDeletion {
		return nil
	}
	for _, t := range e.Tags {
		if len(t) < 2 {
			continue
		}
		switch t[0] {
		case "e":
			var id ID
			if unhex(id[:], t[1]) == nil {
				out = append(out, deletion{author: e.PubKey, id: id})
			}
		case "a":
			kind, rest, _ := strings.Cut(t[1], ":")
			author, d, ok := strings.Cut(rest, ":")
			k, err := strconv.ParseUint(kind, 10, 16)
			if ok && err == nil && author == e.PubKey.Hex() {
				out = append(out, deletion{author: e.PubKey, addr: address{e.PubKey, Kind(k), d}})
			}
		}
	}
	return out
}

// isGone tells whether the author deleted the event. The caller holds mu.
func (s *eventStore) isGone(e *Event) bool {
	if _, ok := s.gone[deletion{author: e.PubKey, id: e.ID}]; ok && e.Kind != kindDeletion {
		return true
	}
	if a, ok := addressOf(e); ok {
		until, gone := s.gone[deletion{author: e.PubKey, addr: a}]
		return gone && e.CreatedAt <= until
	}
	return false
}

// keep takes a verified event. The errors above say that it is not kept and why.
func (s *eventStore) keep(e *Event, now Timestamp) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	raw := Encode(e)
	x := &stored{Event: e, size: int64(len(raw))}
	if s.expired(x, now) {
		return errors.New("invalid: the event has expired")
	}
	out, err := s.displaced(x, now)
	if err != nil {
		return err
	}
	err = s.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketEvents)
		for _, old := range out {
			if err := b.Delete(old.ID[:]); err != nil {
				return err
			}
		}
		return b.Put(e.ID[:], raw)
	})
	if err != nil {
		return fmt.Errorf("error: keep event: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, old := range out {
		s.remove(old)
	}
	s.insert(x)
	return nil
}

// displaced is what has to go for x to be kept, or why it cannot be.
func (s *eventStore) displaced(x *stored, now Timestamp) ([]*stored, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.byID[x.ID] != nil {
		return nil, errDuplicate
	}
	if s.isGone(x.Event) {
		return nil, errDeleted
	}
	out := map[ID]*stored{}
	if a, ok := addressOf(x.Event); ok {
		if old := s.byAddr[a]; old != nil {
			if !Newer(x.Event, old.Event) {
				return nil, errOlder
			}
			out[old.ID] = old
		}
	}
	for _, d := range deletions(x.Event) {
		old := s.byID[d.id]
		if d.id == (ID{}) {
			old = s.byAddr[d.addr]
		}
		if old != nil && old.PubKey == x.PubKey && old.Kind != kindDeletion && (d.id != ID{} || old.CreatedAt <= x.CreatedAt) {
			out[old.ID] = old
		}
	}
	free := func() (events int, bytes int64, of int) {
		for _, o := range out {
			bytes += o.size
			if o.PubKey == x.PubKey {
				of++
			}
		}
		return len(out), bytes, of
	}
	full := func() bool {
		n, b, _ := free()
		return len(s.events)-n >= s.most || s.bytes-b+x.size > s.mostBytes
	}
	if full() {
		for _, o := range s.events {
			if o.expires != 0 && o.expires <= now {
				out[o.ID] = o
			}
		}
	}
	if full() {
		return nil, errors.New("error: the relay is full; try again later")
	}
	if _, _, of := free(); s.authors[x.PubKey]-of >= s.perAuthor {
		return nil, fmt.Errorf("blocked: at most %d events of one author", s.perAuthor)
	}
	list := make([]*stored, 0, len(out))
	for _, o := range out {
		list = append(list, o)
	}
	return list, nil
}

// query is the newest events that match, newest first: at most limit, and at most
// so many bytes of JSON.
func (s *eventStore) query(f Filter, limit int, bytes int64, now Timestamp) []*Event {
	if f.Limit > 0 {
		limit = min(limit, f.Limit)
	}
	if f.LimitZero && f.Limit == 0 || f.Search != "" {
		return nil
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []*Event
	take := func(x *stored) bool {
		if x.expires != 0 && x.expires <= now || !f.Matches(*x.Event) {
			return true
		}
		if bytes -= x.size; len(out) == limit || bytes < 0 {
			return false
		}
		out = append(out, x.Event)
		return true
	}
	if f.IDs != nil {
		var found []*stored
		for _, id := range f.IDs {
			if x := s.byID[id]; x != nil && !slices.Contains(found, x) {
				found = append(found, x)
			}
		}
		slices.SortFunc(found, compareStored)
		for _, x := range found {
			if !take(x) {
				break
			}
		}
		return out
	}
	for _, x := range s.events {
		if !take(x) {
			break
		}
	}
	return out
}

// sweep drops what has expired.
func (s *eventStore) sweep(now Timestamp) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	var out []*stored
	s.mu.RLock()
	for _, x := range s.events {
		if x.expires != 0 && x.expires <= now {
			out = append(out, x)
		}
	}
	s.mu.RUnlock()
	if len(out) == 0 {
		return nil
	}
	err := s.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketEvents)
		for _, x := range out {
			if err := b.Delete(x.ID[:]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("drop %d expired events: %w", len(out), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range out {
		s.remove(x)
	}
	return nil
}

func (s *eventStore) count() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.events)
}

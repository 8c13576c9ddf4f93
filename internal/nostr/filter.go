package nostr

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Bounds of one filter.
const (
	maxFilterItems = 256 // in one list
	maxFilterTags  = 8
	maxFilters     = 8 // in one request
	maxSubID       = 64
	maxMessage     = MaxEventBytes + 1024
)

// decodeFilter reads a filter of NIP-01. Members that it does not know are errors:
// an answer that ignores a condition would be a wrong one.
func decodeFilter(b []byte) (Filter, error) {
	var f Filter
	var m map[string]json.RawMessage
	if err := json.Unmarshal(b, &m); err != nil || m == nil {
		return f, errors.New("a filter is an object")
	}
	for name, raw := range m {
		var err error
		switch {
		case name == "ids":
			f.IDs = []ID{}
			err = hexes(raw, func(s string) error {
				f.IDs = append(f.IDs, ID{})
				return unhex(f.IDs[len(f.IDs)-1][:], s)
			})
		case name == "authors":
			f.Authors = []PubKey{}
			err = hexes(raw, func(s string) error {
				f.Authors = append(f.Authors, PubKey{})
				return unhex(f.Authors[len(f.Authors)-1][:], s)
			})
		case name == "kinds":
			f.Kinds = []Kind{}
			var v []uint16
			if err = json.Unmarshal(raw, &v); err == nil && len(v) > maxFilterItems {
				err = fmt.Errorf("%d items, at most %d", len(v), maxFilterItems)
			}
			for _, k := range v {
				f.Kinds = append(f.Kinds, Kind(k))
			}
		case len(name) == 2 && name[0] == '#' && (name[1]|0x20 >= 'a' && name[1]|0x20 <= 'z'):
			var v []string
			err = hexes(raw, func(s string) error { v = append(v, s); return nil })
			if f.Tags == nil {
				f.Tags = TagMap{}
			}
			if f.Tags[name[1:]] = v; len(f.Tags) > maxFilterTags {
				err = fmt.Errorf("more than %d tags", maxFilterTags)
			}
		case name == "since":
			err = json.Unmarshal(raw, &f.Since)
		case name == "until":
			err = json.Unmarshal(raw, &f.Until)
		case name == "limit":
			if err = json.Unmarshal(raw, &f.Limit); err == nil && f.Limit < 0 {
				err = fmt.Errorf("%d is less than none", f.Limit)
			}
			f.LimitZero = f.Limit == 0
		default:
			err = errors.New("not understood")
		}
		if err != nil {
			return f, fmt.Errorf("filter: %.40q: %w", name, err)
		}
	}
	return f, nil
}

func hexes(raw []byte, each func(string) error) error {
	var v []string
	if err := json.Unmarshal(raw, &v); err != nil {
		return err
	}
	if len(v) > maxFilterItems {
		return fmt.Errorf("%d items, at most %d", len(v), maxFilterItems)
	}
	for _, s := range v {
		if len(s) > MaxItemBytes {
			return fmt.Errorf("an item of %d bytes, at most %d", len(s), MaxItemBytes)
		}
		if err := each(s); err != nil {
			return err
		}
	}
	return nil
}

// encodeFilter writes a filter as NIP-01 does.
func encodeFilter(f Filter) json.RawMessage {
	m := map[string]any{}
	if f.IDs != nil {
		v := make([]string, len(f.IDs))
		for i, id := range f.IDs {
			v[i] = hex.EncodeToString(id[:])
		}
		m["ids"] = v
	}
	if f.Authors != nil {
		v := make([]string, len(f.Authors))
		for i, k := range f.Authors {
			v[i] = hex.EncodeToString(k[:])
		}
		m["authors"] = v
	}
	if f.Kinds != nil {
		v := make([]int, len(f.Kinds))
		for i, k := range f.Kinds {
			v[i] = int(k)
		}
		m["kinds"] = v
	}
	for name, v := range f.Tags {
		m["#"+name] = slices.Clone(v)
	}
	if f.Since != 0 {
		m["since"] = int64(f.Since)
	}
	if f.Until != 0 {
		m["until"] = int64(f.Until)
	}
	if f.Limit != 0 || f.LimitZero {
		m["limit"] = f.Limit
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic("nostr: internal error: " + err.Error())
	}
	return b
}

// split reads a message: a JSON array that begins with a word.
func split(b []byte) (word string, rest []json.RawMessage, err error) {
	var parts []json.RawMessage
	if err := json.Unmarshal(b, &parts); err != nil {
		return "", nil, fmt.Errorf("a message is an array: %w", err)
	}
	if len(parts) == 0 || json.Unmarshal(parts[0], &word) != nil {
		return "", nil, errors.New("a message begins with a word")
	}
	return word, parts[1:], nil
}

func message(parts ...any) []byte {
	b, err := json.Marshal(parts)
	if err != nil {
		panic("nostr: internal error: " + err.Error())
	}
	return b
}

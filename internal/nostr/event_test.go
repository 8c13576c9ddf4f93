package nostr

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	nip "fiatjaf.com/nostr"
)

// wildEvent is a public note that other software signed.
const wildEvent = `{"id":"dc90c95f09947507c1044e8f48bcf6350aa6bff1507dd4acfc755b9239b5c962","pubkey":"3bf0c63fcb93463407af97a5e5ee64fa883d107ef9e558472c4eb9aaaefa459d","created_at":1644271588,"kind":1,"tags":[],"content":"now that https://blueskyweb.org/blog/2-7-2022-overview was announced we can stop working on nostr?","sig":"230e9d8f0ddaf7eb70b5f7741ccfa37e87a455c9a469282e3464e2052d3192cd63a167e196e381ef9d7e69e9ea43af2443b839974dc85d8aaab9efe1d9296524"}`

func TestVerifyWild(t *testing.T) {
	e, err := Decode([]byte(wildEvent))
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(e); err != nil {
		t.Error(err)
	}
}

func TestSignIsDeterministic(t *testing.T) {
	a, b := event(t, 1, 1, at(0), Tag{"t", "ä\n\"\\<>&\u2028"}), event(t, 1, 1, at(0), Tag{"t", "ä\n\"\\<>&\u2028"})
	if a.Sig != b.Sig || a.ID != b.ID {
		t.Error("equal events have different signatures")
	}
	back, err := Decode(Encode(a))
	if err != nil || Verify(back) != nil {
		t.Errorf("%v, %v", err, Verify(back))
	}
	// The library's own reader agrees on the bytes.
	var other nip.Event
	if err := json.Unmarshal(Encode(a), &other); err != nil || other.GetID() != a.ID || !other.VerifySignature() {
		t.Errorf("another reader sees another event: %v", err)
	}
}

// TestVerifyEveryPart changes each part of an event.
func TestVerifyEveryPart(t *testing.T) {
	good := event(t, 1, 1, at(0), Tag{"t", "x"})
	for name, change := range map[string]func(*Event){
		"id":         func(e *Event) { e.ID[0] ^= 1 },
		"pubkey":     func(e *Event) { e.PubKey[0] ^= 1 },
		"created_at": func(e *Event) { e.CreatedAt++ },
		"kind":       func(e *Event) { e.Kind++ },
		"tags":       func(e *Event) { e.Tags = Tags{{"t", "y"}} },
		"content":    func(e *Event) { e.Content = " " },
		"r":          func(e *Event) { e.Sig[0] ^= 1 },
		"s":          func(e *Event) { e.Sig[63] ^= 1 },
	} {
		e := *good
		change(&e)
		if Verify(&e) == nil {
			t.Errorf("%s changed, and the event verifies", name)
		}
		e.ID = e.GetID()
		if name != "id" && Verify(&e) == nil {
			t.Errorf("%s and id changed, and the event verifies", name)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, c := range []struct{ from, to, want string }{
		{`"kind":1`, `"kind":65536`, "kind 65536"},
		{`"kind":1`, `"kind":-1`, "kind -1"},
		{`"created_at":1644271588`, `"created_at":0`, "created_at 0"},
		{`"created_at":1644271588`, `"created_at":1e300`, "event:"},
		{`"created_at":1644271588`, `"created_at":253402300800`, "created_at"},
		{`"tags":[]`, `"tags":[[]]`, "tag 0 has 0 items"},
		{`"tags":[]`, `"tags":null`, "missing"},
		{`"tags":[]`, `"tags":[[1]]`, "event:"},
		{`"id":"dc`, `"id":"DC`, "lower-case"},
		{`"id":"dc`, `"id":"d`, "63 characters"},
		{`"content":"now`, `"content":"now` + strings.Repeat("x", MaxContent), "content of"},
		{`"content":"now`, `"content":"now` + strings.Repeat("x", MaxEventBytes), "at most 32768"},
		{`"sig":`, `"signature":`, "missing"},
	} {
		s := strings.Replace(wildEvent, c.from, c.to, 1)
		if _, err := Decode([]byte(s)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.to[:min(len(c.to), 40)], err, c.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(wildEvent))
	f.Add([]byte(`{"id":"","pubkey":"","created_at":1,"kind":1,"tags":[["a",""]],"content":"","sig":""}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := Decode(b)
		if err != nil {
			return
		}
		Verify(e)
		Work(e)
		Expiration(e)
		deletions(e)
		c := Encode(e)
		again, err := Decode(c)
		if len(c) > MaxEventBytes {
			return // control characters take more room when they are escaped
		}
		if err != nil || !bytes.Equal(Encode(again), c) || again.GetID() != e.GetID() {
			t.Errorf("decode, encode, decode: %v", err)
		}
	})
}

func FuzzFilter(f *testing.F) {
	f.Add([]byte(`{"ids":[],"authors":[],"kinds":[1],"#m":["x"],"since":1,"until":2,"limit":3}`))
	f.Add([]byte(`{"limit":0}`))
	e, err := Decode([]byte(wildEvent))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := decodeFilter(b)
		if err != nil {
			return
		}
		again, err := decodeFilter(encodeFilter(x))
		if err != nil || again.Matches(*e) != x.Matches(*e) || !bytes.Equal(encodeFilter(x), encodeFilter(again)) {
			t.Errorf("decode, encode, decode: %s, %v", encodeFilter(x), err)
		}
	})
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(`["REQ","a",{}]`))
	f.Fuzz(func(t *testing.T, b []byte) { split(b) })
}

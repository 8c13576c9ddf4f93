package job

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/pay"
)

func testVectorOrder(t testing.TB, nonce ghost.Nonce) *VectorOrder {
	t.Helper()
	o := &VectorOrder{Provider: simKey(2), Model: ghost.ID{1}, Ask: ghost.Digest{2}, Prices: pay.Prices{Prompt: 1_000_000, Answer: 20_000_000},
		Rail: "credit", CreatedAt: 1_800_000_000, Nonce: nonce, Texts: [][]int32{{1, 2, 3}, {4}}}
	if err := o.Sign(simSecret(1)); err != nil {
		t.Fatal(err)
	}
	return o
}

// An order of vectors reads back, and its nonce is part of its id.
func TestVectorOrder(t *testing.T) {
	o := testVectorOrder(t, ghost.Nonce{7})
	b, err := o.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseVectorOrder(b)
	if err != nil || !reflect.DeepEqual(o, again) {
		t.Errorf("%+v, %v", again, err)
	}
	if o.ID() == testVectorOrder(t, ghost.Nonce{8}).ID() {
		t.Error("orders with different nonces are one job")
	}
	for name, bad := range map[string][]byte{
		"no nonce":      bytes.Replace(b, []byte(`"nonce":"07`), []byte(`"nonce":"`), 1),
		"another nonce": bytes.Replace(b, []byte(`"nonce":"07`), []byte(`"nonce":"08`), 1),
		"other texts":   bytes.Replace(b, []byte(`[4]`), []byte(`[5]`), 1),
	} {
		if _, err := ParseVectorOrder(bad); err == nil || bytes.Equal(b, bad) {
			t.Errorf("%s: taken", name)
		}
	}
}

func FuzzVectorOrder(f *testing.F) {
	b, err := testVectorOrder(f, ghost.Nonce{7}).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"vectors":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := ParseVectorOrder(b)
		if err != nil {
			return
		}
		c, err := o.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseVectorOrder(c)
		if err != nil || !reflect.DeepEqual(o, again) {
			t.Fatalf("%+v becomes %+v, %v", o, again, err)
		}
	})
}

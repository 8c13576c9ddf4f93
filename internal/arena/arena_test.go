package arena

import (
	"math"
	"strings"
	"testing"
)

func TestNew(t *testing.T) {
	for _, size := range []int{0, 1, 4096, 2<<20 - 1, 2 << 20, 5 << 20} {
		a, err := New(size)
		if err != nil {
			t.Fatal(err)
		}
		b := a.Bytes()
		if len(b) != size || cap(b) != size {
			t.Fatalf("%d bytes asked for, %d given, capacity %d", size, len(b), cap(b))
		}
		for i := range b {
			if b[i] != 0 {
				t.Fatalf("byte %d of %d is %d", i, size, b[i])
			}
			b[i] = 0xff
		}
		for range 2 {
			if err := a.Free(); err != nil {
				t.Fatal(err)
			}
		}
		if a.Bytes() != nil {
			t.Errorf("%d bytes are still there after Free", size)
		}
	}
}

// What cannot be had is an error that says how much it was.
func TestNewRefuses(t *testing.T) {
	for _, size := range []int{-1, math.MaxInt} {
		if _, err := New(size); err == nil || !strings.Contains(err.Error(), "reserve") {
			t.Errorf("%d bytes: error %v", size, err)
		}
	}
}

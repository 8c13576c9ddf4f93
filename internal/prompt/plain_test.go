package prompt

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzPlain(f *testing.F) {
	for _, s := range []string{"", "a", "abc", "abcd", "Käse und Wein für 3 €", "\xff\x00x", "日本語"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		ids := Pack(text)
		back, err := Unpack(ids)
		if err != nil || !bytes.Equal(back, text) {
			t.Fatalf("%q became %q, %v", text, back, err)
		}
		var p Plain
		var out strings.Builder
		for _, id := range ids {
			s := p.Add(id)
			if !utf8.ValidString(s) {
				t.Fatalf("%q is no text", s)
			}
			out.WriteString(s)
		}
		out.WriteString(p.Flush())
		if utf8.Valid(text) && out.String() != string(text) {
			t.Fatalf("%q became %q", text, out.String())
		}
	})
}

func TestUnpackRefuses(t *testing.T) {
	for _, id := range []int32{0, 1, -1, 4 << 24, 1<<24 | 1<<8, 2<<24 | 1<<16} {
		if b, err := Unpack([]int32{id}); err == nil {
			t.Errorf("%d became %q", id, b)
		}
	}
}

package synth

import (
	"bytes"
	"crypto/sha256"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/tokenizer"
)

func tiny(t *testing.T, kind string) []byte {
	t.Helper()
	s := Presets["tiny"]
	s.Type, s.Layers, s.FF = kind, 1, 256
	var b bytes.Buffer
	if err := Write(&b, s, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestWrite(t *testing.T) {
	for _, f := range arith.Formats() {
		b := tiny(t, f.String())
		if sha256.Sum256(b) != sha256.Sum256(tiny(t, f.String())) {
			t.Errorf("%v: two runs differ", f)
		}
		g, err := gguf.Parse("tiny", b)
		if err != nil {
			t.Fatal(err)
		}
		tok, err := tokenizer.New(g)
		if err != nil {
			t.Fatal(err)
		}
		const text = "the sea and the stone"
		if got := tok.Decode(tok.Encode(text, tokenizer.Options{}), false); got != text {
			t.Errorf("tokenizer gives back %q", got)
		}
	}
	s := Presets["tiny"]
	s.Type = "q9"
	if err := Write(&bytes.Buffer{}, s, nil); err == nil {
		t.Error("an unknown type is accepted")
	}
	if err := Write(&bytes.Buffer{}, Spec{}, nil); err == nil {
		t.Error("an empty shape is accepted")
	}
}

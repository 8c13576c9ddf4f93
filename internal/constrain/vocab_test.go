package constrain

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/tokenizer"
)

const vocabDir = "../../../shared/data/vocab"

// ggufVocab reads the vocabulary of a model through the tokenizer.
func ggufVocab(tb testing.TB, name string) *Vocab {
	path := filepath.Join(vocabDir, name)
	if _, err := os.Stat(path); err != nil {
		tb.Skipf("needs the vocabulary %s: %v", path, err)
	}
	f, err := gguf.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	tok, err := tokenizer.New(f)
	if err != nil {
		tb.Fatal(err)
	}
	pieces := make([][]byte, tok.Size())
	for id := range pieces {
		pieces[id] = tok.Piece(int32(id))
	}
	return NewVocab(pieces, tok.IsEOG)
}

// llama3Vocab reads the 128 000 byte-level tokens of Llama 3; 128000 is the end.
func llama3Vocab(tb testing.TB) *Vocab {
	path := filepath.Join(vocabDir, "llama-bpe", "encoder.json")
	text, err := os.ReadFile(path)
	if err != nil {
		tb.Skipf("needs the vocabulary %s: %v", path, err)
	}
	var tokens map[string]int
	if err := json.Unmarshal(text, &tokens); err != nil {
		tb.Fatal(err)
	}
	// Bytes that are printable stand for themselves, the others for the
	// characters from 256 on.
	byteOf := map[rune]byte{}
	next := rune(256)
	for c := rune(0); c < 256; c++ {
		if c > ' ' && c < 0x7f || c > 0xa0 && c != 0xad {
			byteOf[c] = byte(c)
		} else {
			byteOf[next] = byte(c)
			next++
		}
	}
	pieces := make([][]byte, 128_001)
	for s, id := range tokens {
		if id < 128_000 {
			for _, r := range s {
				pieces[id] = append(pieces[id], byteOf[r])
			}
		}
	}
	return NewVocab(pieces, func(id int32) bool { return id == 128_000 })
}

// A model that knows nothing still writes valid JSON with a real vocabulary.
func TestRealVocabularies(t *testing.T) {
	vocabs := map[string]func(tb testing.TB) *Vocab{"llama-3": llama3Vocab}
	for _, name := range []string{"gpt-2.gguf", "llama-spm.gguf", "deepseek-coder.gguf"} {
		vocabs[name] = func(tb testing.TB) *Vocab { return ggufVocab(tb, name) }
	}
	for name, open := range vocabs {
		t.Run(name, func(t *testing.T) {
			v := open(t)
			for i, schema := range []string{weatherTool, treeSchema, stepsSchema, unionSchema, personSchema, `{"type":"object"}`, `true`} {
				g, err := Compile([]byte(schema))
				if err != nil {
					t.Fatal(err)
				}
				r := rand.New(rand.NewPCG(uint64(i), 4))
				for range 2 {
					text, err := generate(r, g.NewState(v), 30)
					if err != nil {
						t.Fatal(err)
					}
					checkText(t, schema, text)
				}
				mask := make([]uint64, v.Words())
				text, err := generate(r, g.NewState(byteVocab()), 20)
				if err != nil {
					t.Fatal(err)
				}
				for n := 0; n < len(text); n += 1 + r.IntN(len(text)+1) {
					position(t, g, v, string(text[:n])).Allowed(mask)
					if want := bruteForce(g, v, text[:n]); !slices.Equal(mask, want) {
						t.Fatalf("schema %s\nafter %q the mask is wrong", schema, text[:n])
					}
				}
			}
		})
	}
}

// position returns the state after text, spelled byte by byte.
func position(tb testing.TB, g *Grammar, v *Vocab, text string) *State {
	s := g.NewState(v)
	for i := range len(text) {
		if s.cur = s.m.step(s.cur, text[i]); s.cur == dead {
			tb.Fatalf("%q cannot stand at %d", text, i)
		}
	}
	return s
}

func BenchmarkAllowed(b *testing.B) {
	v := llama3Vocab(b)
	for _, bc := range []struct{ name, schema, text string }{
		{"free string", stepsSchema, `{"steps":[{"explanation":"The`},
		{"bounded string", personSchema, `{"name":"The`},
		{"pattern", personSchema, `{"name":"a","email":"a@b.c","tags":["a`},
		{"key", weatherTool, `{"`},
		{"number", personSchema, `{"name":"a","email":"a@b.c","score":0.1`},
		{"enum", weatherTool, `{"location":"x","unit":"`},
		{"any value", `true`, `{"a":[`},
		{"any key", `true`, `{"a":[{"`},
		{"any string", `true`, `{"a":[{"b":"x`},
	} {
		g, err := Compile([]byte(bc.schema))
		if err != nil {
			b.Fatal(err)
		}
		mask := make([]uint64, v.Words())
		s := position(b, g, v, bc.text)
		// The same position again, as in the middle of a string.
		b.Run(bc.name+"/again", func(b *testing.B) {
			for range b.N {
				s.Allowed(mask)
			}
		})
		// A position that is new to this text, in states known from others.
		b.Run(bc.name+"/new position", func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				s := position(b, g, v, bc.text)
				b.StartTimer()
				s.Allowed(mask)
			}
		})
		// Nothing is known.
		b.Run(bc.name+"/cold", func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				clear(v.cache)
				v.lru.Init()
				v.bytes = 0
				s := position(b, g, v, bc.text)
				b.StartTimer()
				s.Allowed(mask)
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	for name, schema := range map[string]string{"weather": weatherTool, "person": personSchema, "any": `true`} {
		b.Run(name, func(b *testing.B) {
			for range b.N {
				if _, err := Compile([]byte(schema)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkNewVocab(b *testing.B) {
	v := llama3Vocab(b)
	for range b.N {
		NewVocab(v.pieces, func(id int32) bool { return id == 128_000 })
	}
}

// A whole text, token by token: what the model's every step pays.
func BenchmarkGenerate(b *testing.B) {
	v := llama3Vocab(b)
	g, err := Compile([]byte(stepsSchema))
	if err != nil {
		b.Fatal(err)
	}
	mask := make([]uint64, v.Words())
	text := fmt.Sprintf(`{"steps": [%s], "final_answer": "42"}`,
		strings.TrimSuffix(strings.Repeat(`{"explanation": "We add the numbers", "output": "x = 1"}, `, 10), ", "))
	var ids []int32
	for rest := text; rest != ""; { // greedy, longest first
		best := int32(-1)
		for id, p := range v.pieces {
			if len(p) > 0 && strings.HasPrefix(rest, string(p)) && (best < 0 || len(p) > len(v.pieces[best])) {
				best = int32(id)
			}
		}
		ids = append(ids, best)
		rest = rest[len(v.pieces[best]):]
	}
	b.ResetTimer()
	for range b.N {
		s := g.NewState(v)
		for _, id := range ids {
			s.Allowed(mask)
			if err := s.Accept(id); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(ids)), "µs/token")
}

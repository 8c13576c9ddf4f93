package tokenizer

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"
)

func TestIDsOfLlamaCpp(t *testing.T) {
	written, seeded := writtenTexts(t), seededTexts()
	for _, name := range realNames(t) {
		t.Run(name, func(t *testing.T) {
			tok := load(t, name)
			lines := readLines(t, "testdata/ids-"+name+".txt")
			modes := map[string]Options{"plain": {}, "parse": {ParseSpecial: true}, "add": {AddSpecial: true}}
			for {
				mode, want, _ := strings.Cut(lines[0], " ")
				opts, ok := modes[mode]
				if !ok {
					break
				}
				delete(modes, mode)
				lines = lines[1:]
				got := hashOf(seeded, func(text string) string { return list(tok.Encode(text, opts)) })
				if got != want {
					t.Errorf("%s: seeded texts hash to %s, want %s", mode, got, want)
				}
			}
			if len(modes) > 1 || len(lines) != len(written) {
				t.Fatalf("%d modes missing, %d lines", len(modes), len(lines))
			}
			for i, text := range written {
				if got := list(tok.Encode(text, Options{ParseSpecial: true})); got != lines[i] {
					t.Errorf("%q: got %s, want %s", text, got, lines[i])
				}
			}
		})
	}
}

// TestRoundTrip decodes what it encodes. SentencePiece loses the spaces that
// it puts in itself only at the beginning, and user-defined tokens of phi-3
// drop white space. WordPiece loses case, accents and spaces: there, what was
// decoded must encode to the same ids.
func TestRoundTrip(t *testing.T) {
	for _, name := range realNames(t) {
		t.Run(name, func(t *testing.T) {
			tok := load(t, name)
			for _, text := range slices.Concat(writtenTexts(t), seededTexts()[:1000]) {
				ids := tok.Encode(text, Options{})
				got := tok.Decode(ids, false)
				if tok.wpm != nil {
					if unk, _ := tok.UNK(); slices.Contains(ids, unk) {
						continue
					}
					if again := tok.Encode(got, Options{}); !slices.Equal(again, ids) {
						t.Errorf("%q: decoded %q encodes to %d, was %d", text, got, again, ids)
					}
					continue
				}
				if tok.spm != nil && (strings.Contains(text, spaceMark) || strings.Contains(text, "<")) {
					continue // "▁" becomes a space; user-defined tokens begin with "<"
				}
				if got != text {
					t.Errorf("%q: decodes to %q", text, got)
				}
			}
		})
	}
}

// alphabetBPE is a byte-level vocabulary with random merges over a few
// letters, so that ranks collide and merges depend on each other.
func alphabetBPE(rng *rand.Rand, merges int) meta {
	var tokens, list []string
	for b := range 256 {
		tokens = append(tokens, string(byteRune(byte(b))))
	}
	syms := []string{"a", "b", "c", "Ġ", "Ã", "©"}
	known := make(map[string]bool)
	for _, s := range tokens {
		known[s] = true
	}
	for range merges {
		l, r := syms[rng.IntN(len(syms))], syms[rng.IntN(len(syms))]
		list = append(list, l+" "+r)
		if !known[l+r] && len(l+r) < 40 {
			known[l+r] = true
			syms = append(syms, l+r)
			if rng.IntN(8) > 0 { // some results are no tokens
				tokens = append(tokens, l+r)
			}
		}
	}
	return meta{
		"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
		"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": list,
	}
}

// naiveBPE joins the pair of least rank, the leftmost first, again and again.
func naiveBPE(m meta, text string) []int32 {
	tokens, merges := m["tokenizer.ggml.tokens"].([]string), m["tokenizer.ggml.merges"].([]string)
	ids := make(map[string]int32)
	for id, s := range tokens {
		ids[s] = int32(id)
	}
	rank := make(map[string]int)
	for i, s := range slices.Backward(merges) {
		rank[s] = i
	}
	var out []int32
	begin := int32(0)
	for _, end := range refSplit([]string{patternGPT2}, text) {
		var syms []string
		for _, b := range []byte(text[begin:end]) {
			syms = append(syms, string(byteRune(b)))
		}
		begin = end
		for {
			at, least := -1, len(merges)
			for i := range len(syms) - 1 {
				if r, ok := rank[syms[i]+" "+syms[i+1]]; ok && r < least {
					at, least = i, r
				}
			}
			if at < 0 {
				break
			}
			syms[at] += syms[at+1]
			syms = slices.Delete(syms, at+1, at+2)
		}
		for _, s := range syms {
			if id, ok := ids[s]; ok {
				out = append(out, id)
				continue
			}
			for _, r := range s {
				out = append(out, ids[string(r)])
			}
		}
	}
	return out
}

func randomText(rng *rand.Rand, alphabet []string, n int) string {
	var b strings.Builder
	for range rng.IntN(n) {
		b.WriteString(alphabet[rng.IntN(len(alphabet))])
	}
	return b.String()
}

func TestBPEReference(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 40 {
		m := alphabetBPE(rng, 1+rng.IntN(60))
		tok, err := New(m)
		if err != nil {
			t.Fatal(err)
		}
		for range 40 {
			// Lengths on both sides of maxScanned.
			text := randomText(rng, []string{"a", "b", "c", "a", "b", "é", " ", "\xff"}, 150)
			if rng.IntN(2) == 0 {
				text = strings.ReplaceAll(text, " ", "a")
			}
			got, want := tok.Encode(text, Options{}), naiveBPE(m, text)
			if !slices.Equal(got, want) {
				t.Fatalf("%q with %v: got %d, want %d", text, m["tokenizer.ggml.merges"], got, want)
			}
			if back := tok.Decode(got, false); back != text {
				t.Fatalf("%q decodes to %q", text, back)
			}
		}
	}
}

// alphabetSPM is a SentencePiece vocabulary over a few letters with scores of
// which many are equal.
func alphabetSPM(rng *rand.Rand, size int) meta {
	tokens := []string{"<unk>", "<s>", "</s>"}
	types := []int64{2, 3, 3}
	for b := range 256 {
		tokens = append(tokens, byteTokenText(byte(b)))
		types = append(types, 6)
	}
	syms := []string{"a", "b", "c", "▁", "é"}
	tokens = append(tokens, syms...)
	for range size {
		s := syms[rng.IntN(len(syms))] + syms[rng.IntN(len(syms))]
		if !slices.Contains(tokens, s) && len(s) < 40 {
			tokens = append(tokens, s)
			if rng.IntN(4) > 0 {
				syms = append(syms, s)
			}
		}
	}
	scores := make([]float32, len(tokens))
	for i := range scores {
		scores[i] = float32(rng.IntN(9) - 4)
		if i >= len(types) {
			types = append(types, 1)
		}
	}
	return meta{
		"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens,
		"tokenizer.ggml.scores": scores, "tokenizer.ggml.token_type": types,
	}
}

// naiveSPM joins the pair whose text is the token of the highest score, the
// leftmost first, again and again.
func naiveSPM(m meta, text string) []int32 {
	if text == "" {
		return nil
	}
	tokens, scores := m["tokenizer.ggml.tokens"].([]string), m["tokenizer.ggml.scores"].([]float32)
	ids := make(map[string]int32)
	for id, s := range tokens[3:] {
		ids[s] = int32(id + 3)
	}
	syms := strings.Split(strings.ReplaceAll(" "+text, " ", "▁"), "")
	for {
		at := -1
		var best float32
		for i := range len(syms) - 1 {
			if id, ok := ids[syms[i]+syms[i+1]]; ok && (at < 0 || scores[id] > best) {
				at, best = i, scores[id]
			}
		}
		if at < 0 {
			break
		}
		syms[at] += syms[at+1]
		syms = slices.Delete(syms, at+1, at+2)
	}
	var out []int32
	for _, s := range syms {
		if id, ok := ids[s]; ok {
			out = append(out, id)
			continue
		}
		for _, b := range []byte(s) {
			out = append(out, int32(b)+3)
		}
	}
	return out
}

func TestSPMReference(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	for range 40 {
		m := alphabetSPM(rng, 1+rng.IntN(60))
		tok, err := New(m)
		if err != nil {
			t.Fatal(err)
		}
		for range 40 {
			text := randomText(rng, []string{"a", "b", "c", "a", "b", "é", " ", "x", "中"}, 80)
			got, want := tok.Encode(text, Options{}), naiveSPM(m, text)
			if !slices.Equal(got, want) {
				t.Fatalf("%q with %v: got %d, want %d", text, m["tokenizer.ggml.tokens"].([]string)[259:], got, want)
			}
			if back := tok.Decode(got, false); back != text {
				t.Fatalf("%q decodes to %q", text, back)
			}
		}
	}
}

func TestScoreRank(t *testing.T) {
	inf := float32(math.Inf(1))
	scores := []float32{inf, 1e30, 2, 1, 1e-40, 0, -1e-40, -1, -2, -1e30, -inf}
	for i := range len(scores) - 1 {
		if scoreRank(scores[i]) >= scoreRank(scores[i+1]) {
			t.Errorf("%g does not go before %g", scores[i], scores[i+1])
		}
	}
	if scoreRank(float32(math.Copysign(0, -1))) != scoreRank(0) {
		t.Error("the zeros differ")
	}
}

// naiveCut looks for one special token after the other in what is still text.
func naiveCut(s *specials, text string, parse bool) []fragment {
	frags := []fragment{{text: text, id: -1}}
	for _, sp := range s.list {
		if !parse && !sp.always {
			continue
		}
		var next []fragment
		for _, f := range frags {
			if f.id >= 0 {
				next = append(next, f)
				continue
			}
			rest := f.text
			for {
				left, right, ok := strings.Cut(rest, sp.text)
				if !ok {
					break
				}
				if sp.lstrip {
					left = strings.TrimRight(left, "\t\n\v\f\r ")
				}
				if sp.rstrip {
					right = strings.TrimLeft(right, "\t\n\v\f\r ")
				}
				next = append(next, fragment{text: left, id: -1}, fragment{id: sp.id})
				rest = right
			}
			next = append(next, fragment{text: rest, id: -1})
		}
		frags = next
	}
	return slices.DeleteFunc(frags, func(f fragment) bool { return f.id < 0 && f.text == "" })
}

func TestSpecialsReference(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 10))
	alphabet := []string{"a", "b", " ", "<", ">", "a", "b"}
	for range 300 {
		v := &vocab{}
		texts := make(map[string]bool)
		for range 1 + rng.IntN(8) {
			texts[randomText(rng, alphabet, 5)+"a"] = true
		}
		for _, text := range slices.Sorted(maps.Keys(texts)) {
			a := []attr{attrControl, attrUser, attrUnknown, attrNormal}[rng.IntN(4)]
			if a != attrNormal {
				a |= []attr{0, attrLstrip, attrRstrip, attrLstrip | attrRstrip}[rng.IntN(4)]
			}
			v.tokens = append(v.tokens, token{text: text, attr: a})
		}
		s := newSpecials(v)
		for range 40 {
			text, parse := randomText(rng, alphabet, 30), rng.IntN(2) == 0
			got, want := s.cut(text, parse), naiveCut(s, text, parse)
			if !slices.Equal(got, want) {
				t.Fatalf("%q with %+v: got %v, want %v", text, s.list, got, want)
			}
		}
	}
}

// TestLong would not end in time if merging or cutting took quadratic time.
func TestLong(t *testing.T) {
	const n = 1 << 20
	rng := rand.New(rand.NewPCG(11, 12))
	b, err := New(alphabetBPE(rng, 60))
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(alphabetSPM(rng, 60))
	if err != nil {
		t.Fatal(err)
	}
	for _, unit := range []string{"a", "ab", "abc", "aab"} {
		text := strings.Repeat(unit, n/len(unit))
		for _, tok := range []*Tokenizer{b, s} {
			if got := tok.Decode(tok.Encode(text, Options{}), false); got != text {
				t.Errorf("%q repeated: comes back as %d bytes", unit, len(got))
			}
		}
	}
	m := alphabetSPM(rng, 10)
	for i := 1; i < 40; i++ { // runs of newlines of every length, as Gemma has
		m["tokenizer.ggml.tokens"] = append(m["tokenizer.ggml.tokens"].([]string), strings.Repeat("\n", i))
		m["tokenizer.ggml.scores"] = append(m["tokenizer.ggml.scores"].([]float32), 0)
		m["tokenizer.ggml.token_type"] = append(m["tokenizer.ggml.token_type"].([]int64), 4)
	}
	tok, err := New(m)
	if err != nil {
		t.Fatal(err)
	}
	if ids := tok.Encode(strings.Repeat("\n", 39*10000+5), Options{}); len(ids) != 10001 {
		t.Errorf("a run of newlines gives %d ids", len(ids))
	}
}

func TestStream(t *testing.T) {
	rng := rand.New(rand.NewPCG(13, 14))
	for _, m := range []meta{alphabetBPE(rng, 40), alphabetSPM(rng, 40)} {
		tok, err := New(m)
		if err != nil {
			t.Fatal(err)
		}
		for range 500 {
			text := hostile(rng, 6)
			ids := tok.Encode(text, Options{AddSpecial: true})
			if rng.IntN(3) == 0 && len(ids) > 0 {
				ids = ids[rng.IntN(len(ids)):] // may begin within a character
			}
			s := tok.NewStream()
			var got strings.Builder
			for _, id := range ids {
				part := s.Add(id)
				if !utf8.ValidString(part) {
					t.Fatalf("%q: a part is %q", text, part)
				}
				got.WriteString(part)
			}
			got.WriteString(s.Flush())
			want := string([]rune(tok.Decode(ids, false)))
			if got.String() != want {
				t.Fatalf("%d: streamed %q, decoded %q", ids, got.String(), want)
			}
			if s.Flush() != "" {
				t.Fatal("a flushed stream has more")
			}
		}
	}
	tok, err := New(alphabetSPM(rng, 0))
	if err != nil {
		t.Fatal(err)
	}
	ids := tok.Encode("a é", Options{})
	for _, c := range []struct {
		s     *Stream
		parts []string
	}{
		{tok.NewStream(), []string{"", "a", " ", "é"}},
		{tok.NewContinuation(), []string{" ", "a", " ", "é"}},
	} {
		var parts []string
		for _, id := range ids {
			parts = append(parts, c.s.Add(id))
		}
		if !slices.Equal(parts, c.parts) {
			t.Errorf("parts %q, want %q", parts, c.parts)
		}
	}
	s := tok.NewStream()
	var parts []string
	for _, b := range []byte("中") {
		parts = append(parts, s.Add(int32(b)+3))
	}
	parts = append(parts, s.Add(3+0xE4), s.Add(4), s.Flush()) // a character that breaks off
	if want := []string{"", "", "中", "", "\ufffd\x01", ""}; !slices.Equal(parts, want) {
		t.Errorf("bytes: parts %q, want %q", parts, want)
	}
}

func TestConcurrent(t *testing.T) {
	rng := rand.New(rand.NewPCG(15, 16))
	for _, m := range []meta{alphabetBPE(rng, 40), alphabetSPM(rng, 40)} {
		tok, err := New(m)
		if err != nil {
			t.Fatal(err)
		}
		texts := seededTexts()[:200]
		var want []string
		for _, text := range texts {
			want = append(want, fmt.Sprint(tok.Encode(text, Options{})))
		}
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range texts {
					i = (i + g*17) % len(texts)
					if got := fmt.Sprint(tok.Encode(texts[i], Options{})); got != want[i] {
						t.Errorf("%q: got %s, want %s", texts[i], got, want[i])
						return
					}
				}
			})
		}
		wg.Wait()
	}
}

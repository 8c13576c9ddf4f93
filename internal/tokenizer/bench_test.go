package tokenizer

import (
	"strings"
	"testing"
)

// prose is text of some languages and of a program, about n bytes.
func prose(n int) string {
	const text = `The quick brown fox jumps over the lazy dog; it wasn't the first time. In 1984, 25% of
the 1,234,567 readers said: "We've seen this before!" — and they'd been right.
Быстрая лиса перепрыгивает через ленивую собаку. Съешь ещё этих мягких французских булок.
素早い茶色の狐はのろまな犬を飛び越える。敏捷的棕色狐狸跳过了懒狗。
func (t *Tokenizer) Encode(text string, opts Options) []int32 {
	if t.vocab == nil || len(text) > maxText {
		return nil // nothing to do
	}
}
`
	return strings.Repeat(text, n/len(text)+1)
}

func BenchmarkEncode(b *testing.B) {
	text := prose(1 << 20)
	word := strings.Repeat("pneumonoultramicroscopicsilicovolcanoconiosis", 1<<20/45)
	for _, name := range realNames(b) {
		tok := load(b, name)
		for _, c := range []struct{ name, text string }{{"prose", text}, {"word", word}} {
			b.Run(name+"/"+c.name, func(b *testing.B) {
				b.SetBytes(int64(len(c.text)))
				for b.Loop() {
					tok.Encode(c.text, Options{})
				}
			})
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, name := range realNames(b) {
		tok := load(b, name)
		ids := tok.Encode(prose(1<<16), Options{})
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				tok.Decode(ids, false)
			}
		})
	}
}

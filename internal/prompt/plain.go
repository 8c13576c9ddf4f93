package prompt

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/geistnet/geist/ghost"
)

// Tokens of a model that nobody can check, because its vocabulary is unknown, are
// groups of one to three bytes of UTF-8 text: n<<24 | b₂<<16 | b₁<<8 | b₀. Both
// sides can count them, and a receipt can commit to them, though they
// are not what the model computes with.

// PlainID names a model that has no Ghost file, by the name its provider gives it.
// It is no commitment to anything but that name.
func PlainID(name string) ghost.ID {
	return sha256.Sum256(append([]byte("geist/reputation/1"), name...))
}

// PlainPrompt is what the tokens of a prompt for such a model spell, as JSON: a
// conversation in OpenAI's words, or a text to continue.
type PlainPrompt struct {
	Messages   json.RawMessage `json:"messages,omitempty"`
	Tools      json.RawMessage `json:"tools,omitempty"`
	ToolChoice json.RawMessage `json:"tool_choice,omitempty"`
	Prompt     string          `json:"prompt,omitempty"`
}

// Pack makes tokens of a text.
func Pack(text []byte) []int32 {
	ids := make([]int32, 0, (len(text)+2)/3)
	for len(text) > 0 {
		n := min(3, len(text))
		id := int32(n) << 24
		for i, b := range text[:n] {
			id |= int32(b) << (8 * i)
		}
		ids, text = append(ids, id), text[n:]
	}
	return ids
}

// Unpack gives the text of such tokens.
func Unpack(ids []int32) ([]byte, error) {
	text := make([]byte, 0, 3*len(ids))
	for i, id := range ids {
		n := int(id >> 24)
		if n < 1 || n > 3 || id&(1<<24-1)>>(8*n) != 0 {
			return nil, fmt.Errorf("token %d, %d, is no group of bytes", i, id)
		}
		for k := range n {
			text = append(text, byte(id>>(8*k)))
		}
	}
	return text, nil
}

// Plain makes text of such tokens, whole characters at a time.
type Plain struct{ held []byte }

// Add takes the next token and returns what became whole. Bytes that are no
// UTF-8, and ids that are no such tokens, become U+FFFD.
func (p *Plain) Add(id int32) string {
	b, err := Unpack([]int32{id})
	if err != nil {
		b = []byte("\uFFFD")
	}
	p.held = append(p.held, b...)
	return p.take(false)
}

// Flush returns what never became whole.
func (p *Plain) Flush() string { return p.take(true) }

func (p *Plain) take(all bool) string {
	var out []byte
	i := 0
	for i < len(p.held) && (all || utf8.FullRune(p.held[i:])) {
		r, n := utf8.DecodeRune(p.held[i:])
		out = utf8.AppendRune(out, r)
		i += n
	}
	p.held = append(p.held[:0], p.held[i:]...)
	return string(out)
}

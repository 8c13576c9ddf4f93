package corpus

import (
	"math/rand/v2"
	"regexp"
	"strings"

	"github.com/geistnet/geist/internal/tokenizer"
)

// maker makes samples of units.
type maker struct {
	o     Options
	tok   *tokenizer.Tokenizer
	words *wordUses
	rng   *rand.Rand

	exchange bool // persons and things of samples
}

// sentence is a sentence or what stands for one, with its weight in tokens.
type sentence struct {
	text      string
	ids       int
	paragraph bool // begins a paragraph
}

var sentenceEnd = regexp.MustCompile(`[.!?]["')]*(?: +|$)`)

// titles are followed by a dot that ends no sentence.
var titles = set("Mr Mrs Dr St Messrs Esq No")

func (m *maker) sentences(u unit) []sentence {
	var out []sentence
	for _, p := range u.paragraphs {
		begin := 0
		first := true
		for _, at := range sentenceEnd.FindAllStringIndex(p, -1) {
			if at[1] < len(p) {
				next := p[at[1]]
				word := p[strings.LastIndexByte(p[:at[0]], ' ')+1 : at[0]]
				if next >= 'a' && next <= 'z' || titles[strings.TrimLeft(word, `"'(`)] {
					continue
				}
			}
			if s := strings.TrimSpace(p[begin:at[1]]); s != "" {
				out = append(out, m.sentence(s, first))
				first = false
			}
			begin = at[1]
		}
		if s := strings.TrimSpace(p[begin:]); s != "" {
			out = append(out, m.sentence(s, first))
		}
	}
	return out
}

func (m *maker) sentence(text string, paragraph bool) sentence {
	n := len(m.encode(" " + text))
	if paragraph {
		n++
	}
	return sentence{text, n, paragraph}
}

func (m *maker) encode(text string) []int32 {
	return m.tok.Encode(text, tokenizer.Options{})
}

func join(s []sentence) string {
	var b strings.Builder
	for i, x := range s {
		switch {
		case i == 0:
		case x.paragraph:
			b.WriteString("\n\n")
		default:
			b.WriteByte(' ')
		}
		b.WriteString(x.text)
	}
	return b.String()
}

func weight(s []sentence) int {
	n := 0
	for _, x := range s {
		n += x.ids
	}
	return n
}

const (
	roomForRequest = 40 // ids of a request
	leastTale      = 40 // ids of the shortest tale
)

// samples are the sequences of one unit; with exchange other persons and things
// stand in most of them.
func (m *maker) samples(u unit, s []sentence, exchange bool) [][]int32 {
	var out [][]int32
	m.exchange = exchange
	if u.begins && u.ends && weight(s) >= leastTale {
		for i := range m.o.Variants {
			room := m.o.Context - roomForRequest
			// Two tales in one conversation have half the room each.
			two := i%6 == 5
			if two {
				room /= 2
			}
			ids := m.tale(s, room)
			if rest := m.o.Context - roomForRequest - len(ids); two && rest >= leastTale {
				ids = append(ids, m.tale(s, rest)...)
			}
			if len(ids) <= m.o.Context {
				out = append(out, ids)
			}
		}
	}
	if u.begins {
		// Beginnings alone: what a request asks for is told at once or never.
		for range m.o.Openings {
			out = m.opening(out, s, leastTale+m.rng.IntN(leastTale), 0)
		}
	}
	if u.begins && !u.ends {
		// The end is not known, so that the sample has none.
		for range (m.o.Variants + 1) / 2 {
			room := m.o.Context - roomForRequest
			out = m.opening(out, s, room/3+m.rng.IntN(room-room/3), leastTale)
		}
	}
	return append(out, m.windows(u, s)...)
}

// opening appends a request and the first sentences of a tale, of about target
// ids, unless both together have fewer than least or more than there is room for.
func (m *maker) opening(out [][]int32, s []sentence, target, least int) [][]int32 {
	text := m.varied(join(beginning(s, target)))
	ids := append(m.request(m.ask(text)), m.encode(text)...)
	if len(ids) < least || len(ids) > m.o.Context {
		return out
	}
	return append(out, ids)
}

// beginning is the first sentences of about target ids.
func beginning(s []sentence, target int) []sentence {
	n := 0
	for i := range s {
		if n += s[i].ids; n > target && i > 0 {
			return s[:i]
		}
	}
	return s
}

// tale is a request and a little tale of about room ids at most.
func (m *maker) tale(s []sentence, room int) []int32 {
	target := room/3 + m.rng.IntN(room-room/3)
	text := m.varied(join(shorten(s, target)))
	ids := m.request(m.ask(text))
	ids = append(ids, m.encode(text)...)
	return append(ids, m.control(End))
}

// varied is text with other persons and things, if that is wanted.
func (m *maker) varied(text string) string {
	if m.exchange {
		return m.swap(text)
	}
	return text
}

func (m *maker) control(text string) int32 {
	id, _ := m.tok.TokenID(text)
	return id
}

func (m *maker) request(text string) []int32 {
	ids := append([]int32{m.control(User)}, m.encode(text)...)
	return append(ids, m.control(Tale))
}

// shorten keeps about target ids: all if they fit, else the beginning and the
// end. Both parts keep to paragraphs where these are near.
func shorten(s []sentence, target int) []sentence {
	if weight(s) <= target {
		return s
	}
	const slack = 30 // ids that a part may lose to end with a paragraph
	head, n := 0, 0
	for at := 0; at < len(s); at++ {
		if n+s[at].ids > target*11/20 && head > 0 {
			break
		}
		n += s[at].ids
		if at+1 == len(s) || s[at+1].paragraph || n > target*11/20-slack || head == 0 {
			head = at + 1
		}
	}
	room := target - weight(s[:head])
	tail, n := len(s), 0
	for at := len(s) - 1; at >= head; at-- {
		if n+s[at].ids > room && tail < len(s) {
			break
		}
		n += s[at].ids
		if s[at].paragraph || n > room-slack || tail == len(s) {
			tail = at
		}
	}
	out := append([]sentence(nil), s[:head]...)
	if tail < len(s) {
		last := append([]sentence(nil), s[tail:]...)
		last[0].paragraph = true
		out = append(out, last...)
	}
	return out
}

// about names what a text is about, "" if nothing stands out.
func (m *maker) about(text string) string {
	found := m.words.subjects(text)
	if len(found) == 0 {
		return ""
	}
	// Of the weightiest few one, two or three, the weightier the likelier.
	want := 1
	switch r := m.rng.IntN(20); {
	case r >= 18:
		want = 3
	case r >= 9:
		want = 2
	}
	var phrases []string
	for _, f := range found {
		if len(phrases) == want || len(phrases) > 0 && f.score*4 < found[0].score {
			break
		}
		if len(phrases) > 0 && !f.acts || m.rng.IntN(4) == 0 && len(found) > want {
			continue
		}
		p := f.phrase
		// Mostly without the adjective.
		if i, j := strings.IndexByte(p, ' '), strings.LastIndexByte(p, ' '); i != j && !plain[f.word] && m.rng.IntN(3) > 0 {
			p = m.words.phrase(f.word, "")
		}
		phrases = append(phrases, p)
	}
	switch len(phrases) {
	case 0:
		return found[0].phrase
	case 3:
		return phrases[0] + ", " + phrases[1] + " and " + phrases[2]
	}
	return strings.Join(phrases, " and ")
}

// ask is a request for a text. Most are of one form; the others are there so
// that a person need not know it.
func (m *maker) ask(text string) string {
	a := m.about(text)
	if a == "" {
		return "Tell me a story."
	}
	switch r := m.rng.IntN(100); {
	case r < 62:
		return "Tell me a story about " + a + "."
	case r < 70:
		return "Tell me a story about " + a
	case r < 76:
		return "tell me a story about " + a
	case r < 82:
		return "Tell me a tale about " + a + "."
	case r < 86:
		return "Tell me a fairy tale about " + a + "."
	case r < 90:
		return "Please tell me a story about " + a + "."
	case r < 93:
		return "A story about " + a + "."
	case r < 96:
		return strings.ToUpper(a[:1]) + a[1:]
	}
	return "Tell me a story."
}

// windows cuts a unit at sentences into sequences of nearly the whole context.
// Most of those that do not begin a tale stand behind a request. With exchange, the
// first window has any length, so that another pass cuts elsewhere.
func (m *maker) windows(u unit, s []sentence) [][]int32 {
	var out [][]int32
	room := m.o.Context
	if m.exchange {
		room = m.o.Context/4 + m.rng.IntN(m.o.Context*3/4)
	}
	for begin := 0; begin < len(s); {
		end, n := begin, roomForRequest
		for end < len(s) && (n+s[end].ids <= room || end == begin) {
			n += s[end].ids
			end++
		}
		room = m.o.Context
		text := m.varied(join(s[begin:end]))
		var ids []int32
		if begin > 0 {
			// What is about something may also stand for a whole tale.
			switch a, r := m.about(text), m.rng.IntN(20); {
			case a == "" || r < 8:
			case r < 11 && s[begin].paragraph && m.exchange:
				ids = m.request("Tell me a story about " + a + ".")
			default:
				ids = m.request("Go on with the story about " + a + ".")
			}
		}
		ids = append(ids, m.encode(text)...)
		if end == len(s) && u.ends {
			ids = append(ids, m.control(End))
		}
		begin = end
		if len(ids) > m.o.Context {
			ids = ids[:m.o.Context] // one sentence of that length, or longer names
		}
		if len(ids) >= 24 {
			out = append(out, ids)
		}
	}
	return out
}

package corpus

import (
	"math"
	"regexp"
	"slices"
	"strings"
)

// wordUse is how a word in lower case stands among its neighbours.
type wordUse struct {
	total    int
	units    int // units that have it
	lastUnit int
	after    int // after an article or another word that nouns follow
	an       int // after "a" or "an", at most one word between
	closes   int // before a mark or a word that adjectives do not stand before
	acts     int // before a word for what persons do
}

type wordUses struct {
	of     map[string]*wordUse
	units  int
	acting []string // of actors, once it was called
}

var (
	// A word, or a mark between words.
	lexeme = regexp.MustCompile(`[A-Za-z]+(?:['-][A-Za-z]+)*|[.,;:!?"]`)

	determiners = set("a an the his her my their your our this that these those one two three four seven twelve every each another no")
	functions   = set("and who was were had has is are said of in on to that with came went as at for which from but or he she it they whom whose by into then when lived if so out up down upon did would could should saw took made must not i you what there than where while before after under over through without till until again began gave asked cried answered called thought ran told knew heard stood sat looked")
	acting      = set("said who cried asked answered replied went came told saw thought whose lived exclaimed called begged took gave laughed wept loved married heard knew ran")
	// Nouns that say nothing of what a tale is about.
	empty = set("one ones day days time times night nights morning evening way ways hand hands head heads eye eyes heart hearts life lives place places thing things word words voice voices side end moment moments evening year years hour hours face faces name names foot feet arm arms story stories tale tales matter part parts rest sort kind kinds bit piece pieces deal hair mouth back body others other same next first second third men women person fellow creature creatures anyone everyone nothing something everything rest middle top bottom whole lot lots pair half number minute while journey door room house mind manner course word tears tear sight sound order reason case truth fear death love joy world ground air light blood tongue neck shoulder shoulders hole question answer fact company crowd guests guest stranger strangers whom none most week weeks month months beginning rate spot account use trouble art task business means work want friend friends parents form lump beauty harm sir family lips thoughts news promise service desire wonder cause distance proud sick wrong plain cold noise blow seat point shape chance danger wiser wisest o'clock education females highness majesty majesties lordship honour knock birth realm age")
	// Persons who are a subject only with the word before them: an old woman.
	plain   = set("man woman wife husband mother father son daughter child brother sister people lad fellow girl boy couple")
	kindsOf = set("old poor rich young little wise wicked lazy foolish brave beautiful greedy clever proud cruel good honest bad kind lonely blind silly pretty stupid strange sick")
	// Nouns whose neighbours do not show it.
	sure     = set("giant fairy wizard sailor robber pirate baker clown sultan eagle hedgehog turtle camel kitten pony lantern")
	counting = set("two three four five six seven twelve")
)

func set(words string) map[string]bool {
	m := make(map[string]bool)
	for w := range strings.FieldsSeq(words) {
		m[w] = true
	}
	return m
}

func countWords(units []unit) *wordUses {
	u := &wordUses{of: make(map[string]*wordUse), units: len(units)}
	for i, unit := range units {
		for _, p := range unit.paragraphs {
			u.count(i+1, lexeme.FindAllString(p, -1))
		}
	}
	return u
}

func (u *wordUses) count(unit int, words []string) {
	for i, w := range words {
		if w[0] < 'a' {
			continue
		}
		use := u.of[w]
		if use == nil {
			use = new(wordUse)
			u.of[w] = use
		}
		use.total++
		if use.lastUnit != unit {
			use.lastUnit = unit
			use.units++
		}
		before, before2, next := "", "", "."
		if i > 0 {
			before = strings.ToLower(words[i-1])
		}
		if i > 1 {
			before2 = strings.ToLower(words[i-2])
		}
		if i+1 < len(words) {
			next = words[i+1]
		}
		if determiners[before] {
			use.after++
		}
		if before == "a" || before == "an" || before2 == "a" || before2 == "an" {
			use.an++
		}
		if next[0] < 'A' || functions[next] {
			use.closes++
		}
		if acting[next] {
			use.acts++
		}
	}
}

// noun tells that a word is a noun, as far as its neighbours show.
func (u *wordUses) noun(w string) bool {
	use := u.of[w]
	return use != nil && sure[w] || use != nil && use.total >= 12 && len(w) > 2 && !empty[w] && !determiners[w] && !functions[w] &&
		use.after*10 >= use.total*3 && use.closes*100 >= use.total*62
}

// subject is something a tale is about.
type subject struct {
	word   string
	phrase string // with its article
	first  int    // where it is mentioned first, in words
	score  float64
	acts   bool // it is said to do things
}

// subjects are the nouns that a text is about, the weightiest first.
func (u *wordUses) subjects(text string) []subject {
	words := lexeme.FindAllString(text, -1)
	type seen struct {
		n, first  int
		adjective string
	}
	nouns := make(map[string]*seen)
	for i, w := range words {
		lower := strings.ToLower(w)
		// Royal persons are often capitalised.
		if w[0] < 'A' || !u.noun(lower) {
			continue
		}
		s := nouns[lower]
		if s == nil {
			s = &seen{first: i}
			nouns[lower] = s
			if i > 1 && (words[i-2] == "a" || words[i-2] == "an") && kindsOf[words[i-1]] || i > 0 && counting[words[i-1]] {
				s.adjective = words[i-1]
			}
		}
		s.n++
	}
	var out []subject
	for w, s := range nouns {
		if plain[w] && s.adjective == "" {
			continue
		}
		use := u.of[w]
		// Square roots are the same on every machine, logarithms are not.
		rare := math.Sqrt(math.Sqrt(float64(u.units)/float64(use.units))) - 0.9
		score := float64(s.n) * rare * (0.08 + min(1, 12*float64(use.acts)/float64(use.total)))
		if s.n < 2 {
			score /= 3
		}
		// What the beginning speaks of is what it will be about.
		if s.first < 60 {
			score *= 2
		}
		if s.first < 25 {
			score *= 2
		}
		if score > 0.3 {
			out = append(out, subject{w, u.phrase(w, s.adjective), s.first, score, use.acts*60 >= use.total})
		}
	}
	slices.SortFunc(out, func(a, b subject) int {
		if a.score != b.score {
			if a.score > b.score {
				return -1
			}
			return 1
		}
		return strings.Compare(a.word, b.word)
	})
	return out
}

// phrase puts the article before a noun that its use in the text shows: none
// for a plural, "the" for what there is one of.
func (u *wordUses) phrase(w, adjective string) string {
	use := u.of[w]
	if n := len(w); w[n-1] == 's' && w[n-2] != 's' && u.of[w[:n-1]] != nil && u.of[w[:n-1]].total > 3 {
		if counting[adjective] {
			return adjective + " " + w
		}
		return w
	}
	if counting[adjective] {
		adjective = ""
	}
	if use.an*25 < use.total {
		return "the " + w
	}
	head := w
	if adjective != "" {
		head = adjective + " " + w
	}
	if strings.ContainsRune("aeiou", rune(head[0])) && !strings.HasPrefix(head, "one") && !strings.HasPrefix(head, "uni") {
		return "an " + head
	}
	return "a " + head
}

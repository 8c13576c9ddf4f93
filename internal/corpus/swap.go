package corpus

import (
	"cmp"
	"slices"
	"strings"
)

// A model that sees 300 tales learns by heart who does what in them, and passes
// over what it was asked for. So most samples exchange who they are about: a
// fox for a hare, a king for a miller, Hans for Conrad, in the request and in
// the tale alike. Then only the request tells whom the tale will speak of.

// kinds are words that can stand for each other: beasts, men, women, things.
var kinds = [][]string{
	strings.Fields("fox wolf bear lion cat dog hare rabbit crow raven eagle sparrow goose hen mouse rat frog toad snake fish pig goat sheep donkey horse cow ox deer stag monkey tiger elephant owl dove swan duck squirrel hedgehog tortoise bee spider cock turtle whale camel dragon kitten pony lamb beetle crab"),
	strings.Fields("king prince giant miller tailor shepherd soldier merchant farmer fisherman hunter huntsman sailor robber thief wizard dwarf knight beggar peasant minister baker cobbler shoemaker gardener smith blacksmith woodman woodcutter cook priest doctor captain pirate clown troll ogre hermit tinker weaver painter barber musician fiddler drummer butcher carpenter emperor sultan"),
	strings.Fields("queen princess witch fairy maiden widow mermaid nurse grandmother stepmother dairymaid shepherdess goddess sorceress empress countess hostess servant-maid goose-girl dressmaker"),
	strings.Fields("ring sword basket box apple tree rose crown lamp drum purse bottle candle feather stone shoe cloak pot kettle broom bell flute fiddle boat ship wheel mirror spoon hat coat egg pear nut flower loaf cake lantern mill castle tower bridge garden forest river mountain island lake"),
}

var (
	boys  = strings.Fields("Hans Jack Peter Tom Conrad Martin Ivan Oscar Frederick Robin George William Simon Otto Felix Victor Anton Caspar Jacob Daniel Karl Hugo Max Leo Niels Paul Andrew Philip Walter Ben")
	girls = strings.Fields("Gretel Anna Elsa Mary Rosa Clara Marie Lucy Gerda Jane Alice Helen Emma Lily Margaret Catherine Ella Nell Sophie Julia Martha Greta Olga Ruth Eva Lena Betty Ida Dora Flora")
)

// placing are words before names of places and peoples.
var placing = set("of in from the at near into through")

// plurals are those that are not made with an s.
var plurals = map[string]string{
	"wolf": "wolves", "goose": "geese", "mouse": "mice", "fish": "fishes", "sheep": "sheep", "ox": "oxen", "deer": "deer",
	"thief": "thieves", "dwarf": "dwarfs", "loaf": "loaves", "fox": "foxes", "witch": "witches", "fairy": "fairies",
	"princess": "princesses", "fisherman": "fishermen", "huntsman": "huntsmen", "woodman": "woodmen", "box": "boxes",
	"lady": "ladies", "pony": "ponies", "shepherdess": "shepherdesses", "goddess": "goddesses", "sorceress": "sorceresses",
	"empress": "empresses", "countess": "countesses", "hostess": "hostesses",
}

func plural(w string) string {
	if p := plurals[w]; p != "" {
		return p
	}
	return w + "s"
}

func kindOf(w string) int {
	return slices.IndexFunc(kinds, func(k []string) bool { return slices.Contains(k, w) })
}

// Shares of samples and of what they speak of, in hundredths.
const (
	swapSamples = 85 // in which anything is exchanged
	swapEach    = 70 // of a sample's subjects
	swapFar     = 12 // of these, for any noun of the text that acts
	swapNames   = 60 // of a sample's names
)

// swap exchanges who a text is about.
func (m *maker) swap(text string) string {
	if m.rng.IntN(100) >= swapSamples {
		return text
	}
	to := make(map[string]string) // words in all their forms
	taken := make(map[string]bool)
	subjects := m.words.subjects(text)
	for _, s := range subjects {
		taken[s.word] = true
	}
	put := func(from, word string) {
		taken[word] = true
		to[from], to[capital(from)] = word, capital(word)
		to[plural(from)], to[capital(plural(from))] = plural(word), capital(plural(word))
		to[strings.ToUpper(from)] = strings.ToUpper(word)
	}
	for _, s := range subjects[:min(6, len(subjects))] {
		k := kindOf(s.word)
		if k < 0 || m.rng.IntN(100) >= swapEach {
			continue
		}
		from := kinds[k]
		if k < 3 && m.rng.IntN(100) < swapFar {
			from = m.words.actors()
		}
		free := slices.DeleteFunc(slices.Clone(from), func(w string) bool { return taken[w] || !m.words.noun(w) })
		if len(free) > 0 {
			put(s.word, free[m.rng.IntN(len(free))])
		}
	}
	names := m.words.names(text)
	for _, n := range names[:min(4, len(names))] {
		if m.rng.IntN(100) >= swapNames {
			continue
		}
		from := boys
		if n.female {
			from = girls
		}
		if w := from[m.rng.IntN(len(from))]; !taken[w] {
			taken[w] = true
			to[n.word] = w
		}
	}
	if len(to) == 0 {
		return text
	}
	return replace(text, to)
}

func capital(w string) string { return strings.ToUpper(w[:1]) + w[1:] }

// replace puts words for words, and a for an where the next word is another now.
func replace(text string, to map[string]string) string {
	var b strings.Builder
	at := 0
	article := -1 // where in text an article that stands right before this word begins
	for _, l := range lexeme.FindAllStringIndex(text, -1) {
		word := text[l[0]:l[1]]
		tail := ""
		if base, ok := strings.CutSuffix(word, "'s"); ok {
			word, tail = base, "'s"
		}
		switch strings.ToLower(word) {
		case "a", "an":
			if l[1] < len(text) && text[l[1]] == ' ' {
				b.WriteString(text[at:l[0]])
				at, article = l[0], l[0]
				continue
			}
		}
		if w, ok := to[word]; ok {
			before := text[at:l[0]]
			if article >= 0 {
				before = before[:1] + n(w) + " "
			}
			b.WriteString(before)
			b.WriteString(w + tail)
			at = l[1]
		}
		article = -1
	}
	b.WriteString(text[at:])
	return b.String()
}

// n is what an article has before w.
func n(w string) string {
	if strings.ContainsRune("aeiouAEIOU", rune(w[0])) && !strings.HasPrefix(w, "one") && !strings.HasPrefix(w, "uni") {
		return "n"
	}
	return ""
}

// actors are the nouns of the whole text that are said to do things, in alphabetical order.
func (u *wordUses) actors() []string {
	if u.acting == nil {
		for w, use := range u.of {
			if u.noun(w) && use.acts*40 >= use.total && !plain[w] && w[len(w)-1] != 's' {
				u.acting = append(u.acting, w)
			}
		}
		slices.Sort(u.acting)
	}
	return u.acting
}

// name is a person's name in a text.
type name struct {
	word   string
	n      int
	places int // times it stands where names of places do
	female bool
}

// names are the words of a text that are capitals within sentences and never
// stand in lower case, the most frequent first.
func (u *wordUses) names(text string) []name {
	words := lexeme.FindAllString(text, -1)
	at := make(map[string]int)
	var found []name
	she := make(map[string]int)
	for i, w := range words {
		base := strings.TrimSuffix(w, "'s")
		if i == 0 || base[0] > 'Z' || base[0] < 'A' || len(base) < 3 || base[1] < 'a' || strings.ContainsAny(base, "'-") ||
			!within(words[i-1]) || u.of[strings.ToLower(base)] != nil {
			continue
		}
		j, ok := at[base]
		if !ok {
			j = len(found)
			at[base] = j
			found = append(found, name{word: base})
		}
		found[j].n++
		if placing[words[i-1]] {
			found[j].places++
		}
		// Who it is, as far as the next words tell.
		for _, next := range words[i+1 : min(i+13, len(words))] {
			switch next {
			case "he", "his", "him":
				she[base]--
			case "she", "her":
				she[base]++
			}
		}
	}
	found = slices.DeleteFunc(found, func(n name) bool { return n.n < 2 || n.places*2 >= n.n })
	for i := range found {
		found[i].female = she[found[i].word] > 0
	}
	slices.SortFunc(found, func(a, b name) int {
		return cmp.Or(b.n-a.n, strings.Compare(a.word, b.word))
	})
	return found
}

// within tells that a word does not begin a sentence after what stands before it.
func within(before string) bool {
	return before[0] >= 'A' || before == "," || before == ";"
}

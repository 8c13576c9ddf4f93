package corpus

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestReplace(t *testing.T) {
	to := map[string]string{"fox": "owl", "Fox": "Owl", "foxes": "owls", "owl": "hare", "Hans": "Otto"}
	for _, c := range [][2]string{
		{"A fox saw an owl; the fox's eye saw a man.", "An owl saw a hare; the owl's eye saw a man."},
		{"Hans had two foxes. \"Fox,\" said Hans", "Otto had two owls. \"Owl,\" said Otto"},
		{"an old fox, a\nfox, an", "an old owl, a\nowl, an"},
		{"foxy foxglove outfox", "foxy foxglove outfox"},
		{"a fox", "an owl"},
		{"", ""},
	} {
		if got := replace(c[0], to); got != c[1] {
			t.Errorf("%q becomes %q, want %q", c[0], got, c[1])
		}
	}
}

// TestKinds keeps the lists free of slips: no word twice, plurals of listed words.
func TestKinds(t *testing.T) {
	seen := make(map[string]bool)
	for i, k := range append(slices.Clone(kinds), boys, girls) {
		for _, w := range k {
			if seen[w] {
				t.Errorf("%s stands twice", w)
			}
			seen[w] = true
			if end := plural(w); i < len(kinds) && plurals[w] == "" && (strings.HasSuffix(end, "ss") || strings.HasSuffix(end, "xs") || strings.HasSuffix(end, "chs") || strings.HasSuffix(end, "mans")) {
				t.Errorf("the plural of %s is %s", w, end)
			}
		}
	}
}

func TestNames(t *testing.T) {
	text := "There was once a boy, whom they called Hans, and his sister Gretel, she was small. Then Hans went to Norway, and in Norway Hans said: " +
		"\"Where is Gretel?\" She was at home, and Gretel wept for her bread. Nobody saw Conrad."
	units, _ := cut(text)
	got := countWords(units).names(text)
	var words []string
	for _, n := range got {
		words = append(words, n.word)
	}
	if !slices.Equal(words, []string{"Gretel", "Hans"}) && !slices.Equal(words, []string{"Hans", "Gretel"}) {
		t.Fatalf("names %v", words)
	}
	for _, n := range got {
		if n.female != (n.word == "Gretel") {
			t.Errorf("%s is taken for the other sex", n.word)
		}
	}
}

// TestSwap holds that a request names who the tale is about after the exchange.
func TestSwap(t *testing.T) {
	// Beasts that the exchange can take because they are nouns of the text.
	beasts := strings.NewReplacer("king", "bear", "witch", "hen").Replace(tales(40, 9))
	set, err := Prepare([]byte(beasts), small)
	if err != nil {
		t.Fatal(err)
	}
	heroes := []string{"fox", "crow", "bear", "hen"}
	others, both := 0, 0
	// In the text, tale n has heroes n%4 and (n+1+n/4)%4.
	for _, ids := range set.Train {
		request, tale, ok := strings.Cut(set.Tokenizer.Decode(ids, true), Tale)
		if !ok || !strings.Contains(request, "about a") {
			continue
		}
		words := strings.Fields(strings.Trim(request, "."))
		hero := words[len(words)-1]
		if !strings.Contains(strings.ToLower(tale), hero) {
			t.Errorf("asked for %q, told %q", hero, tale)
		}
		both++
		if told(t, heroes, tale) {
			others++
		}
	}
	if others < both/4 {
		t.Errorf("%d of %d tales have another hero than the text", others, both)
	}
	for _, ids := range set.Held {
		if text := set.Tokenizer.Decode(ids, true); told(t, heroes, text) {
			t.Errorf("held-out text is exchanged: %q", text)
		}
	}
}

// told tells that the first tale in text has another hero than its number says.
func told(t *testing.T, heroes []string, text string) bool {
	var hero string
	var n int
	if at := strings.Index(text, "there was a"); at < 0 {
		return false
	} else if _, err := fmt.Sscanf(text[at:], "there was a %s who lived in wood number %d", &hero, &n); err != nil {
		t.Fatalf("%.80q: %v", text[at:], err)
	}
	return strings.Trim(hero, ",") != heroes[n%4]
}

func TestLeaveHard(t *testing.T) {
	easy := strings.Repeat("Once upon a time there was a king, and the king had a crown that he lost and found again.\n", 60)
	hard := "Once upon a time an obstreperous cormorant circumvented ignominious gendarmes, excoriating bombazine vestibules.\n"
	units, _ := cut(easy + hard)
	kept, gone := leaveHard(units, 0.1)
	if len(kept) >= len(units) || gone == 0 {
		t.Fatalf("%d of %d units kept, %d paragraphs gone", len(kept), len(units), gone)
	}
	for _, u := range kept {
		if strings.Contains(strings.Join(u.paragraphs, " "), "cormorant") {
			t.Error("the hardest text is kept")
		}
	}
}

func FuzzReplace(f *testing.F) {
	f.Add("A fox saw an owl.", "fox", "eel")
	f.Fuzz(func(t *testing.T, text, from, to string) {
		if to == "" {
			return
		}
		replace(text, map[string]string{from: to})
		m := maker{words: &wordUses{of: map[string]*wordUse{}}, rng: rand.New(rand.NewPCG(1, 1))}
		m.words.count(1, lexeme.FindAllString(text, -1))
		m.swap(text)
	})
}

package corpus

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/geistnet/geist/internal/chat"
	"github.com/geistnet/geist/internal/tokenizer"
)

// tales is a small book: each tale has n paragraphs in its middle.
func tales(count, n int) string {
	heroes := []string{"fox", "crow", "king", "witch"}
	var b strings.Builder
	for i := range count {
		a, c := heroes[i%4], heroes[(i+1+i/4)%4]
		fmt.Fprintf(&b, "Once upon a time there was a %s, who lived in wood number %d with a %s. The %s said it was cold.\n", a, i, c, a)
		for j := range n {
			fmt.Fprintf(&b, "Then the %s went to the %s and asked for bread. \"Mr. Owl is out,\" the %s said! It was night %d, and the %s cried.\n", a, c, c, j, a)
		}
		fmt.Fprintf(&b, "So the %s and the %s took their bread home, and they lived happily ever after.\n", a, c)
	}
	return b.String()
}

var small = Options{Vocabulary: 500, Context: 128, Held: 0.2, Hard: 1e-9, Seed: 3}

func TestCut(t *testing.T) {
	text := "This volume is a collection of folk tales from several editions.\n" +
		"He went home, and his mother was glad that he was there again at last.\n" +
		"Once upon a time there was a king, who had three [1] sons , all of them brave.\n" +
		"Source.--Chambers has it, and it was told to him by a woman who had it from hers.\n" +
		"The eldest son went out and was lost in the wood, and nobody saw him for years.\n" +
		"But he came home, and they lived happily ever after.\n" +
		"There lived in a hut a woman who had nothing, and she was cold and hungry all day.\n\n" +
		"The other book was never begun at all, but they went on with it until it was night."
	units, dropped := cut(text)
	var got []string
	for _, u := range units {
		got = append(got, fmt.Sprintf("%v %v %d %.12s", u.begins, u.ends, len(u.paragraphs), u.paragraphs[0]))
	}
	want := []string{
		"false true 1 He went home", "true true 3 Once upon a ", "true true 1 There lived ", "false true 1 The other bo",
	}
	if !slices.Equal(got, want) || dropped != 2 {
		t.Errorf("%d dropped, units %q, want 2, %q", dropped, got, want)
	}
	if want := "three sons, all"; !strings.Contains(units[1].paragraphs[0], want) {
		t.Errorf("%q lacks %q", units[1].paragraphs[0], want)
	}
}

func TestPrepare(t *testing.T) {
	set, err := Prepare([]byte(tales(40, 9)), small)
	if err != nil {
		t.Fatal(err)
	}
	if set.Tales != 40 || len(set.Held) == 0 || len(set.Train) < 4*len(set.Held)/2 {
		t.Fatalf("%d tales, %d sequences, %d held", set.Tales, len(set.Train), len(set.Held))
	}
	numbers := [2]map[string]bool{{}, {}}
	asked, openings, goes, plain := 0, 0, 0, 0
	for i, part := range [][][]int32{set.Train, set.Held} {
		for _, ids := range part {
			if len(ids) < 2 || len(ids) > small.Context {
				t.Fatalf("a sequence of %d ids", len(ids))
			}
			text := set.Tokenizer.Decode(ids, true)
			if again := set.Tokenizer.Encode(text, tokenizer.Options{ParseSpecial: true}); !slices.Equal(again, ids) {
				t.Fatalf("%q is encoded otherwise than its sample", text)
			}
			words := strings.Fields(text)
			for k := range len(words) - 1 {
				if words[k] == "number" {
					numbers[i][words[k+1]] = true
				}
			}
			switch {
			case strings.HasPrefix(text, User+"Go on with the story about "), strings.Contains(text, Tale+"Then "), strings.Contains(text, Tale+"So "):
				goes++
			case strings.HasPrefix(text, User):
				if !strings.HasSuffix(text, End) && strings.Contains(text, Tale+"Once upon a time") {
					openings++
					break
				}
				asked++
				if !strings.Contains(text, Tale+"Once upon a time") || !strings.HasSuffix(text, "happily ever after."+End) {
					t.Fatalf("a tale without beginning or end: %q", text)
				}
			default:
				plain++
			}
		}
	}
	if asked < 40*4 || openings < 40*4 || goes == 0 || plain == 0 {
		t.Errorf("%d requests, %d beginnings, %d to go on, %d plain", asked, openings, goes, plain)
	}
	for n := range numbers[1] {
		if numbers[0][n] {
			t.Errorf("tale %s is in both parts", n)
		}
	}
	if len(numbers[0])+len(numbers[1]) != 40 {
		t.Errorf("%d tales in the samples", len(numbers[0])+len(numbers[1]))
	}
}

func TestPrepareRepeats(t *testing.T) {
	text := []byte(tales(12, 5))
	a, err := Prepare(text, small)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Prepare(text, small)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(a.Train, b.Train) || !reflect.DeepEqual(a.Held, b.Held) {
		t.Error("equal options give other sequences")
	}
	o := small
	o.Seed++
	if c, err := Prepare(text, o); err != nil || reflect.DeepEqual(a.Train, c.Train) {
		t.Errorf("another seed: error %v, or the same sequences", err)
	}
}

func TestPrepareRefuses(t *testing.T) {
	for name, try := range map[string]struct {
		text string
		o    Options
	}{
		"no tale":      {"It was a night like others, and the man went home.", small},
		"no text":      {"", small},
		"vocabulary":   {tales(4, 2), Options{Vocabulary: 200, Context: 128}},
		"context":      {tales(4, 2), Options{Context: 10}},
		"held part":    {tales(4, 2), Options{Held: 1}},
		"variants < 0": {tales(4, 2), Options{Variants: -1}},
		"passes < 0":   {tales(4, 2), Options{Passes: -1}},
		"all hard":     {tales(4, 2), Options{Hard: 1}},
	} {
		if _, err := Prepare([]byte(try.text), try.o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestTemplate renders a conversation and compares it with a sample.
func TestTemplate(t *testing.T) {
	conversation := chat.Input{
		Messages: []chat.Message{
			{Role: "system", Content: "Be brief."},
			{Role: "user", Content: " Tell me a story about a fox.\n"},
		},
		AddGenerationPrompt: true,
	}
	got, err := chat.Render(Template, conversation)
	if err != nil {
		t.Fatal(err)
	}
	if want := User + "Tell me a story about a fox." + Tale; got != want {
		t.Errorf("one request is %q, want %q", got, want)
	}
	conversation.Messages = append(conversation.Messages,
		chat.Message{Role: "assistant", Content: "Once it ran."}, chat.Message{Role: "user", Content: "And a crow?"})
	if got, err = chat.Render(Template, conversation); err != nil {
		t.Fatal(err)
	}
	want := User + "Tell me a story about a fox." + Tale + "Once it ran." + End + User + "And a crow?" + Tale
	if got != want {
		t.Errorf("two requests are %q, want %q", got, want)
	}
}

func TestShorten(t *testing.T) {
	var s []sentence
	for i := range 40 {
		s = append(s, sentence{fmt.Sprintf("%d.", i), 10, i%4 == 0})
	}
	for target := 20; target < 500; target += 7 {
		out := shorten(s, target)
		if w := weight(out); w > target || target < 400 && w < target-2*30-10 {
			t.Errorf("target %d: %d ids", target, w)
		}
		if out[0].text != "0." || out[len(out)-1].text != "39." {
			t.Errorf("target %d: from %s to %s", target, out[0].text, out[len(out)-1].text)
		}
	}
	if s[36].text != "36." || !reflect.DeepEqual(shorten(s, 400), s) {
		t.Error("sentences that fit are not left as they are")
	}
}

func TestSubjects(t *testing.T) {
	units, _ := cut(tales(40, 9) + "Long ago there lived an old witch, and the witch had two kings in a box.\n")
	words := countWords(units)
	last := units[len(units)-1]
	var got []string
	for _, s := range words.subjects(strings.Join(last.paragraphs, " ")) {
		got = append(got, s.phrase)
	}
	if want := []string{"an old witch"}; !slices.Equal(got, want) {
		t.Errorf("subjects %q, want %q", got, want)
	}
	got = nil
	for _, s := range words.subjects(strings.Join(units[0].paragraphs, " ")) {
		got = append(got, s.phrase)
	}
	if want := []string{"a fox", "a crow"}; !slices.Equal(got, want) {
		t.Errorf("subjects %q, want %q", got, want)
	}
}

// TestFairyTales takes a part of the books beside the checkout.
func TestFairyTales(t *testing.T) {
	text, err := os.ReadFile("../../../shared/data/fairy-tales.txt")
	if err != nil {
		t.Skipf("../shared/data/fairy-tales.txt is not there: %v", err)
	}
	set, err := Prepare(text[:1<<20], Options{})
	if err != nil {
		t.Fatal(err)
	}
	if set.Tales < 30 || len(set.Train) < 400 || set.Vocabulary.Size() != 4096 {
		t.Errorf("%d tales, %d sequences, %d ids", set.Tales, len(set.Train), set.Vocabulary.Size())
	}
	subjects := make(map[string]bool)
	for _, ids := range set.Train {
		_, rest, ok := strings.Cut(set.Tokenizer.Decode(ids, true), "Tell me a story about ")
		if ok {
			s, _, _ := strings.Cut(rest, Tale)
			subjects[s] = true
		}
	}
	if len(subjects) < 50 || !subjects["a cat."] {
		t.Errorf("tales have %d subjects: %v", len(subjects), subjects)
	}
}

func FuzzPrepare(f *testing.F) {
	f.Add([]byte(tales(4, 1)), uint64(1))
	f.Add([]byte("Once upon a time, \"\n\nThere lived [ a ss.\xff' e ver after.\nOnce upon a s s's is--was an--A."), uint64(2))
	f.Fuzz(func(t *testing.T, text []byte, seed uint64) {
		if len(text) > 1<<14 {
			return
		}
		set, err := Prepare(text, Options{Vocabulary: 270, Context: 128, Seed: seed})
		if err != nil {
			return
		}
		for _, ids := range slices.Concat(set.Train, set.Held) {
			if len(ids) < 2 || len(ids) > 128 {
				t.Fatalf("a sequence of %d ids", len(ids))
			}
		}
	})
}

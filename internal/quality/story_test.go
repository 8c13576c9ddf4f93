package quality

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/geistnet/geist/internal/engine"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/model"
	"github.com/geistnet/geist/internal/tokenizer"
)

// With temperature 0 the model writes the story that llama.cpp writes, on
// every path of the kernels.
func TestStory(t *testing.T) {
	f := openStories(t)
	want, err := os.ReadFile("testdata/story.txt")
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.New(f)
	if err != nil {
		t.Fatal(err)
	}
	const opening = "Once upon a time"
	for _, path := range kernel.Paths() {
		team := kernel.NewTeam(2)
		m, err := model.Load(f, model.Options{Path: path, Team: team})
		if err != nil {
			t.Fatal(err)
		}
		e, err := engine.New(m, tok, team, engine.Options{})
		if err != nil {
			t.Fatal(err)
		}
		a, err := e.Generate(context.Background(), engine.Request{
			Prompt: tok.Encode(opening, tokenizer.Options{AddSpecial: true}), MaxTokens: 200, TopLogProbs: -1,
		})
		if err != nil {
			t.Fatal(err)
		}
		got := opening
		for x, ok := a.Next(); ok; x, ok = a.Next() {
			got += x.Text
		}
		if r := a.Result(); r.Tokens != 200 || r.Finish != engine.FinishLength {
			t.Errorf("%v: %d tokens, %v", path, r.Tokens, r.Finish)
		}
		if got != strings.TrimSuffix(string(want), "\n") {
			t.Errorf("%v wrote\n%s\nllama.cpp wrote\n%s", path, got, want)
		}
		e.Close()
		m.Close()
		team.Close()
	}
}

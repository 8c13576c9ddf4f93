package prompt

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/chat"
	"github.com/geistnet/geist/internal/constrain"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/synth"
)

const template = `{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if tools %}({{ tools | length }}){% endif %}`

func file(t *testing.T, more ...gguf.KV) *gguf.File {
	t.Helper()
	spec := synth.Presets["tiny"]
	spec.Type = "f32"
	var b bytes.Buffer
	if err := synth.Write(&b, spec, nil); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Parse("tiny", b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w, err := gguf.NewWriter(&out, append(f.Meta(), more...), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if f, err = gguf.Parse("tiny", out.Bytes()); err != nil {
		t.Fatal(err)
	}
	return f
}

func text(key, s string) gguf.KV { return gguf.KV{Key: key, Value: gguf.ValueOf(s)} }

// What is extracted makes the same prompts as the file, and matches its Ghost
// file; another vocabulary or template does not.
func TestExtract(t *testing.T) {
	f := file(t, text("tokenizer.chat_template", template), text("tokenizer.chat_template.tool_use", "x"), text("general.secret", "not for others"))
	var b bytes.Buffer
	if err := Extract(f, &b); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b.Bytes(), []byte("not for others")) {
		t.Error("more is extracted than is needed")
	}
	small, err := gguf.Parse("extracted", b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	whole, err := New(f, 0)
	if err != nil {
		t.Fatal(err)
	}
	w, err := New(small, 0)
	if err != nil {
		t.Fatal(err)
	}
	talk := []chat.Message{{Role: "user", Content: "hello there"}}
	a, err := whole.Chat(talk, nil, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	c, err := w.Chat(talk, nil, time.Unix(0, 0))
	if err != nil || len(a) == 0 || !slices.Equal(a, c) {
		t.Fatalf("%v and %v, %v", a, c, err)
	}
	g := &ghost.Model{Tokenizer: whole.Tokenizer.Hash(), Template: sha256.Sum256([]byte(template))}
	if err := w.Matches(g); err != nil {
		t.Error(err)
	}
	if whole.Matches(g) == nil {
		t.Error("a template for tools that no Ghost file names was accepted")
	}
	g.Template[0]++
	if w.Matches(g) == nil {
		t.Error("another template was accepted")
	}
	g.Template[0]--
	g.Tokenizer[0]++
	if w.Matches(g) == nil {
		t.Error("another vocabulary was accepted")
	}
}

func TestNoTemplate(t *testing.T) {
	w, err := New(file(t), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Chat([]chat.Message{{Role: "user", Content: "hi"}}, nil, time.Time{}); !errors.Is(err, ErrNoTemplate) || w.HasTemplate() {
		t.Errorf("%v", err)
	}
	if err := w.Matches(&ghost.Model{Tokenizer: w.Tokenizer.Hash()}); err != nil {
		t.Error(err)
	}
	if _, err := New(file(t), 3); err == nil {
		t.Error("a vocabulary larger than the model was accepted")
	}
}

func TestEnds(t *testing.T) {
	w, err := New(file(t), 0)
	if err != nil {
		t.Fatal(err)
	}
	end := int32(-1)
	for id := range int32(w.Tokenizer.Size()) {
		if w.Tokenizer.IsEOG(id) {
			end = id
		}
	}
	hello := w.Text("hello world")
	for _, c := range []struct {
		ids    []int32
		stop   []string
		ignore bool
		want   bool
	}{
		{hello, nil, false, false},
		{append(slices.Clone(hello), end), nil, false, true},
		{append(slices.Clone(hello), end), nil, true, false},
		{hello, []string{"x", "lo wo"}, false, true},
		{hello, []string{"low"}, false, false},
	} {
		if got := w.Ends(c.ids, c.stop, c.ignore); got != c.want {
			t.Errorf("Ends(%v, %q, %v) = %v", c.ids, c.stop, c.ignore, got)
		}
	}
	s := w.Constrain(constrain.JSONObject())
	allowed := make([]uint64, (w.Tokenizer.Size()+63)/64)
	s.Allowed(allowed)
	some := false
	for id := range int32(w.Tokenizer.Size()) {
		if allowed[id/64]>>(id%64)&1 == 1 {
			some = true
			if p := w.Tokenizer.Piece(id); len(p) > 0 && p[0] != '{' {
				t.Errorf("token %q may begin an object", p)
			}
		}
	}
	if !some {
		t.Error("no token may begin an object")
	}
}

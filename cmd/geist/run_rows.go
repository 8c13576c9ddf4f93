package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/engine"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/hashmany"
	"github.com/geistnet/geist/internal/local"
	"github.com/geistnet/geist/internal/model"
	"github.com/geistnet/geist/internal/rows"
	"github.com/geistnet/geist/merkle"
)

// Of the client of rows that answers a person: the hashes of each tree are
// fetched before the first token, and a server that says nothing holds up an
// answer for the time of one request.
const (
	rowNodes   = 1 << 12
	rowTimeout = 5 * time.Second
)

// sound is a model that is computed here and whose rows come from servers
// that nobody needs to trust.
type sound struct {
	id     ghost.ID
	ghost  *ghost.Model
	client *rows.Client
}

// newSound checks that f is the model that g describes, or its trunk. ctx ends
// the fetches of rows.
func newSound(ctx context.Context, f *gguf.File, g *ghost.Model, servers []string, progress func(done, total int64)) (*sound, error) {
	if len(rows.Memory(g)) == 0 {
		return nil, fmt.Errorf("%s has no memory blocks, so it reads no rows; leave --rows out", f.Path)
	}
	c, err := rows.NewClient(g, rows.Options{Servers: servers, Nodes: rowNodes, Timeout: rowTimeout, Context: ctx})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	if err := checkTrunk(ctx, f, g, progress); err != nil {
		return nil, err
	}
	return &sound{id: g.ID(), ghost: g, client: c}, nil
}

// shapes is a model.Memory that has no rows, for looking at a trunk.
type shapes struct{ *ghost.Model }

func (s shapes) Table(name string) (f arith.Format, n, cols int, ok bool) {
	for _, i := range rows.Memory(s.Model) {
		if t := &s.Tensors[i]; t.Name == name {
			return t.Format, t.Rows, t.Cols, true
		}
	}
	return 0, 0, 0, false
}

func (shapes) Rows(name string, _ []int, _ []byte) error {
	return fmt.Errorf("the rows of %s are elsewhere", name)
}

// checkTrunk demands that all in f but the tables of memory blocks, which it
// may lack, is what g says: the description, and the roots of all other tensors.
func checkTrunk(ctx context.Context, f *gguf.File, g *ghost.Model, progress func(done, total int64)) error {
	elsewhere := shapes{g}
	other := fmt.Errorf("%s is another model than the Ghost file's, %v", f.Path, g.ID())
	long, err := local.Long(f, local.Options{Rows: elsewhere})
	if err != nil {
		return fmt.Errorf("%w: %w", other, err)
	}
	m, err := model.Describe(f, model.Options{Memory: elsewhere, Long: long})
	if err != nil {
		return fmt.Errorf("%w: %w", other, err)
	}
	if len(m.Tensors) != len(g.Tensors) {
		return other
	}
	tables := rows.Memory(g)
	var done, total int64
	for i := range m.Tensors {
		if !slices.Contains(tables, i) {
			total += int64(len(f.Tensor(m.Tensors[i].Name).Data))
		}
	}
	for i := range m.Tensors {
		t := &m.Tensors[i]
		if slices.Contains(tables, i) {
			t.Root = g.Tensors[i].Root // of the rows, each of which is checked
			continue
		}
		in := f.Tensor(t.Name)
		data, err := merkle.Rows(in.Data, t.Format.RowBytes(t.Cols))
		if err != nil {
			return fmt.Errorf("%s: tensor %q: %w", f.Path, t.Name, err)
		}
		var failed error
		if err := f.Guard(func() {
			t.Root, failed = merkle.Build(ctx, data, merkle.Options{Hasher: hashmany.New()})
		}); err != nil {
			return err
		}
		if failed != nil {
			return fmt.Errorf("%s: hash tensor %q: %w", f.Path, t.Name, failed)
		}
		if t.Root != g.Tensors[i].Root {
			return fmt.Errorf("%w: tensor %q has the root %v; expected %v", other, t.Name, t.Root, g.Tensors[i].Root)
		}
		f.Release(in)
		if done += int64(len(in.Data)); progress != nil {
			progress(done, total)
		}
	}
	a, err := ghost.Encode(m)
	if err != nil {
		return err
	}
	b, err := ghost.Encode(g)
	if err != nil {
		return err
	}
	if !bytes.Equal(a, b) {
		return other
	}
	return nil
}

// isTrunk tells whether a file lacks a memory table.
func isTrunk(f *gguf.File) bool {
	rules, _ := f.Strings(f.Arch() + ".memory.rule")
	for i, r := range rules {
		if r != "" && f.Tensor(fmt.Sprintf("blk.%d.memory.weight", i)) == nil {
			return true
		}
	}
	return false
}

// soundGhost is the Ghost file that rows are checked under: the one at path, or
// the model's own.
func (r *run) soundGhost(ctx context.Context, path string) (*ghost.Model, error) {
	given := path != ""
	if !given {
		if isBuiltIn(r.stored) {
			return r.ghostOf(ctx, r.file, r.stored, false)
		}
		var err error
		if path, err = r.ghostPath(r.file.Path, r.stored, false); err != nil {
			return nil, err
		}
	}
	b, err := os.ReadFile(path)
	if err == nil {
		g, err := ghost.Decode(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		return g, nil
	}
	if given || !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	g, err := r.ghostOf(ctx, r.file, r.stored, false)
	if err != nil {
		return nil, fmt.Errorf("%w; if it is a trunk, its Ghost file is needed: put it at %s, or name it with --ghost", err, path)
	}
	return g, nil
}

// ask fetches the rows of a prompt at once, and then lets m answer.
func (s *sound) ask(ctx context.Context, m *local.Model, q engine.Request) (*engine.Answer, error) {
	if err := s.client.Prompt(ctx, q.Prompt); err != nil {
		return nil, err
	}
	return m.Engine.Generate(ctx, q)
}

// soundResult is what --json says of rows from elsewhere.
type soundResult struct {
	ModelID       string        `json:"model_id"`
	Rows          int64         `json:"rows"`   // that were fetched
	Cached        int64         `json:"cached"` // that were there already
	Requests      int64         `json:"requests"`
	SentBytes     int64         `json:"sent_bytes"`
	ReceivedBytes int64         `json:"received_bytes"`
	VerifyMS      float64       `json:"verify_ms"`
	Servers       []soundServer `json:"servers"`
}

type soundServer struct {
	URL     string  `json:"url"`
	Answers int64   `json:"answers"` // that were right
	TookMS  float64 `json:"took_ms"` // of an answer, about
	Dropped string  `json:"dropped,omitempty"`
	Failed  string  `json:"failed,omitempty"`
}

// result says what was fetched so far.
func (s *sound) result() *soundResult {
	c := s.client.Stats()
	x := &soundResult{
		ModelID: s.id.String(), Rows: c.Rows, Cached: c.Cached, Requests: c.Requests, SentBytes: c.Sent, ReceivedBytes: c.Received,
		VerifyMS: float64(c.Verify.Microseconds()) / 1000,
	}
	for _, v := range s.client.Servers() {
		y := soundServer{URL: v.URL, Answers: v.Answers, TookMS: float64(v.Took.Microseconds()) / 1000}
		if v.Dropped != nil {
			y.Dropped = v.Dropped.Error()
		}
		if v.Failed != nil {
			y.Failed = v.Failed.Error()
		}
		x.Servers = append(x.Servers, y)
	}
	return x
}

// right is the number of servers that gave right rows.
func (x *soundResult) right() int {
	n := 0
	for _, s := range x.Servers {
		if s.Answers > 0 {
			n++
		}
	}
	return n
}

// verdict says what was checked, and never more.
func (x *soundResult) verdict() string {
	return fmt.Sprintf("ghost-sound: the trunk was computed here, %d rows from %s, each under the model's roots", x.Rows, count(x.right(), "server"))
}

func count(n int, of string) string {
	if n == 1 {
		return "1 " + of
	}
	return fmt.Sprintf("%d %ss", n, of)
}

// name names the servers that did not do what they should. An answer does not
// depend on them.
func (x *soundResult) name(w io.Writer) {
	for _, s := range x.Servers {
		switch {
		case s.Dropped != "":
			fmt.Fprintf(w, "%s gave a wrong row and was dropped: %s\n", console.Clean(s.URL), console.Clean(s.Dropped))
		case s.Failed != "":
			fmt.Fprintf(w, "%s did not always answer: %s\n", console.Clean(s.URL), console.Clean(s.Failed))
		}
	}
}

func (x *soundResult) stats(w io.Writer, tokens int) {
	fmt.Fprintf(w, "rows: %d fetched in %s, %d were there; %s sent, %s received (%.0f B a token with the prompt's); verified in %.2f ms; %d of %s gave right ones\n",
		x.Rows, count(int(x.Requests), "request"), x.Cached, console.Size(x.SentBytes), console.Size(x.ReceivedBytes),
		float64(x.SentBytes+x.ReceivedBytes)/float64(max(1, tokens)), x.VerifyMS, x.right(), count(len(x.Servers), "server"))
}

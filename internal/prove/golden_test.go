package prove

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/hashmany"
	"github.com/geistnet/geist/internal/kernel"
)

var update = flag.Bool("update", false, "write testdata/golden.txt anew")

// TestGolden pins, for small models of several families, the model id, the
// trace root of a run and the SHA-256 of a proof: docs/spec/trace.md and
// audit.md name this file as their vectors.
func TestGolden(t *testing.T) {
	var b strings.Builder
	b.WriteString("# model: id, trace root, SHA-256 of the proof; made by TestGolden -update\n")
	specs := specs()
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		n := newNode(t, specs[name], kernel.Best(), 2, 64)
		s := arith.Sampling{Temperature: 0.8, TopK: 40, TopP: 0.95, Seed: [32]byte{9}}
		run := answer(t, n, prompt(11, 70), 30, s)
		x, err := n.Replay(run, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if run.Trace, err = x.Root(); err != nil {
			t.Fatal(err)
		}
		ch := audit.Size{Cells: 32, Tails: 4, Full: 4}.Challenge(audit.Draw([32]byte{1}, [32]byte{4}))
		if ch.Whole() == 0 || ch.Whole() == ch.Full {
			t.Fatalf("of %d tails %d are opened whole; a golden proof has both kinds", ch.Full, ch.Whole())
		}
		proof, err := n.Prove(run, ch)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s: %v %v %x\n", name, n.Ghost.ID(), run.Trace, sha256.Sum256(proof))
	}
	path := filepath.Join("testdata", "golden.txt")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("the golden values are\n%sand now\n%s", want, b.String())
	}
}

// FuzzVerify changes an honest proof and its run file: only what is unchanged is
// accepted, and nothing panics.
func FuzzVerify(f *testing.F) {
	n := newNode(f, specs()["qwen3moe q8_0"], kernel.Best(), 1, 64)
	p := prompt(5, 20)
	s := arith.Sampling{Temperature: 1, TopK: 20, TopP: 0.9, RepeatLast: 8, RepeatPenalty: 1.1}
	s.Seed = seedOf(n.Ghost, p, 12, s)
	run := answer(f, n, p, 12, s)
	x, err := n.Replay(run, nil, nil)
	if err != nil {
		f.Fatal(err)
	}
	if run.Trace, err = x.Root(); err != nil {
		f.Fatal(err)
	}
	file := seal(f, run, audit.Size{Cells: 2, Tails: 1, Full: 1})
	for i := byte(3); file.Challenge().Whole() == 0; i++ { // until all logits are opened
		file = seal(f, run, file.Size, ghost.Nonce{i})
	}
	proof, err := n.Prove(run, file.Challenge())
	if err != nil {
		f.Fatal(err)
	}
	runFile, err := file.Encode()
	if err != nil {
		f.Fatal(err)
	}
	ghostFile, err := ghost.Encode(n.Ghost)
	if err != nil {
		f.Fatal(err)
	}
	if v := audit.Judge(runFile, ghostFile, proof, nil); !v.Accepted {
		f.Fatal(v.Reason)
	}
	f.Add(uint32(0), []byte{}, uint32(0))
	f.Add(uint32(30), []byte{0x00, 0x00, 0xc0, 0x7f}, uint32(0))             // not a number
	f.Add(uint32(5000), []byte{0xff, 0xff, 0x7f, 0x7f, 0, 0xfc}, uint32(0))  // the largest, and an infinity
	f.Add(uint32(12000), []byte{0x80, 0x80, 0x80, 0x80, 0x80}, uint32(0))    // codes out of range
	f.Add(uint32(14), []byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, uint32(0)) // another size
	f.Add(uint32(0), []byte{}, uint32(33))                                   // cut
	f.Fuzz(func(t *testing.T, at uint32, patch []byte, cut uint32) {
		bad := append([]byte(nil), proof[:len(proof)-int(cut)%len(proof)]...)
		if len(bad) > 0 {
			copy(bad[int(at)%len(bad):], patch)
		}
		v := audit.Judge(runFile, ghostFile, bad, nil)
		if same := string(bad) == string(proof); v.Accepted != same {
			t.Fatalf("accepted %v, unchanged %v: %s", v.Accepted, same, v.Reason)
		}
		if fast := audit.JudgeWith(runFile, ghostFile, bad, audit.Options{Hasher: hashmany.New()}); string(fast.JSON()) != string(v.JSON()) {
			t.Fatalf("with the hasher %v: %s\nplain %s", hashmany.New(), fast.JSON(), v.JSON())
		}
	})
}

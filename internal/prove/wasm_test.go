package prove

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/hashmany"
	"github.com/geistnet/geist/internal/kernel"
)

// TestWebAssembly compares verdicts of the verifier as WebAssembly, under Node,
// with the native ones: of honest proofs, all different, and of each of them with
// something altered in it, its run file or its Ghost file. There are 25 proofs,
// or as many as GEIST_WASM says.
func TestWebAssembly(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed: the WebAssembly verifier was not run")
	}
	if testing.Short() {
		t.Skip("building for WebAssembly takes long")
	}
	proofs := 25
	if s := os.Getenv("GEIST_WASM"); s != "" {
		if proofs, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	wasm := filepath.Join(dir, "verify.wasm")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", wasm, "../../cmd/verify-wasm")
	build.Env = append(os.Environ(), "GOOS=js", "GOARCH=wasm")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	info, err := os.Stat(wasm)
	if err != nil {
		t.Fatal(err)
	}
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}

	var list strings.Builder
	var want [][]byte
	accepted := 0
	var whole [3]int // proofs by the number of tails opened whole
	write := func(suffix string, b []byte) string {
		path := filepath.Join(dir, fmt.Sprintf("%d.%s", len(want), suffix))
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	add := func(run, g, proof []byte) {
		fmt.Fprintf(&list, "%s\t%s\t%s\n", write("run", run), write("ghost", g), write("proof", proof))
		v := audit.Judge(run, g, proof, nil)
		if v.Accepted {
			accepted++
		}
		if fast := audit.JudgeWith(run, g, proof, audit.Options{Hasher: hashmany.New()}); !bytes.Equal(fast.JSON(), v.JSON()) {
			t.Errorf("with the hasher %v: %s\nplain %s", hashmany.New(), fast.JSON(), v.JSON())
		}
		want = append(want, v.JSON())
	}
	r := rand.New(rand.NewPCG(8, 8))
	flip := func(b []byte) []byte {
		b = bytes.Clone(b)
		b[r.IntN(len(b))] ^= 1 << r.IntN(8)
		return b
	}
	names := []string{"llama q8_0", "qwen3moe q8_0", "gemma3 q4_0", "llama q4_k_m", "gemma2 f16"}
	distinct := map[[32]byte]bool{}
	for i := 0; len(distinct) < proofs; i++ {
		n := newNode(t, specs()[names[i%len(names)]], kernel.Best(), 2, 64)
		g, err := ghost.Encode(n.Ghost)
		if err != nil {
			t.Fatal(err)
		}
		s := arith.Sampling{Temperature: 0.9, TopK: 40 * (i % 2), TopP: 0.9}
		p := prompt(uint64(i), 40)
		s.Seed = seedOf(n.Ghost, p, 24, s)
		run := answer(t, n, p, 24, s)
		x, err := n.Replay(run, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if run.Trace, err = x.Root(); err != nil {
			t.Fatal(err)
		}
		if run.Outline, err = x.Outline(); err != nil {
			t.Fatal(err)
		}
		for j := 0; j < 5 && len(distinct) < proofs; j++ {
			var nonce ghost.Nonce
			binary.LittleEndian.PutUint64(nonce[8:], uint64(1+i*1000+j))
			file := seal(t, run, audit.Size{Cells: 4, Tails: 2, Full: 2}, nonce)
			whole[file.Challenge().Whole()]++
			proof, err := n.Prove(run, file.Challenge())
			if err != nil {
				t.Fatal(err)
			}
			b, err := file.Encode()
			if err != nil {
				t.Fatal(err)
			}
			distinct[sha256.Sum256(proof)] = true
			add(b, g, proof)
			switch len(distinct) % 6 {
			case 0:
				add(flip(b), g, proof)
			case 1:
				add(b, flip(g), proof)
			case 2:
				add(b, g, proof[:r.IntN(len(proof))])
			case 3:
				add(b, g, bytes.Repeat([]byte{byte(r.Uint32())}, len(proof)))
			default:
				add(b, g, flip(proof))
			}
		}
	}
	if whole[0] == 0 || whole[1] == 0 {
		t.Errorf("%d proofs open no tail whole, %d one", whole[0], whole[1])
	}
	if accepted < proofs || accepted == len(want) || len(want) != 2*proofs {
		t.Fatalf("%d of %d are accepted; %d are honest", accepted, len(want), proofs)
	}
	lines := filepath.Join(dir, "list")
	if err := os.WriteFile(lines, []byte(list.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	run := exec.Command(node, "testdata/verdicts.js", filepath.Join(strings.TrimSpace(string(goroot)), "lib/wasm/wasm_exec.js"), wasm, lines)
	run.Stderr = os.Stderr
	out, err := run.Output()
	if err != nil {
		t.Fatal(err)
	}
	in := bufio.NewScanner(bytes.NewReader(out))
	in.Buffer(nil, 1<<20)
	for i := range want {
		var got string
		if !in.Scan() {
			t.Fatalf("%d verdicts, want %d", i, len(want))
		}
		if err := json.Unmarshal(in.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if got != string(want[i]) {
			t.Errorf("case %d: WebAssembly says %s\nnative %s", i, got, want[i])
		}
	}
	t.Logf("%d different proofs, %d equal verdicts, %d of them accepted; the verifier has %d bytes", len(distinct), len(want), accepted, info.Size())
}

package audit

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/merkle"
)

var update = flag.Bool("update", false, "write testdata/sample.run anew")

// sample is a run file that nobody has a model for.
func sample(t testing.TB) *RunFile {
	t.Helper()
	f := &RunFile{Answer: []int32{7, 8}, SeedNonce: ghost.Nonce{1}, AuditNonce: ghost.Nonce{2}, Size: Standard}
	f.Request = &ghost.Request{Salt: [32]byte{3}, Prompt: []int32{5, 6, 4}, MaxTokens: 9, Stop: []string{"</s>"}}
	f.Outline = &ghost.Outline{Positions: []merkle.Hash{{5}, {5}, {5}, {5}}, Cache: merkle.Hash{6}}
	q := f.Request
	root, err := f.Outline.Root(q.Prompt, f.Answer)
	if err != nil {
		t.Fatal(err)
	}
	f.Receipt = &ghost.Receipt{Time: 1700000000, Model: ghost.ID{9}, Arithmetic: arith.Version, Request: q.Hash(), Prompt: ghost.HashTokens(q.Salt, q.Prompt),
		Answer: ghost.HashTokens(q.Salt, f.Answer), Finish: ghost.FinishStop, SeedRule: ghost.SeedRule1,
		SeedNonce: ghost.CommitSeed(f.SeedNonce), AuditNonce: ghost.CommitAudit(f.AuditNonce), Trace: root, Grade: ghost.GhostAudited}
	if err := f.Receipt.Sign(ghost.Secret{31: 7}); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestRunFile(t *testing.T) {
	f := sample(t)
	b, err := f.Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "sample.run")
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, want) {
		if *update {
			if err := os.WriteFile(golden, b, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		t.Errorf("%s is stale; the run file is now\n%s", golden, b)
	}
	g, err := ParseRunFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(f, g) {
		t.Errorf("%+v\nis read as %+v", f, g)
	}
	// As an editor might leave it.
	var spread bytes.Buffer
	if err := json.Indent(&spread, b, "", "    "); err != nil {
		t.Fatal(err)
	}
	if _, err := ParseRunFile(spread.Bytes()); err != nil {
		t.Error(err)
	}
}

// Every part of a run file is bound to the others.
func TestAlteredRunFile(t *testing.T) {
	b, err := sample(t).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range [][3]string{
		{"version", `"run": 2`, `"run": 3`},
		{"outline", `{"positions": "BQ`, `{"positions": "BA`},
		{"longer outline", `{"positions": "BQ`, `{"positions": "BQAABQ`},
		{"no outline", `{"positions": "BQ`, `{"place": "BQ`},
		{"cache", `"cache": "06`, `"cache": "07`},
		{"short cache", `"cache": "06`, `"cache": "`},
		{"price", `["price","0"`, `["price","1"`},
		{"time", `1700000000`, `1700000001`},
		{"prompt", `[5,6,4]`, `[5,6,3]`},
		{"longer answer", `[7,8]`, `[7,8,8]`},
		{"answer", `[7,8]`, `[7,9]`},
		{"seed nonce", `"seed_nonce": "01`, `"seed_nonce": "02`},
		{"audit nonce", `"audit_nonce": "02`, `"audit_nonce": "03`},
		{"short nonce", `"audit_nonce": "02`, `"audit_nonce": "`},
		{"no cells", `"cells": 32`, `"cells": 0`},
		{"nothing", `{"cells": 32, "tails": 4, "full": 1}`, `{"cells": 0, "tails": 0, "full": 0}`},
		{"no challenge", `{"cells": 32, "tails": 4, "full": 1}`, `{}`},
		{"fewer cells", `"cells": 32`, `"cells": -1`},
		{"many cells", `"cells": 32`, `"cells": 1000000000`},
		{"request", `"request": "Z2hvc3RyZXEDAAAA`, `"request": "Z2hvc3RyZXEEAAAA`},
		{"an unknown part", `"run": 2`, `"walk": 1, "run": 2`},
		{"trailing bytes", "\"}\n}\n", "\"}\n}\n{}"},
	} {
		if !strings.Contains(string(b), c[1]) {
			t.Errorf("%s: the file has no %s:\n%s", c[0], c[1], b)
		}
		if _, err := ParseRunFile([]byte(strings.Replace(string(b), c[1], c[2], 1))); err == nil {
			t.Errorf("%s: accepted", c[0])
		}
	}
	f := sample(t)
	f.AuditNonce = f.SeedNonce
	f.Receipt.AuditNonce = ghost.CommitAudit(f.AuditNonce)
	if _, err := f.Encode(); err == nil {
		t.Error("one nonce for both is accepted")
	}
}

// A challenge that draws nothing would accept every answer.
func TestNothingDrawn(t *testing.T) {
	b, err := sample(t).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []Size{{}, {Tails: 4, Full: 1}, {Cells: -1}} {
		f := sample(t)
		f.Size = size
		if _, err := f.Encode(); err == nil {
			t.Errorf("%+v is written", size)
		}
		v := Judge(b, nil, nil, &size)
		if v.Accepted || !strings.Contains(v.Reason, "challenge") || v.Receipt != "" {
			t.Errorf("%+v is demanded: %+v", size, v)
		}
	}
	if v := Judge(b, nil, nil, &Size{Cells: 1}); strings.Contains(v.Reason, "challenge") {
		t.Errorf("one cell is refused: %s", v.Reason)
	}
}

func FuzzParseRunFile(f *testing.F) {
	b, err := sample(f).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"run":2,"receipt":null,"request":"","prompt":null,"answer":[],"seed_nonce":"","audit_nonce":"","challenge":{}}`))
	f.Add([]byte(`{"run":2}`))
	plain := sample(f)
	plain.Outline = nil
	if b, err = plain.Encode(); err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRunFile(b)
		if err != nil {
			return
		}
		c, err := r.Encode()
		if err != nil {
			t.Fatalf("%v: cannot be written again: %v", r, err)
		}
		s, err := ParseRunFile(c)
		if err != nil || !reflect.DeepEqual(r, s) {
			t.Fatalf("%+v is read back as %+v: %v", r, s, err)
		}
	})
}

// Draws are pinned, and every number is as likely.
func TestDraw(t *testing.T) {
	ch := Standard.Challenge(Draw([32]byte{1}, [32]byte{2}))
	d := ch.stream("cells", 0)
	var got []int
	for range 8 {
		got = append(got, d.below(1000))
	}
	if want := []int{991, 11, 518, 534, 204, 555, 508, 83}; !reflect.DeepEqual(got, want) {
		t.Errorf("drawn are %v, want %v", got, want)
	}
	var count [7]int
	for range 70000 {
		count[d.below(len(count))]++
	}
	for i, n := range count {
		if n < 9500 || n > 10500 {
			t.Errorf("%d was drawn %d times of 70000", i, n)
		}
	}
}

// The bound is what decision and documentation say.
func TestBound(t *testing.T) {
	if b := Bound(8, 1, 0.9); b > 1e-6 {
		t.Errorf("8 cells miss another model with probability %v", b)
	}
	if b := Bound(32, 1.0/24576, 1); b < 0.99 {
		t.Errorf("one cell of 24576 is missed with probability %v only", b)
	}
}

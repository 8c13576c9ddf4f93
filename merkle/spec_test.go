package merkle

import (
	"bytes"
	"os"
	"regexp"
	"slices"
	"strconv"
	"testing"
)

// specLeaves are the leaves of the specification's vectors.
func specLeaves(n int) [][]byte {
	leaves := make([][]byte, n)
	for i := range leaves {
		leaves[i] = bytes.Repeat([]byte{byte(i)}, i)
	}
	return leaves
}

// TestSpecification checks the vectors printed in docs/spec/merkle.md, and that
// the contexts and keys printed there are ours.
func TestSpecification(t *testing.T) {
	page, err := os.ReadFile("../docs/spec/merkle.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| (\\d+) \\| `([0-9a-f]{64})` \\|$").FindAllSubmatch(page, -1)
	if len(rows) != 10 {
		t.Fatalf("the table has %d rows", len(rows))
	}
	for _, row := range rows {
		n, err := strconv.Atoi(string(row[1]))
		if err != nil {
			t.Fatal(err)
		}
		got, err := Build(t.Context(), Slices(specLeaves(n)), Options{})
		if err != nil || got.String() != string(row[2]) {
			t.Errorf("root of %d leaves is %v, %v, the specification says %s", n, got, err, row[2])
		}
	}
	for _, context := range []string{leafContext, nodeContext} {
		if !bytes.Contains(page, []byte(strconv.Quote(context))) {
			t.Errorf("the specification does not have the context %q", context)
		}
	}
	for name, key := range map[string][8]uint32{"leaf": leafKey, "node": nodeKey} {
		line := "    " + name + " "
		for _, w := range key {
			line += " " + strconv.FormatUint(1<<32|uint64(w), 16)[1:]
		}
		if !bytes.Contains(page, []byte(line+"\n")) {
			t.Errorf("the specification does not have the line %q", line)
		}
	}
}

// TestSpecificationProof is the example of section 3.
func TestSpecificationProof(t *testing.T) {
	h := reference.hashes(specLeaves(7))
	proof, err := FromLeaves(h, Plain{}).Prove([]uint64{1, 4})
	if want := []Hash{h[0], h[5], HashNode(h[2], h[3]), h[6]}; err != nil || !slices.Equal(proof, want) {
		t.Errorf("proof of leaves 1 and 4 of 7: %v, %v, want %v", proof, err, want)
	}
}

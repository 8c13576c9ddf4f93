package kernel

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// Instructions written as words are what the text beside them says, by the
// judgement of GNU's disassembler.
func TestWords(t *testing.T) {
	var objdump string
	for _, name := range []string{"aarch64-linux-gnu-objdump", "objdump"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		info, _ := exec.Command(path, "--info").Output()
		if strings.Contains(string(info), "aarch64") {
			objdump = path
			break
		}
	}
	if objdump == "" {
		t.Skip("no objdump for aarch64 (Debian: binutils-aarch64-linux-gnu)")
	}
	src, err := os.ReadFile("neon_arm64.s")
	if err != nil {
		t.Fatal(err)
	}
	var code []byte
	var want []string
	words := 0
	seen := map[string]bool{}
	for _, m := range regexp.MustCompile(`\tWORD \$0x([0-9a-f]{8}) // (.*)`).FindAllStringSubmatch(string(src), -1) {
		words++
		if seen[m[0]] {
			continue
		}
		seen[m[0]] = true
		x, err := strconv.ParseUint(m[1], 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		code = binary.LittleEndian.AppendUint32(code, uint32(x))
		want = append(want, m[2])
	}
	if n := strings.Count(string(src), "WORD"); n == 0 || n != words {
		t.Fatalf("%d of %d words have a text", words, n)
	}
	file := filepath.Join(t.TempDir(), "words")
	if err := os.WriteFile(file, code, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(objdump, "-D", "-b", "binary", "-m", "aarch64", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	got := regexp.MustCompile(`(?m)^ +[0-9a-f]+:\t([0-9a-f]{8}) \t(.*)$`).FindAllStringSubmatch(string(out), -1)
	if len(got) != len(want) {
		t.Fatalf("disassembled %d of %d words", len(got), len(want))
	}
	for i, g := range got {
		if text := strings.Join(strings.Fields(g[2]), " "); text != want[i] {
			t.Errorf("word 0x%s is %q, not %q", g[1], text, want[i])
		}
	}
	t.Logf("%d different words", len(want))
}

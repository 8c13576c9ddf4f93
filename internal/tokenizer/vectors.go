package tokenizer

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// vectorEnd ends each text in a file of test vectors.
const vectorEnd = "\n__ggml_vocab_test__\n"

// maxVectors bounds a file of test vectors, in bytes.
const maxVectors = 64 << 20

// Vectors checks t against test vectors in the format of llama.cpp: texts
// that end with a line __ggml_vocab_test__ in inp, and for each a line of ids
// in decimal in out, encoded without special tokens. Each failure is a
// message for a person. An error means that the files cannot be read.
func Vectors(inp, out io.Reader, t *Tokenizer) (passed, failed int, failures []string, err error) {
	if err := t.Err(); err != nil {
		return 0, 0, nil, err
	}
	raw, err := readAll(inp)
	if err != nil {
		return 0, 0, nil, fmt.Errorf("read the texts: %w", err)
	}
	texts := strings.Split(raw, vectorEnd)
	if n := len(texts); texts[n-1] == "" {
		texts = texts[:n-1]
	}
	raw, err = readAll(out)
	if err != nil {
		return 0, 0, nil, fmt.Errorf("read the ids: %w", err)
	}
	lines := bufio.NewScanner(strings.NewReader(raw))
	lines.Buffer(nil, maxVectors)
	for i, text := range texts {
		if !lines.Scan() {
			return passed, failed, failures, fmt.Errorf("there are %d texts but %d lines of ids", len(texts), i)
		}
		var want []int32
		for field := range strings.FieldsSeq(lines.Text()) {
			id, err := strconv.ParseInt(field, 10, 32)
			if err != nil {
				return passed, failed, failures, fmt.Errorf("line %d of the ids: %w", i+1, err)
			}
			want = append(want, int32(id))
		}
		if got := t.Encode(text, Options{}); !slices.Equal(got, want) {
			failed++
			failures = append(failures, fmt.Sprintf("text %d %q: got %d, want %d", i+1, text, got, want))
			continue
		}
		passed++
	}
	if lines.Scan() {
		return passed, failed, failures, fmt.Errorf("there are more than %d lines of ids for %[1]d texts", len(texts))
	}
	return passed, failed, failures, lines.Err()
}

func readAll(r io.Reader) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxVectors+1))
	if err == nil && len(b) > maxVectors {
		err = fmt.Errorf("more than %d bytes", maxVectors)
	}
	return string(b), err
}

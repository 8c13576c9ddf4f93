package model

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
)

const shared = "../../../shared/data/models"

func loadModel(t testing.TB, file string, p kernel.Path, team *kernel.Team) *Model {
	t.Helper()
	f, err := gguf.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Load(f, Options{Path: p, Team: team, Long: filepath.Base(file) == "phi3-dense.gguf"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close(); f.Close() })
	return m
}

func newCache(m *Model, positions int) *Cache {
	c := &Cache{}
	for range (positions + PagePositions - 1) / PagePositions {
		c.Pages = append(c.Pages, make([]byte, m.PageBytes()))
	}
	return c
}

func readF32(t *testing.T, file string) []float32 {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	v := make([]float32, len(b)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return v
}

// referenceModels are the models with logits by llama.cpp.
func referenceModels(t *testing.T) []string {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(shared, "archs", "*.gguf"))
	files = append(files, filepath.Join(shared, "stories260K.gguf"))
	if _, err := os.Stat(files[len(files)-1]); err != nil {
		t.Skip("../shared/data/models is not beside the checkout")
	}
	if len(files) < 2 {
		t.Fatal("no models below ../shared/data/models/archs")
	}
	return files
}

// Logits of the last of 24 positions agree with llama.cpp's to 1e-5, relative
// to the largest logit.
func TestReferenceLogits(t *testing.T) {
	team := kernel.NewTeam(2)
	defer team.Close()
	for _, file := range referenceModels(t) {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".gguf"), func(t *testing.T) {
			m := loadModel(t, file, kernel.Best(), team)
			want := readF32(t, strings.TrimSuffix(file, ".gguf")+".logits.f32")
			ids := make([]int32, 24)
			for i := range ids {
				ids[i] = int32((i*7919 + 13) % m.Vocab)
			}
			s := m.NewState(team, 24)
			out, err := s.Forward([]Segment{{Cache: newCache(m, 24), Tokens: ids, Logits: Last}})
			if err != nil {
				t.Fatal(err)
			}
			var diff, top, d2, w2 float64
			for i, v := range want {
				d := float64(out[0][i]) - float64(v)
				diff = max(diff, math.Abs(d))
				top = max(top, math.Abs(float64(v)))
				d2 += d * d
				w2 += float64(v) * float64(v)
			}
			t.Logf("relative error: largest %.2g, root mean square %.2g; ignored tensors: %d", diff/top, math.Sqrt(d2/w2), len(m.Ignored))
			if !(diff/top <= 1e-5) || !(math.Sqrt(d2/w2) <= 1e-5) {
				t.Errorf("relative error %.3g", diff/top)
			}
		})
	}
}

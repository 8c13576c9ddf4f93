package model

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
)

// Config is what a file's metadata says about the shape of a model.
type Config struct {
	Arch    string
	Vocab   int
	Dim     int // width of the residual stream
	Layers  int
	Heads   int
	KVHeads int
	KeyDim  int // of one head
	ValDim  int // of one head
	FF      int // width of the feed-forward block, or of one expert
	Context int // positions the model is made for
	Eps     float32

	Experts     int // 0: dense
	ExpertsUsed int
	expertNorm  bool    // chosen weights are divided by their sum
	expertScale float32 // and multiplied by this

	neox        bool    // rotary pairs (i, i+n) instead of (2i, 2i+1)
	ropeDims    int     // rotated dimensions of a head
	attnScale   float32 // queries are multiplied by this
	tempScale   float64 // growth of the query scale with position; 0: none
	tempFloor   int
	attnCap     float32 // soft cap of attention scores; 0: none
	logitCap    float32 // soft cap of logits; 0: none
	window      int     // of the layers with sliding attention
	period      int     // each period's last layer sees everything; 0: all do
	embedScale  float32
	gate        kernel.Gate
	headNorm    bool // RMSNorm of each head's query and key
	rowNorm     bool // RMSNorm of all heads' queries, and keys, together
	postNorm    bool // RMSNorm of each block's output
	ropeBase    float64
	ropeBaseSWA float64 // of the sliding layers
	scaling     arith.RopeScaling
	longRope    bool
	// The family has no bias and no scale on its queries, keys and values, or
	// on the matrices of its feed-forward blocks.
	bareQKV, bareFFN bool
}

// families are the supported architectures with what sets each apart.
var families = map[string]func(*Config, *meta){
	"llama":    func(c *Config, m *meta) { c.expertNorm = true },
	"mistral3": func(c *Config, m *meta) { c.expertNorm = true; c.temperature(m) },
	"qwen2":    func(c *Config, m *meta) { c.neox, c.bareFFN = true, true },
	"qwen3":    func(c *Config, m *meta) { c.neox, c.headNorm = true, true },
	"qwen3moe": func(c *Config, m *meta) { c.neox, c.headNorm, c.expertNorm = true, true, true },
	"olmoe":    func(c *Config, m *meta) { c.neox, c.rowNorm, c.bareQKV, c.bareFFN = true, true, true, true },
	"phi3":     func(c *Config, m *meta) { c.neox, c.bareFFN = true, true },
	"gemma2": func(c *Config, m *meta) {
		c.gemma(m, 2, 46)
		c.window = int(m.uint("attention.sliding_window", 4096))
		c.attnCap = float32(m.float("attn_logit_softcapping", 50))
		c.logitCap = float32(m.float("final_logit_softcapping", 30))
	},
	"gemma3": func(c *Config, m *meta) {
		c.gemma(m, 6, 62)
		c.headNorm = true
		c.window = int(m.uint("attention.sliding_window", 0))
		c.logitCap = float32(m.float("final_logit_softcapping", 0))
		c.ropeBaseSWA = m.float("rope.freq_base_swa", 10000)
	},
}

// Architectures lists the supported values of general.architecture.
func Architectures() []string {
	var s []string
	for a := range families {
		s = append(s, a)
	}
	slices.Sort(s)
	return s
}

func (c *Config) gemma(m *meta, period, layersOf27B int) {
	c.neox, c.postNorm, c.bareFFN, c.gate = true, true, true, kernel.GELU
	c.embedScale = float32(math.Sqrt(float64(c.Dim)))
	c.period = int(m.uint("attention.sliding_window_pattern", uint64(period)))
	per := c.KeyDim
	if c.Layers == layersOf27B {
		per = c.Dim / c.Heads
	}
	c.attnScale = invSqrt(per)
}

func (c *Config) temperature(m *meta) {
	c.tempScale = m.float("attention.temperature_scale", 0)
	c.tempFloor = int(m.uint("rope.scaling.original_context_length", uint64(c.Context)))
}

func invSqrt(n int) float32 { return 1 / float32(math.Sqrt(float64(n))) }

// meta reads an architecture's keys and remembers what was wrong first.
type meta struct {
	f    *gguf.File
	arch string
	err  error
}

func (m *meta) fail(format string, a ...any) {
	if m.err == nil {
		m.err = fmt.Errorf("%s: %s", m.f.Path, fmt.Sprintf(format, a...))
	}
}

func (m *meta) uint(key string, def uint64) uint64 {
	if v, ok := m.f.Uint(m.arch + "." + key); ok {
		return v
	}
	if v, ok := m.f.Ints(m.arch + "." + key); ok && len(v) > 0 { // one value per layer
		if slices.Max(v) != slices.Min(v) || v[0] < 0 {
			m.fail("%s.%s differs between layers, which is not supported", m.arch, key)
		}
		return uint64(v[0])
	}
	return def
}

// size is uint for a dimension: present (unless def > 0) and within bounds.
func (m *meta) size(key string, def, most uint64) int {
	v := m.uint(key, def)
	if v == 0 || v > most {
		m.fail("%s.%s is %d; it must be between 1 and %d", m.arch, key, v, most)
		return 1
	}
	return int(v)
}

func (m *meta) float(key string, def float64) float64 {
	v, ok := m.f.Float(m.arch + "." + key)
	if !ok {
		return def
	}
	if math.IsNaN(v) || math.IsInf(v, 0) {
		m.fail("%s.%s is not a finite number", m.arch, key)
		return def
	}
	return v
}

const maxDim = 1 << 20

// readConfig reads and checks the metadata of f.
func readConfig(f *gguf.File, long bool) (*Config, error) {
	arch := f.Arch()
	family, ok := families[arch]
	if !ok {
		return nil, fmt.Errorf("%s: architecture %q is not supported; supported are %s", f.Path, arch, strings.Join(Architectures(), ", "))
	}
	m := &meta{f: f, arch: arch}
	c := &Config{Arch: arch, expertScale: 1, embedScale: 1}
	c.Dim = m.size("embedding_length", 0, maxDim)
	c.Layers = m.size("block_count", 0, 4096)
	c.Heads = m.size("attention.head_count", 0, 4096)
	c.KVHeads = m.size("attention.head_count_kv", uint64(c.Heads), uint64(c.Heads))
	c.Context = m.size("context_length", 0, 1<<30)
	c.KeyDim = m.size("attention.key_length", uint64(c.Dim/c.Heads), 4096)
	c.ValDim = m.size("attention.value_length", uint64(c.KeyDim), 4096)
	c.ropeDims = m.size("rope.dimension_count", uint64(c.KeyDim), uint64(c.KeyDim))
	c.Eps = float32(m.float("attention.layer_norm_rms_epsilon", 0))
	c.Experts = int(m.uint("expert_count", 0))
	if c.Experts > 0 {
		c.ExpertsUsed = m.size("expert_used_count", 0, uint64(min(c.Experts, 4096)))
		if s := float32(m.float("expert_weights_scale", 0)); s != 0 {
			c.expertScale = s
		}
		c.FF = int(m.uint("expert_feed_forward_length", 0))
	}
	if c.FF == 0 {
		c.FF = m.size("feed_forward_length", 0, maxDim)
	}
	if m.err != nil {
		return nil, m.err
	}
	if c.Heads%c.KVHeads != 0 || c.ropeDims%2 != 0 || c.Experts > 4096 || c.FF > maxDim {
		return nil, fmt.Errorf("%s: %d heads over %d key heads, %d rotated dimensions, %d experts of width %d do not make a model", f.Path, c.Heads, c.KVHeads, c.ropeDims, c.Experts, c.FF)
	}
	c.attnScale = invSqrt(c.KeyDim)
	c.ropeBase = m.float("rope.freq_base", 10000)
	family(c, m)
	if c.ropeBaseSWA == 0 {
		c.ropeBaseSWA = c.ropeBase
	}
	c.ropeScaling(m, long)
	if m.err == nil && (!(c.ropeBase > 1 && c.ropeBaseSWA > 1) || c.Eps < 0) {
		m.fail("rope.freq_base %g or layer_norm_rms_epsilon %g out of range", c.ropeBase, c.Eps)
	}
	return c, m.err
}

func (c *Config) ropeScaling(m *meta, long bool) {
	c.scaling = arith.RopeScaling{Linear: 1, Magnitude: 1}
	factor := m.float("rope.scaling.factor", 0)
	if factor == 0 {
		factor = 1 / m.float("rope.scale_linear", 1)
		factor = 1 / factor
	}
	kind, _ := m.f.String(m.arch + ".rope.scaling.type")
	attn := m.float("rope.scaling.attn_factor", 1)
	if !(factor >= 1e-3 && factor <= 1e6) || !(attn > 0 && attn < 1e3) {
		m.fail("rope.scaling.factor %g or attn_factor %g out of range", factor, attn)
		return
	}
	c.scaling.Magnitude = attn
	c.longRope = long
	switch kind {
	case "none":
	case "", "linear":
		c.scaling.Linear = factor
	case "longrope":
	case "yarn":
		s := &c.scaling
		s.Linear, s.YaRN, s.YaRNExtent = factor, true, 1
		s.YaRNOrig = float64(m.uint("rope.scaling.original_context_length", uint64(c.Context)))
		s.YaRNFast = m.float("rope.scaling.yarn_beta_fast", 32)
		s.YaRNSlow = m.float("rope.scaling.yarn_beta_slow", 1)
		if e := m.float("rope.scaling.yarn_ext_factor", -1); e >= 0 {
			s.YaRNExtent = e
		}
		if !(s.YaRNOrig >= 1 && s.YaRNFast > 0 && s.YaRNSlow > 0) {
			m.fail("YaRN parameters %g, %g, %g out of range", s.YaRNOrig, s.YaRNFast, s.YaRNSlow)
			return
		}
		if factor > 1 {
			mag := arith.LogScale(factor, 0.1)
			if mul := m.float("rope.scaling.yarn_log_multiplier", 0); mul != 0 {
				mag /= arith.LogScale(factor, 0.1*mul)
			}
			s.Magnitude = float64(mag) * attn
		}
	default:
		m.fail("rope.scaling.type %q is not supported; supported are none, linear, yarn and longrope", kind)
	}
}

// sliding reports whether layer l sees only the last window positions.
func (c *Config) sliding(l int) bool {
	return c.window > 0 && c.period > 0 && l%c.period < c.period-1
}

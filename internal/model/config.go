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

	memory                    []string // rule of each block, "" where it is dense; nil: all are
	hashOrders                []int
	hashHeads                 int
	productHeads, productTopK int
	lookback                  int // tokens before a segment that hashed n-grams reach back to
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
	"geist":    func(c *Config, m *meta) { c.memoryRules(m) },
	"gemma2": func(c *Config, m *meta) {
		c.gemma(m, 2, 46)
		c.window = m.count("attention.sliding_window", 4096, maxContext)
		c.attnCap = m.cap("attn_logit_softcapping", 50)
		c.logitCap = m.cap("final_logit_softcapping", 30)
	},
	"gemma3": func(c *Config, m *meta) {
		c.gemma(m, 6, 62)
		c.headNorm = true
		c.window = m.count("attention.sliding_window", 0, maxContext)
		c.logitCap = m.cap("final_logit_softcapping", 0)
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
	c.period = m.count("attention.sliding_window_pattern", uint64(period), maxLayers)
	per := c.KeyDim
	if c.Layers == layersOf27B {
		per = max(1, c.Dim/c.Heads)
	}
	c.attnScale = invSqrt(per)
}

func (c *Config) temperature(m *meta) {
	c.tempScale = m.float("attention.temperature_scale", 0)
	if !(c.tempScale >= 0 && c.tempScale <= 100) {
		m.fail("attention.temperature_scale %g is not between 0 and 100", c.tempScale)
	}
	c.tempFloor = m.size("rope.scaling.original_context_length", uint64(c.Context), maxContext)
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
	key = m.arch + "." + key
	if v, ok := m.f.Uint(key); ok {
		return v
	}
	if v, ok := m.f.Ints(key); ok && len(v) > 0 { // one value per layer
		if slices.Max(v) != slices.Min(v) {
			m.fail("%s differs between layers, which is not supported", key)
			return def
		}
		if v[0] >= 0 {
			return uint64(v[0])
		}
	}
	if v, ok := m.f.Value(key); ok {
		m.fail("%s is %.40s (%s); a number that is not negative belongs there", key, v, v.Type())
	}
	return def
}

// count is uint for a number of at most most.
func (m *meta) count(key string, def, most uint64) int {
	v := m.uint(key, def)
	if v > most {
		m.fail("%s.%s is %d; the most is %d", m.arch, key, v, most)
		return 0
	}
	return int(v)
}

// size is count for a dimension, which is at least 1. A def of 0 demands the key.
func (m *meta) size(key string, def, most uint64) int {
	v := m.uint(key, def)
	if _, there := m.f.Value(m.arch + "." + key); v == 0 && !there {
		m.fail("%s.%s is missing; is this a complete model?", m.arch, key)
		return 1
	}
	if v == 0 || v > most {
		m.fail("%s.%s is %d; it must be between 1 and %d", m.arch, key, v, most)
		return 1
	}
	return int(v)
}

// cap is float for a soft cap, 0 for none.
func (m *meta) cap(key string, def float64) float32 {
	v := m.float(key, def)
	if v != 0 && !(v >= 1e-3 && v <= 1e6) {
		m.fail("%s.%s is %g; it must be 0 or between 0.001 and 1000000", m.arch, key, v)
		return 0
	}
	return float32(v)
}

func (m *meta) float(key string, def float64) float64 {
	v, ok := m.f.Float(m.arch + "." + key)
	if !ok {
		if v, there := m.f.Value(m.arch + "." + key); there {
			m.fail("%s.%s is %.40s (%s); a floating-point number belongs there", m.arch, key, v, v.Type())
		}
		return def
	}
	if math.IsNaN(v) || math.IsInf(v, 0) {
		m.fail("%s.%s is not a finite number", m.arch, key)
		return def
	}
	return v
}

// Bounds on what a file may claim. No product of those that is formed before a
// tensor's size confirms it exceeds 63 bits.
const (
	maxDim     = 1 << 20
	maxLayers  = 4096
	maxHeads   = 4096
	maxHeadDim = 4096
	maxExperts = 4096
	maxContext = 1 << 30
)

// foreign says what a file is that holds no model of its own, "" if it is none.
func foreign(f *gguf.File) string {
	if n, ok := f.Uint("split.count"); ok && n > 1 {
		i, _ := f.Uint("split.no")
		return fmt.Sprintf("this is part %d of %d of a model; join the parts first, as \"llama-gguf-split --merge\" does", i+1, n)
	}
	switch kind, _ := f.String("general.type"); kind {
	case "adapter":
		return "this is an adapter (LoRA) and no model; merge it into its model first"
	case "mmproj", "projector", "clip-vision":
		return "this is the image part of a model; give the file with the language model"
	}
	return ""
}

// readConfig reads and checks the metadata of f.
func readConfig(f *gguf.File, long bool) (*Config, error) {
	if what := foreign(f); what != "" {
		return nil, fmt.Errorf("%s: %s", f.Path, what)
	}
	arch := f.Arch()
	family, ok := families[arch]
	if !ok {
		if arch == "" {
			return nil, fmt.Errorf("%s: the key general.architecture is missing, so it cannot be told how to run the model", f.Path)
		}
		return nil, fmt.Errorf("%s: architecture %q is not supported; supported are %s", f.Path, arch, strings.Join(Architectures(), ", "))
	}
	m := &meta{f: f, arch: arch}
	c := &Config{Arch: arch, expertScale: 1, embedScale: 1}
	c.Dim = m.size("embedding_length", 0, maxDim)
	c.Layers = m.size("block_count", 0, maxLayers)
	c.Heads = m.size("attention.head_count", 0, maxHeads)
	c.KVHeads = m.size("attention.head_count_kv", uint64(c.Heads), uint64(c.Heads))
	c.Context = m.size("context_length", 0, maxContext)
	c.KeyDim = m.size("attention.key_length", uint64(c.Dim/c.Heads), maxHeadDim)
	c.ValDim = m.size("attention.value_length", uint64(c.KeyDim), maxHeadDim)
	c.ropeDims = m.size("rope.dimension_count", uint64(c.KeyDim), uint64(c.KeyDim))
	c.Experts = m.count("expert_count", 0, maxExperts)
	if c.Experts > 0 {
		c.ExpertsUsed = m.size("expert_used_count", 0, uint64(c.Experts))
		if s := m.float("expert_weights_scale", 0); s != 0 {
			if !(s >= 1e-6 && s <= 1e6) {
				m.fail("expert_weights_scale is %g; it must be between 0.000001 and 1000000", s)
			}
			c.expertScale = float32(s)
		}
		c.FF = m.count("expert_feed_forward_length", 0, maxDim)
	}
	if c.FF == 0 {
		c.FF = m.size("feed_forward_length", 0, maxDim)
	}
	const eps = "attention.layer_norm_rms_epsilon"
	c.Eps = float32(m.float(eps, -1))
	if !(c.Eps > 0 && c.Eps <= 1) {
		m.fail("%s.%s is missing, 0 or more than 1", arch, eps)
	}
	if m.err != nil {
		return nil, m.err
	}
	if c.Heads%c.KVHeads != 0 || c.ropeDims%2 != 0 {
		return nil, fmt.Errorf("%s: %d heads over %d key heads with %d rotated dimensions do not make a model", f.Path, c.Heads, c.KVHeads, c.ropeDims)
	}
	c.attnScale = invSqrt(c.KeyDim)
	c.ropeBase = m.float("rope.freq_base", 10000)
	family(c, m)
	if c.ropeBaseSWA == 0 {
		c.ropeBaseSWA = c.ropeBase
	}
	c.ropeScaling(m, long)
	if m.err == nil && !(inBase(c.ropeBase) && inBase(c.ropeBaseSWA)) {
		m.fail("rope.freq_base %g or %g is out of range; it must be between 1.001 and 10^15", c.ropeBase, c.ropeBaseSWA)
	}
	return c, m.err
}

// inBase reports whether b can be the base of rotary frequencies. Only just
// above 1, its logarithm would lose its digits.
func inBase(b float64) bool { return b >= 1.001 && b <= 1e15 }

func (c *Config) ropeScaling(m *meta, long bool) {
	c.scaling = arith.RopeScaling{Linear: 1, Magnitude: 1}
	factor := m.float("rope.scaling.factor", 0)
	if factor == 0 {
		factor = m.float("rope.scale_linear", 1)
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
		s.YaRNOrig = float64(m.size("rope.scaling.original_context_length", uint64(c.Context), maxContext))
		s.YaRNFast = m.float("rope.scaling.yarn_beta_fast", 32)
		s.YaRNSlow = m.float("rope.scaling.yarn_beta_slow", 1)
		if e := m.float("rope.scaling.yarn_ext_factor", -1); e >= 0 {
			s.YaRNExtent = e
		}
		if in := func(v float64) bool { return v >= 1e-6 && v <= 1e6 }; !in(s.YaRNFast) || !in(s.YaRNSlow) || s.YaRNExtent > 1e6 {
			m.fail("rope.scaling.yarn_beta_fast %g, yarn_beta_slow %g or yarn_ext_factor %g is out of range", s.YaRNFast, s.YaRNSlow, s.YaRNExtent)
			return
		}
		if factor > 1 {
			mag := arith.LogScale(factor, 0.1)
			if mul := m.float("rope.scaling.yarn_log_multiplier", 0); mul != 0 {
				mag /= arith.LogScale(factor, float64(0.1*mul))
			}
			s.Magnitude = float64(float64(mag) * attn)
			if !(s.Magnitude > 0 && s.Magnitude < 1e6) {
				m.fail("rope.scaling.yarn_log_multiplier %g makes a magnitude of %g, which is out of range", m.float("rope.scaling.yarn_log_multiplier", 0), s.Magnitude)
			}
		}
	default:
		m.fail("rope.scaling.type %q is not supported; supported are none, linear, yarn and longrope", kind)
	}
}

// sliding reports whether layer l sees only the last window positions.
func (c *Config) sliding(l int) bool {
	return c.window > 0 && c.period > 0 && l%c.period < c.period-1
}

package tokenizer

import (
	"fmt"
	"slices"
	"strings"
)

// preKind is one way of splitting a text into the words within which byte
// pairs are merged. Each stage splits every piece that the stages before it
// left into matches and what lies between them.
type preKind struct {
	id     string   // goes into the hash; names of equal effect share it
	names  []string // values of tokenizer.ggml.pre
	stages []string // patterns, or one of the stages named below

	ignoreMerges bool // a word that is a token is taken whole
	addBOS       bool // where the file does not say
	utf8         bool // symbols are characters, not bytes
	escape       bool // "▁" stands for the space
	newlines     bool // a run of newlines that is a token is taken whole
}

// Stages that are not patterns. Both cut runs of digits into threes counted
// from the run's end.
const (
	// Runs of \p{N}, cut behind each group. What precedes a run stays with its
	// first group, which has one to three digits.
	stageThrees = "threes"
	// Runs of 0-9, cut before each group of three. What precedes a run stays
	// with its first one or two digits, what follows with its last group.
	stageASCIIThrees = "ascii threes"
)

// Parts that patterns share.
const (
	contractions = `'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]`
	contraction  = `(?:` + contractions + `)?`
	spaces       = `|\s+(?!\S)|\s+`
	lines        = `|\s*[\r\n]+` + spaces
	punctuation  = `| ?[^\s\p{L}\p{N}]+[\r\n]*`
	letters      = `[^\r\n\p{L}\p{N}]?\p{L}+`

	patternGPT2   = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+` + spaces
	patternLlama3 = contractions + `|` + letters + `|\p{N}{1,3}` + punctuation + lines
	patternQwen2  = contractions + `|` + letters + `|\p{N}` + punctuation + lines
	patternPoro   = ` ?[^(\s|.,!?\u2026\u3002\uFF0C\u3001\u0964\u06D4\u060C)]+`
	patternLines  = `[^\n]+|[\n]+`

	patternJapaneseChinese = `[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+`
	patternEastAsian       = `[\u4E00-\u9FA5\u0800-\u4E00\uAC00-\uD7FF]+`
	patternMarkedWords     = `\p{Ascii}[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+`

	// Cased words: the classes are letters without a-z and without A-Z.
	patternTekken = `[^\r\n\p{L}\p{N}]?\p{L-a}*\p{L-A}+|[^\r\n\p{L}\p{N}]?\p{L-a}+\p{L-A}*` +
		`|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*` + lines
	patternGPT4o = `[^\r\n\p{L}\p{N}]?\p{L-a}*\p{L-A}+` + contraction +
		`|[^\r\n\p{L}\p{N}]?\p{L-a}+\p{L-A}*` + contraction +
		`|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*` + lines
	patternGranite = `[^\r\n\p{L}\p{N}]?[\p{L-a}\p{M}]*[\p{L-A}\p{M}]+` + contraction +
		`|[^\r\n\p{L}\p{N}]?[\p{L-a}\p{M}]+[\p{L-A}\p{M}]*` + contraction +
		`|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*` + lines

	// The scripts with case that deepseek-llm lists.
	casedLetters = `A-Za-z\u00B5\u00C0-\u00D6\u00D8-\u00F6\u00F8-\u01BA\u01BC-\u01BF\u01C4-\u0293\u0295-\u02AF` +
		`\u0370-\u0373\u0376\u0377\u037B-\u037D\u037F\u0386\u0388-\u038A\u038C\u038E-\u03A1\u03A3-\u03F5` +
		`\u03F7-\u0481\u048A-\u052F\u0531-\u0556\u10A0-\u10C5\u13A0-\u13F5\u13F8-\u13FD\u1C90-\u1CBA` +
		`\u1CBD-\u1CBF\u1D00-\u1D2B\u1D6B-\u1D77\u1D79-\u1D9A\u1E00-\u1F15\u1F18-\u1F1D\u1F20-\u1F45` +
		`\u1F48-\u1F4D\u1F50-\u1F57\u1F59\u1F5B\u1F5D\u1F5F-\u1F7D\u1F80-\u1FB4\u1FB6-\u1FBC\u1FBE` +
		`\u1FC2-\u1FC4\u1FC6-\u1FCC\u1FD0-\u1FD3\u1FD6-\u1FDB\u1FE0-\u1FEC\u1FF2-\u1FF4\u1FF6-\u1FFC` +
		`\u2102\u2107\u210A-\u2113\u2115\u2119-\u211D\u2124\u2126\u2128\u212A-\u212D\u212F-\u2134\u2139` +
		`\u213C-\u213F\u2145-\u2149\u214E\u2183\u2184\u2C00-\u2C7B\u2C7E-\u2CE4\u2CEB-\u2CEE\u2CF2\u2CF3` +
		`\uA640-\uA66D\uA680-\uA69B\uA722-\uA76F\uA771-\uA787\uA78B-\uA78E\uAB70-\uABBF\uFB00-\uFB06` +
		`\uFB13-\uFB17\uFF21-\uFF3A\uFF41-\uFF5A\U00010400-\U0001044F\U000104B0-\U000104D3` +
		`\U000104D8-\U000104FB\U00010C80-\U00010CB2\U00010CC0-\U00010CF2\U000118A0-\U000118DF` +
		`\U0001E900-\U0001E943`

	afmoeScripts = `[\u4E00-\u9FFF\u3400-\u4DBF\u8C48-\uFAFF\u3040-\u309F\u30A0-\u30FF\uFF65-\uFF9F` +
		`\u2F00-\u2FDF\u0E40-\u0E7F\u0E80-\u0EFF\u1780-\u17FF\u1000-\u109F\uAA60-\uAA7F\uA9E0-\uA9FF` +
		`\uAC00-\uD7AF\u1100-\u11FF]+`
)

// preKinds are the pre-tokenizers that llama.cpp names, with its splits: the
// names and patterns come from its src/llama-vocab.cpp and src/unicode.cpp,
// and where these differ from a model's own tokenizer we follow them.
func preKinds() []preKind {
	return []preKind{
		{id: "default", names: []string{"default"}, stages: []string{
			`[\p{P}$+<=>^~|]+`, patternGPT2, `\p{N}+`, `[0-9][0-9][0-9]`,
		}},
		{
			id: "llama3", stages: []string{patternLlama3}, ignoreMerges: true, addBOS: true,
			names: []string{
				"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
				"jina-v5-nano",
			},
		},
		{id: "dbrx", names: []string{"dbrx", "smaug-bpe", "chatglm-bpe", "glm4"}, stages: []string{patternLlama3}},
		{id: "minicpm5", names: []string{"minicpm5"}, ignoreMerges: true, stages: []string{
			`\p{N}{1,3}`, contractions + `|` + letters + `|\p{N}+` + punctuation + lines,
		}},
		{id: "jais-2", names: []string{"jais-2"}, stages: []string{
			contractions + `|` + letters + `|\p{N}{1,3}` + punctuation + `|\s*[\r\n]+` +
				`|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)` +
				`|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s`,
		}},
		{id: "deepseek-llm", names: []string{"deepseek-llm"}, stages: []string{
			`[\r\n]`, `\s?[` + casedLetters + `]+`,
			`\s?[!-/:-~\uFF01-\uFF0F\uFF1A-\uFF5E\u2018-\u201F\u3000-\u3002]+`,
			`\s+$`, patternEastAsian, `\p{N}+`,
		}},
		{id: "deepseek-coder", names: []string{"deepseek-coder"}, stages: []string{
			`[\r\n]`, `\s?\p{L}+`, `\s?\p{P}+`, patternEastAsian, `\p{N}`,
		}},
		{
			id: "deepseek-v3", names: []string{"deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"},
			stages: []string{`\p{N}{1,3}`, patternJapaneseChinese, patternMarkedWords + `[\r\n]*` + lines},
		},
		{id: "spark2_5", names: []string{"spark2_5"}, stages: []string{
			`\p{N}{1,3}`, patternJapaneseChinese, patternMarkedWords + `|[\r\n]` + spaces, `\p{N}`,
		}},
		{id: "youtu", names: []string{"youtu"}, ignoreMerges: true, stages: []string{
			`[\uAC00-\uD7A3\u3131-\u318E]+` +
				`|[\uFF01\u2026\u201C\u201D\u2018\u2019\u2014\uFF1A\uFF1B\uFF0C\u3001-\u303F\uFE30-\uFE4F]+` +
				`|[\u3105-\u312F]+|` + patternJapaneseChinese,
			`[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+` + contraction + `|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*` + lines,
		}},
		{id: "falcon", names: []string{"falcon"}, stages: []string{
			"[\\p{P}$+<=>^~|`]+", patternGPT2, `[0-9][0-9][0-9]`,
		}},
		{
			id: "starcoder", stages: []string{`\p{N}`, patternGPT2},
			names: []string{
				"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2",
			},
		},
		{
			id: "gpt-2", stages: []string{patternGPT2},
			names: []string{
				"gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0",
				"mellum", "modern-bert", "mpt", "olmo", "jais", "exaone4", "trillion", "granite-docling",
				"jina-v1-en", "jina-v2-code", "roberta-bpe",
			},
		},
		{
			id: "qwen2", stages: []string{patternQwen2},
			names: []string{
				"qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open",
				"grok-2",
			},
		},
		{id: "qwen35", names: []string{"qwen35"}, stages: []string{
			contractions + `|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*` + lines,
		}},
		{
			id: "ufakzeka", names: []string{"ufakzeka"},
			stages: []string{letters + `|\p{N}` + punctuation + lines},
		},
		{id: "poro", names: []string{"poro-chat", "bloom", "gpt3-finnish"}, stages: []string{patternPoro}},
		{id: "viking", names: []string{"viking"}, stages: []string{patternPoro, `\p{N}`}},
		{
			id: "tekken", names: []string{"tekken"}, stages: []string{patternTekken},
			ignoreMerges: true, addBOS: true,
		},
		{id: "chameleon", names: []string{"chameleon"}, addBOS: true, stages: []string{
			`<sentinel:[0-9]+>`, `IMGIMG[A-I]{1,4}Z`, `[\t\n]|    |  `, `\p{N}`, `[\p{P}\p{Ascii}]`, patternGPT2,
		}},
		{
			id: "gpt-4o", names: []string{"gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"},
			stages: []string{patternGPT4o},
		},
		{
			id: "granite-embed-multi-97m", names: []string{"granite-embed-multi-97m"},
			stages: []string{patternGranite}, ignoreMerges: true,
		},
		{id: "tiny_aya", names: []string{"tiny_aya", "cohere2moe"}, stages: []string{
			stageThrees,
			`[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+` + contraction + `|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*` + lines,
		}},
		{id: "kimi-k2", names: []string{"kimi-k2"}, stages: []string{
			`\p{Han}+|[^\r\n\p{L}\p{N}]?\p{L-Han}+` + contraction + `|\p{N}{1,3}` + punctuation + lines,
		}},
		{id: "superbpe", names: []string{"superbpe"}, stages: []string{`\p{N}+`, stageASCIIThrees}},
		{id: "bailingmoe", names: []string{"bailingmoe", "bailingmoe2", "llada-moe"}, stages: []string{
			`'[sSdDmMtT]|'[lL][lL]|'[vV][eE]|'[rR][eE]|` + letters + `|\p{N}` + punctuation + `|\s*[\r\n]` + spaces,
		}},
		{id: "seed-coder", names: []string{"seed-coder"}, stages: []string{
			contractions + `|` + letters + `|\p{N}| ?[^\s\p{L}\p{N}\r\n]+` + lines,
		}},
		{
			id: "afmoe", names: []string{"afmoe"},
			stages: []string{stageThrees, afmoeScripts, patternMarkedWords + `[\r\n]*` + lines},
		},
		{id: "laguna", names: []string{"laguna"}, stages: []string{patternLines, patternQwen2}},
		{id: "exaone-moe", names: []string{"exaone-moe"}, stages: []string{
			contractions + `|[^\r\n\p{L}\p{N}]?\w|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]` + spaces,
		}},
		{
			id: "gemma4", names: []string{"gemma4", "granite-embed-multi-311m"}, stages: []string{patternLines},
			addBOS: true, utf8: true, escape: true, newlines: true,
		},
		{
			id: "sarvam-moe", names: []string{"sarvam-moe"}, stages: []string{patternLines},
			utf8: true, escape: true,
		},
		{id: "whitespace", names: []string{"whitespace"}, stages: []string{`\S+`}, utf8: true},
	}
}

// findPre finds a pre-tokenizer by the name a file gives it.
func findPre(name string) (preKind, error) {
	var known []string
	for _, kind := range preKinds() {
		if slices.Contains(kind.names, name) {
			return kind, nil
		}
		known = append(known, kind.names...)
	}
	slices.Sort(known)
	return preKind{}, fmt.Errorf("pre-tokenizer %q is not known; known are %s", name, strings.Join(known, ", "))
}

// splitter splits texts as a preKind says.
type splitter struct {
	stages []splitStage
	set    classSet
	slots  int // memos of the stage that needs most
}

type splitStage struct {
	threes  uint64 // class of the digits to group; 0: the pattern counts
	before  bool   // groups are cut before, not behind
	pattern pattern
}

func newSplitter(stages []string) *splitter {
	s := &splitter{set: classSet{bit: make(map[string]uint64)}}
	for _, text := range stages {
		var stage splitStage
		switch text {
		case stageThrees:
			stage.threes = s.digits(`\p{N}`)
		case stageASCIIThrees:
			stage.threes, stage.before = s.digits(`[0-9]`), true
		default:
			stage.pattern = compilePattern(text, &s.set)
			s.slots = max(s.slots, stage.pattern.slots)
		}
		s.stages = append(s.stages, stage)
	}
	s.set.finish()
	return s
}

func (s *splitter) digits(class string) uint64 {
	p := patternParser{text: class, set: &s.set}
	return p.atom()
}

// pieces is the scratch memory of one split.
type pieces struct {
	syms         []uint64
	offs         []int32 // of each character and of the end, in bytes
	bounds, next []int32 // ends of pieces, in characters
	memos        []memo
}

// split gives the ends of text's words, in bytes. The result is valid until
// the next call with p. Bytes that are not UTF-8 count as U+FFFD each.
func (s *splitter) split(text string, p *pieces) []int32 {
	p.syms, p.offs = p.syms[:0], p.offs[:0]
	for i, r := range text {
		p.syms = append(p.syms, s.set.of(r))
		p.offs = append(p.offs, int32(i))
	}
	p.offs = append(p.offs, int32(len(text)))
	p.bounds = append(p.bounds[:0], int32(len(p.syms)))
	for i := range s.stages {
		p.next = p.next[:0]
		p.memos = append(p.memos[:0], make([]memo, s.stages[i].pattern.slots)...)
		lo := 0
		for _, hi := range p.bounds {
			s.stages[i].piece(p, lo, int(hi))
			lo = int(hi)
		}
		p.bounds, p.next = p.next, p.bounds
	}
	for i, b := range p.bounds {
		p.bounds[i] = p.offs[b]
	}
	return p.bounds
}

// piece splits [lo, hi).
func (st *splitStage) piece(p *pieces, lo, hi int) {
	if st.threes != 0 {
		for pos := lo; pos < hi; {
			if p.syms[pos]&st.threes == 0 {
				pos++
				continue
			}
			end := pos
			for end < hi && p.syms[end]&st.threes != 0 {
				end++
			}
			cut, last := pos+(end-pos)%3, end
			if st.before {
				last -= 3
			} else if cut == pos {
				cut += 3
			}
			for ; cut <= last; cut += 3 {
				if cut > lo {
					p.next = append(p.next, int32(cut))
					lo = cut
				}
			}
			pos = end
		}
		if lo < hi {
			p.next = append(p.next, int32(hi))
		}
		return
	}
	for pos := lo; pos < hi; {
		begin, end := st.pattern.next(p.syms, p.memos, pos, hi)
		if begin > pos {
			p.next = append(p.next, int32(begin))
		}
		if end > begin {
			p.next = append(p.next, int32(end))
		}
		pos = end
	}
}

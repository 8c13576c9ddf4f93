package tokenizer

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"math"
)

// rulesVersion counts changes of this package after which a vocabulary
// encodes or decodes otherwise than before.
const rulesVersion = 1

// Hash identifies everything that Encode and Decode depend on. It is the
// SHA-256 of, in this order, where a string is its length in bytes as u32 and
// its bytes, an id is i32 (-1: none), a flag is one byte, and all integers are
// little-endian:
//
//	"geist tokenizer" (string), rulesVersion u32, Unicode version (string)
//	kind: "spm", "bpe", "wpm" or "none" (string); the number of ids, u32
//	and, unless the kind is none:
//	flags: adds BOS, adds EOS, puts a space before texts, leaves out the first space
//	ids: bos, eos, eot, eom, unk, sep, pad, mask
//	for each token: text (string), attributes u16, attributes in the file u16,
//	    1 if it ends a generation, its score's bits u32 (spm only)
//	bpe: the pre-tokenizer's name, the first of those of equal effect (string),
//	    the number of merges u32 and each merge (string)
//	wpm: flags: lowercase, strip accents
//
// The attributes are bits: 1 unknown, 2 unused, 4 normal, 8 control, 16 user
// defined, 32 byte, 64 undefined, 128 drops white space left of it, 256 right.
func (t *Tokenizer) Hash() [32]byte { return t.hash }

type canonical struct{ h hash.Hash }

func (c canonical) u32(v uint32) {
	c.h.Write(binary.LittleEndian.AppendUint32(nil, v))
}

func (c canonical) str(s string) {
	c.u32(uint32(len(s)))
	c.h.Write([]byte(s))
}

func (c canonical) flags(flags ...bool) {
	b := make([]byte, len(flags))
	for i, f := range flags {
		if f {
			b[i] = 1
		}
	}
	c.h.Write(b)
}

func (t *Tokenizer) computeHash() [32]byte {
	c := canonical{sha256.New()}
	c.str("geist tokenizer")
	c.u32(rulesVersion)
	c.str(unicodeVersion)
	kind := "none"
	switch {
	case t.spm != nil:
		kind = "spm"
	case t.bpe != nil:
		kind = "bpe"
	case t.wpm != nil:
		kind = "wpm"
	}
	c.str(kind)
	c.u32(uint32(t.size))
	if t.vocab != nil {
		c.vocab(t)
	}
	return [32]byte(c.h.Sum(nil))
}

func (c canonical) vocab(t *Tokenizer) {
	v := t.vocab
	c.flags(t.addBOS, t.addEOS, t.spm != nil && t.spm.prefix, t.dropSpace)
	for _, id := range []int32{v.bos, v.eos, v.eot, v.eom, v.unk, v.sep, v.pad, v.mask} {
		c.u32(uint32(id))
	}
	for i := range v.tokens {
		tok := &v.tokens[i]
		c.str(tok.text)
		c.u32(uint32(tok.attr) | uint32(tok.file)<<16)
		c.flags(v.eog[int32(i)])
		if t.spm != nil {
			c.u32(math.Float32bits(tok.score))
		}
	}
	switch {
	case t.bpe != nil:
		c.str(t.bpe.kind.id)
		c.u32(uint32(len(t.merges)))
		for _, m := range t.merges {
			c.str(m)
		}
	case t.wpm != nil:
		c.flags(t.wpm.lower, t.wpm.strip)
	}
}

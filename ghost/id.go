package ghost

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// ID is the identity of a model: a hash over the sections of its Ghost file.
type ID [32]byte

// Digest is a SHA-256 of something under a domain of its own: it is never the
// same as the digest of another kind of thing.
type Digest [32]byte

// String is the digest in hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// The domains, which stand before what is hashed.
const (
	domainModel   = "geist/model/1"
	domainNoModel = "geist/model/none/1"
	domainTokens  = "geist/tokens/1"
	domainRequest = "geist/request/1"
	domainSeed    = "geist/seed/1"
	domainDraw    = "geist/nonce/seed/1"
	domainAudit   = "geist/nonce/audit/1"
)

// digest is SHA-256(domain ‖ parts…). Parts have lengths that the domain
// fixes, but for the last.
func digest(domain string, parts ...[]byte) Digest {
	h := sha256.New()
	h.Write([]byte(domain))
	for _, p := range parts {
		h.Write(p)
	}
	return Digest(h.Sum(nil))
}

// IDOf is the id of a Ghost file's bytes: what Encode gave or Decode accepts.
// Of other bytes it is the digest of a domain of its own, and no model's.
func IDOf(b []byte) ID {
	t, err := split(b)
	if err != nil {
		return ID(digest(domainNoModel, b))
	}
	return t.id()
}

// ID is the model's identity. m must be one that Encode accepts, such as one
// that Decode gave, else the program is wrong and it panics; who is not sure
// calls Encode and IDOf.
func (m *Model) ID() ID {
	b, err := Encode(m)
	if err != nil {
		panic("ghost: internal error: id of a model that has no encoding: " + err.Error())
	}
	return IDOf(b)
}

// Text form: Bech32m of BIP-350 with the prefix "ghost". Its checksum finds
// any four wrong characters and most others.
const (
	idPrefix    = "ghost"
	idAlphabet  = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
	idTextBytes = len(idPrefix) + 1 + 52 + 6
	bech32m     = 0x2bc830a3
)

// polymod is the remainder of BIP-173's BCH code after values of 5 bits.
func polymod(values []byte) uint32 {
	c := uint32(1)
	for _, v := range values {
		top := c >> 25
		c = c&0x1ffffff<<5 ^ uint32(v)
		for i, g := range [...]uint32{0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3} {
			if top>>i&1 != 0 {
				c ^= g
			}
		}
	}
	return c
}

// prefixValues is what the checksum covers before the data.
func prefixValues() []byte {
	var v []byte
	for _, r := range []byte(idPrefix) {
		v = append(v, r>>5)
	}
	v = append(v, 0)
	for _, r := range []byte(idPrefix) {
		v = append(v, r&31)
	}
	return v
}

// String is the text form: "ghost1" and 58 letters and digits.
func (id ID) String() string {
	values := prefixValues()
	acc, bits := uint32(0), 0
	for _, b := range id {
		acc, bits = acc<<8|uint32(b), bits+8
		for bits >= 5 {
			bits -= 5
			values = append(values, byte(acc>>bits&31))
		}
	}
	values = append(values, byte(acc<<(5-bits)&31)) // 256 = 51·5 + 1
	sum := polymod(append(values[:len(values):len(values)], 0, 0, 0, 0, 0, 0)) ^ bech32m
	for i := range 6 {
		values = append(values, byte(sum>>(5*(5-i))&31))
	}
	text := idPrefix + "1"
	for _, v := range values[2*len(idPrefix)+1:] {
		text += string(idAlphabet[v])
	}
	return text
}

// ParseID reads the text form, in lower case.
func ParseID(s string) (ID, error) {
	if len(s) != idTextBytes || s[:len(idPrefix)+1] != idPrefix+"1" {
		return ID{}, fmt.Errorf("model id %.80q: it is \"%s1\" and %d letters and digits", s, idPrefix, idTextBytes-len(idPrefix)-1)
	}
	values := prefixValues()
	for i := len(idPrefix) + 1; i < len(s); i++ {
		v := -1
		for j := range len(idAlphabet) {
			if idAlphabet[j] == s[i] {
				v = j
			}
		}
		if v < 0 {
			return ID{}, fmt.Errorf("model id %q: the character %q at %d is none of %s", s, s[i], i, idAlphabet)
		}
		values = append(values, byte(v))
	}
	if polymod(values) != bech32m {
		return ID{}, fmt.Errorf("model id %q: its checksum is wrong; a character was changed", s)
	}
	data := values[2*len(idPrefix)+1 : len(values)-6]
	var id ID
	acc, bits, n := uint32(0), 0, 0
	for _, v := range data {
		acc, bits = acc<<5|uint32(v), bits+5
		if bits >= 8 {
			bits -= 8
			id[n] = byte(acc >> bits)
			n++
		}
	}
	if acc&(1<<bits-1) != 0 {
		return ID{}, fmt.Errorf("model id %q: the bits after its end are not zero", s)
	}
	return id, nil
}

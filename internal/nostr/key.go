package nostr

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcutil/bech32"
	"github.com/tyler-smith/go-bip39"
	"golang.org/x/text/unicode/norm"

	"github.com/geistnet/geist/ghost"
)

// NewPhrase draws a phrase of BIP-39 with 12 or 24 words.
func NewPhrase(words int) (string, error) {
	if words != 12 && words != 24 {
		return "", fmt.Errorf("a phrase has 12 or 24 words, not %d", words)
	}
	entropy := make([]byte, words/3*4)
	rand.Read(entropy)
	return bip39.NewMnemonic(entropy)
}

// CleanPhrase checks the words and the checksum of a phrase, and returns it in
// lower case with single spaces.
func CleanPhrase(phrase string) (string, error) {
	words := strings.Fields(strings.ToLower(norm.NFKD.String(phrase)))
	if len(words) != 12 && len(words) != 24 {
		return "", fmt.Errorf("a phrase has 12 or 24 words, this has %d", len(words))
	}
	for i, w := range words {
		if _, ok := bip39.GetWordIndex(w); !ok {
			return "", fmt.Errorf("word %d of the phrase is not in the list of BIP-39", i+1)
		}
	}
	phrase = strings.Join(words, " ")
	if _, err := bip39.EntropyFromMnemonic(phrase); err != nil {
		return "", errors.New("the phrase's checksum is wrong: a word is another, or two changed places")
	}
	return phrase, nil
}

// FromPhrase derives the key of NIP-06, m/44'/1237'/0'/0/0, without a BIP-39
// passphrase.
func FromPhrase(phrase string) (ghost.Secret, error) {
	phrase, err := CleanPhrase(phrase)
	if err != nil {
		return ghost.Secret{}, err
	}
	const hard = 1 << 31
	return derive(bip39.NewSeed(phrase, ""), 44|hard, 1237|hard, 0|hard, 0, 0)
}

// derive walks a path of BIP-32 from the master key of a seed.
func derive(seed []byte, path ...uint32) (ghost.Secret, error) {
	mac := func(key []byte, data ...[]byte) (left [32]byte, right []byte) {
		h := hmac.New(sha512.New, key)
		for _, d := range data {
			h.Write(d)
		}
		sum := h.Sum(nil)
		return [32]byte(sum[:32]), sum[32:]
	}
	secret, chain := mac([]byte("Bitcoin seed"), seed)
	for _, i := range path {
		key, _ := btcec.PrivKeyFromBytes(secret[:])
		from := append([]byte{0}, secret[:]...)
		if i < 1<<31 {
			from = key.PubKey().SerializeCompressed()
		}
		var tweak [32]byte
		tweak, chain = mac(chain, from, binary.BigEndian.AppendUint32(nil, i))
		var n btcec.ModNScalar
		if n.SetBytes(&tweak) != 0 || n.Add(&key.Key).IsZero() {
			return ghost.Secret{}, fmt.Errorf("the phrase has no key at index %d; take another phrase", i)
		}
		secret = n.Bytes()
	}
	s := ghost.Secret(secret)
	_, err := s.Public()
	return s, err
}

// PublicText is a key as NIP-19 writes it: npub1….
func PublicText(k ghost.Key) string { return bech("npub", k[:]) }

// SecretText is a secret key as NIP-19 writes it: nsec1…. It is for the owner's eyes.
func SecretText(s ghost.Secret) string { return bech("nsec", s[:]) }

// ParsePublic reads npub1… or 64 hexadecimal digits.
func ParsePublic(s string) (ghost.Key, error) {
	var k ghost.Key
	var err error
	if strings.HasPrefix(s, "npub1") {
		var b []byte
		if b, err = unbech("npub", s, len(k)); err == nil {
			k = ghost.Key(b)
		}
	} else {
		err = unhex(k[:], s)
	}
	if err != nil {
		return k, fmt.Errorf("key %.80q is neither npub1… nor hexadecimal: %w", s, err)
	}
	return k, nil
}

// ParseSecret reads nsec1… or 64 hexadecimal digits. Errors do not repeat the text.
func ParseSecret(text string) (ghost.Secret, error) {
	var s ghost.Secret
	var err error
	if strings.HasPrefix(text, "nsec1") {
		var b []byte
		if b, err = unbech("nsec", text, len(s)); err == nil {
			s = ghost.Secret(b)
		}
	} else {
		err = unhex(s[:], text)
	}
	if err == nil {
		_, err = s.Public()
	}
	if err != nil {
		return ghost.Secret{}, errors.New("this is no secret key: neither nsec1… nor 64 hexadecimal digits of one")
	}
	return s, nil
}

func bech(prefix string, b []byte) string {
	five, err := bech32.ConvertBits(b, 8, 5, true)
	if err != nil {
		panic("nostr: internal error: " + err.Error())
	}
	s, err := bech32.Encode(prefix, five)
	if err != nil {
		panic("nostr: internal error: " + err.Error())
	}
	return s
}

func unbech(prefix, s string, n int) ([]byte, error) {
	if len(s) > 512 {
		return nil, errors.New("too long")
	}
	p, five, err := bech32.DecodeNoLimit(s)
	if err != nil {
		return nil, errors.New("its checksum is wrong: a character was changed")
	}
	if p != prefix {
		return nil, fmt.Errorf("it does not begin with %s1", prefix)
	}
	b, err := bech32.ConvertBits(five, 5, 8, false)
	if err != nil {
		return nil, err
	}
	if len(b) != n {
		return nil, fmt.Errorf("it holds %d bytes, must be %d", len(b), n)
	}
	return b, nil
}

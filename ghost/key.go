package ghost

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/schnorr"
)

// Key is a public key as BIP-340 and Nostr write it: the x coordinate of a
// point of secp256k1.
type Key [32]byte

// String is the key in hexadecimal digits.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

// Secret is a secret key. It does not show itself when printed.
type Secret [32]byte

// String hides the secret.
func (Secret) String() string { return "(secret key)" }

// GoString hides the secret.
func (Secret) GoString() string { return "(secret key)" }

// groupOrder is the order of the group of secp256k1, big-endian.
const groupOrder = "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xba\xae\xdc\xe6\xaf\x48\xa0\x3b\xbf\xd2\x5e\x8c\xd0\x36\x41\x41"

func (s Secret) private() (*btcec.PrivateKey, error) {
	if s == (Secret{}) || string(s[:]) >= groupOrder {
		return nil, errors.New("a secret key must be between 1 and the order of the group")
	}
	k, _ := btcec.PrivKeyFromBytes(s[:])
	return k, nil
}

// Public is the key that belongs to the secret.
func (s Secret) Public() (Key, error) {
	k, err := s.private()
	if err != nil {
		return Key{}, err
	}
	return Key(schnorr.SerializePubKey(k.PubKey())), nil
}

// Sign is BIP-340 with auxiliary data of zeros: the nonce is a hash of secret,
// key and message, so no randomness can fail and equal messages have equal
// signatures. The library checks the result before it leaves. The message is a
// hash under a domain of its own kind, or a signature for one thing would stand
// for another.
func (s Secret) Sign(message Digest) ([64]byte, error) {
	k, err := s.private()
	if err != nil {
		return [64]byte{}, err
	}
	sig, err := schnorr.Sign(k, message[:], schnorr.CustomNonce([32]byte{}))
	if err != nil {
		return [64]byte{}, fmt.Errorf("sign: %w", err)
	}
	return [64]byte(sig.Serialize()), nil
}

// Verify is BIP-340's verification: nil if sig is k's signature of message.
func (k Key) Verify(message Digest, sig [64]byte) error {
	p, err := schnorr.ParsePubKey(k[:])
	if err != nil {
		return fmt.Errorf("key %v is no point of the curve: %w", k, err)
	}
	// The library takes s modulo the order; BIP-340 refuses s from there on.
	if string(sig[32:]) >= groupOrder {
		return errors.New("the signature's s is not below the order of the group")
	}
	s, err := schnorr.ParseSignature(sig[:])
	if err != nil {
		return err
	}
	if !s.Verify(message[:], p) {
		return fmt.Errorf("the signature is not by key %v, or not of this", k)
	}
	return nil
}

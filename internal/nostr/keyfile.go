package nostr

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/scrypt"
	"golang.org/x/text/unicode/norm"

	"github.com/geistnet/geist/ghost"
)

// ErrPassphrase means that the key is encrypted and the passphrase is missing
// or wrong: ask for it.
var ErrPassphrase = errors.New("the key is encrypted, and the passphrase is missing or wrong")

// A KeyFile is a node's key as it lies on disk. It shows its public parts
// only; Secret and Phrase open the rest.
//
// The file is one JSON object {"version":1, "pubkey", "secret", "phrase"}: pubkey
// in hex; secret nsec1… or, with a passphrase, ncryptsec1… of NIP-49; phrase the words
// of BIP-39, or base64 of their encryption. It has no phrase if the key was given as
// a secret. A file of 64 hexadecimal digits and a newline is read as well.
type KeyFile struct {
	Path      string
	Public    ghost.Key
	Encrypted bool
	HasPhrase bool

	secret, phrase string
}

type keyJSON struct {
	Version int    `json:"version"`
	PubKey  string `json:"pubkey"`
	Secret  string `json:"secret"`
	Phrase  string `json:"phrase,omitempty"`
}

const maxKeyFile = 4096 // bytes

// LoadKey reads a key file. It refuses one that others may read. The error wraps
// fs.ErrNotExist if there is none.
func LoadKey(path string) (*KeyFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxKeyFile {
		return nil, fmt.Errorf("%s is no key file: %d bytes, at most %d", path, info.Size(), maxKeyFile)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("others may read the secret key %s; give \"chmod 600 %s\" if nobody has", path, path)
	}
	b := make([]byte, info.Size())
	if _, err := f.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	k, err := decodeKey(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	k.Path = path
	return k, nil
}

func decodeKey(b []byte) (*KeyFile, error) {
	text := strings.TrimSpace(string(b))
	if !strings.HasPrefix(text, "{") {
		s, err := ParseSecret(text)
		if err != nil {
			return nil, err
		}
		return plainKey(s, "")
	}
	var j keyJSON
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		return nil, errors.New("this is no key file") // the cause may repeat a secret
	}
	if j.Version != 1 {
		return nil, fmt.Errorf("key file of version %d, want 1", j.Version)
	}
	k := &KeyFile{Encrypted: strings.HasPrefix(j.Secret, "ncryptsec1"), HasPhrase: j.Phrase != "", secret: j.Secret, phrase: j.Phrase}
	if err := unhex(k.Public[:], j.PubKey); err != nil {
		return nil, fmt.Errorf("pubkey: %w", err)
	}
	if k.Encrypted {
		return k, nil
	}
	_, err := k.Secret("")
	return k, err
}

func plainKey(s ghost.Secret, phrase string) (*KeyFile, error) {
	p, err := s.Public()
	return &KeyFile{Public: p, HasPhrase: phrase != "", secret: SecretText(s), phrase: phrase}, err
}

// Secret is the secret key. The passphrase of a key without one is not looked at.
func (k *KeyFile) Secret(passphrase string) (ghost.Secret, error) {
	var s ghost.Secret
	var err error
	if k.Encrypted {
		s, err = DecryptSecret(k.secret, passphrase)
	} else {
		s, err = ParseSecret(k.secret)
	}
	if err != nil {
		return ghost.Secret{}, err
	}
	if p, err := s.Public(); err != nil || p != k.Public {
		return ghost.Secret{}, errors.New("the key file's secret and public key do not belong together")
	}
	return s, nil
}

// Phrase is the words that the key comes from.
func (k *KeyFile) Phrase(passphrase string) (string, error) {
	switch {
	case !k.HasPhrase:
		return "", errors.New("this key has no phrase: it was given as a secret key, or made before there were phrases; \"geist key export\" saves it")
	case !k.Encrypted:
		return CleanPhrase(k.phrase)
	}
	b, err := base64.StdEncoding.DecodeString(k.phrase)
	if err != nil {
		return "", errors.New("the key file's phrase is no base64")
	}
	plain, err := open(b, passphrase)
	if err != nil {
		return "", err
	}
	return CleanPhrase(string(plain))
}

// A NewKey is what a key file is made of: a phrase, or else a secret, and the
// passphrase that encrypts it, or "".
type NewKey struct {
	Phrase     string
	Secret     ghost.Secret // where Phrase is empty
	Passphrase string
}

// Write makes the key file at path. An existing one is replaced at once, or,
// without replace, left alone and the error wraps fs.ErrExist.
func (n NewKey) Write(path string, replace bool) (*KeyFile, error) {
	s, phrase := n.Secret, ""
	var err error
	if n.Phrase != "" {
		if phrase, err = CleanPhrase(n.Phrase); err != nil {
			return nil, err
		}
		if s, err = FromPhrase(phrase); err != nil {
			return nil, err
		}
	}
	k, err := plainKey(s, phrase)
	if err != nil {
		return nil, err
	}
	k.Path = path
	if n.Passphrase != "" {
		k.Encrypted = true
		if k.secret, err = EncryptSecret(s, n.Passphrase); err != nil {
			return nil, err
		}
		if phrase != "" {
			b, err := seal([]byte(phrase), n.Passphrase, scryptLogN)
			if err != nil {
				return nil, err
			}
			k.phrase = base64.StdEncoding.EncodeToString(b)
		}
	}
	b, err := json.MarshalIndent(keyJSON{1, hex.EncodeToString(k.Public[:]), k.secret, k.phrase}, "", "  ")
	if err != nil {
		return nil, err
	}
	return k, writeKey(path, append(b, '\n'), replace)
}

// writeKey writes beside path and then gives the file its name, so that no
// half of a key is ever seen.
func writeKey(path string, b []byte, replace bool) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".key-*") // with mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if replace {
		err = os.Rename(f.Name(), path)
	} else {
		err = os.Link(f.Name(), path) // refuses to replace
	}
	if err != nil {
		return err
	}
	if d, err := os.Open(dir); err == nil { // the name itself; not every file system can
		d.Sync()
		d.Close()
	}
	return nil
}

// OpenKey is the secret key at path; if there is none, one with a phrase of 12
// words is made, encrypted if there is a passphrase. Of two processes that make one
// at once, both get the first.
func OpenKey(path, passphrase string) (ghost.Secret, error) {
	k, err := LoadKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		phrase, err := NewPhrase(12)
		if err != nil {
			return ghost.Secret{}, err
		}
		k, err = NewKey{Phrase: phrase, Passphrase: passphrase}.Write(path, false)
		if errors.Is(err, fs.ErrExist) {
			k, err = LoadKey(path)
		}
		if err != nil {
			return ghost.Secret{}, err
		}
		return k.Secret(passphrase)
	}
	if err != nil {
		return ghost.Secret{}, err
	}
	return k.Secret(passphrase)
}

const (
	scryptLogN    = 16 // 64 MiB, a tenth of a second
	maxScryptLogN = 20 // what a file may demand: 1 GiB
	saltBytes     = 16
	sealedAt      = 2 + saltBytes + chacha20poly1305.NonceSizeX + 1
	handled       = 2 // NIP-49: the client does not track how the key was handled
)

// EncryptSecret writes a secret key as NIP-49 does: ncryptsec1….
func EncryptSecret(s ghost.Secret, passphrase string) (string, error) {
	b, err := seal(s[:], passphrase, scryptLogN)
	if err != nil {
		return "", err
	}
	return bech("ncryptsec", b), nil
}

// DecryptSecret reads ncryptsec1…. The error is ErrPassphrase if it is well formed.
func DecryptSecret(text, passphrase string) (ghost.Secret, error) {
	b, err := unbech("ncryptsec", text, sealedAt+32+chacha20poly1305.Overhead)
	if err != nil {
		return ghost.Secret{}, fmt.Errorf("encrypted key: %w", err)
	}
	plain, err := open(b, passphrase)
	if err != nil {
		return ghost.Secret{}, err
	}
	s := ghost.Secret(plain)
	_, err = s.Public()
	return s, err
}

// seal is the layout of NIP-49 for any plain text: version 2, log n, salt,
// nonce, handling, XChaCha20-Poly1305.
func seal(plain []byte, passphrase string, logN byte) ([]byte, error) {
	b := make([]byte, sealedAt, sealedAt+len(plain)+chacha20poly1305.Overhead)
	b[0], b[1], b[sealedAt-1] = 2, logN, handled
	rand.Read(b[2 : sealedAt-1])
	c, err := cipherOf(b, passphrase)
	if err != nil {
		return nil, err
	}
	return c.Seal(b, b[2+saltBytes:sealedAt-1], plain, b[sealedAt-1:sealedAt]), nil
}

func open(b []byte, passphrase string) ([]byte, error) {
	switch {
	case len(b) < sealedAt+chacha20poly1305.Overhead:
		return nil, fmt.Errorf("encrypted key of %d bytes, at least %d", len(b), sealedAt+chacha20poly1305.Overhead)
	case b[0] != 2:
		return nil, fmt.Errorf("encrypted key of version %d, want 2", b[0])
	case b[1] < 1 || b[1] > maxScryptLogN:
		return nil, fmt.Errorf("encrypted key demands 2^%d rounds of scrypt, must be 2^1 to 2^%d", b[1], maxScryptLogN)
	case passphrase == "":
		return nil, ErrPassphrase
	}
	c, err := cipherOf(b, passphrase)
	if err != nil {
		return nil, err
	}
	plain, err := c.Open(nil, b[2+saltBytes:sealedAt-1], b[sealedAt:], b[sealedAt-1:sealedAt])
	if err != nil {
		return nil, ErrPassphrase
	}
	return plain, nil
}

type aead interface {
	Seal(dst, nonce, plain, extra []byte) []byte
	Open(dst, nonce, sealed, extra []byte) ([]byte, error)
}

func cipherOf(b []byte, passphrase string) (aead, error) {
	key, err := scrypt.Key([]byte(norm.NFKC.String(passphrase)), b[2:2+saltBytes], 1<<b[1], 8, 1, chacha20poly1305.KeySize)
	if err != nil {
		return nil, fmt.Errorf("scrypt: %w", err)
	}
	return chacha20poly1305.NewX(key)
}

package nostr

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/geistnet/geist/ghost"
)

// The vectors of NIP-06.
var nip06 = []struct{ phrase, nsec, npub string }{
	{"leader monkey parrot ring guide accident before fence cannon height naive bean",
		"nsec10allq0gjx7fddtzef0ax00mdps9t2kmtrldkyjfs8l5xruwvh2dq0lhhkp", "npub1zutzeysacnf9rru6zqwmxd54mud0k44tst6l70ja5mhv8jjumytsd2x7nu"},
	{"what bleak badge arrange retreat wolf trade produce cricket blur garlic valid proud rude strong choose busy staff weather area salt hollow arm fade",
		"nsec1c9wh8xy5eqdzln7n5t0ctgxjcrdug73gp5yj0x03gntn67h83twssdfhel", "npub16sdj9zv4f8sl85e45vgq9n7nsgt5qphpvmf7vk8r5hhvmdjxx4es8rq74h"},
}

func TestNIP06(t *testing.T) {
	for _, v := range nip06 {
		s, err := FromPhrase("  " + strings.ToUpper(strings.ReplaceAll(v.phrase, " ", "  ")) + "\n")
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.Public()
		if err != nil || SecretText(s) != v.nsec || PublicText(p) != v.npub {
			t.Errorf("%s gives %s and %s, %v", v.phrase, SecretText(s), PublicText(p), err)
		}
	}
	for _, bad := range []string{
		"", "leader", strings.Replace(nip06[0].phrase, "bean", "leader", 1), strings.Replace(nip06[0].phrase, "bean", "beans", 1),
		nip06[0].phrase + " bean", strings.Repeat("zoo ", 12), "abandon " + nip06[1].phrase,
	} {
		_, err := FromPhrase(bad)
		if err == nil {
			t.Errorf("%q was taken", bad)
		}
		for _, w := range strings.Fields(bad) {
			if err != nil && strings.Contains(err.Error(), w) && len(w) > 3 && w != "word" {
				t.Errorf("the error repeats a word of the phrase: %v", err)
			}
		}
	}
}

func TestPhrases(t *testing.T) {
	for _, n := range []int{12, 24} {
		p, err := NewPhrase(n)
		if err != nil || len(strings.Fields(p)) != n {
			t.Errorf("%d words: %v", len(strings.Fields(p)), err)
		}
		if _, err := FromPhrase(p); err != nil {
			t.Error(err)
		}
	}
	if _, err := NewPhrase(15); err == nil {
		t.Error("a phrase of 15 words")
	}
}

// The vector of NIP-49.
func TestNIP49(t *testing.T) {
	const text = "ncryptsec1qgg9947rlpvqu76pj5ecreduf9jxhselq2nae2kghhvd5g7dgjtcxfqtd67p9m0w57lspw8gsq6yphnm8623nsl8xn9j4jdzz84zm3frztj3z7s35vpzmqf6ksu8r89qk5z2zxfmu5gv8th8wclt0h4p"
	s, err := DecryptSecret(text, "nostr")
	if err != nil || hex.EncodeToString(s[:]) != "3501454135014541350145413501453fefb02227e449e57cf4d3a3ce05378683" {
		t.Errorf("%x, %v", s[:], err)
	}
	for _, wrong := range []string{"", "Nostr"} {
		if _, err := DecryptSecret(text, wrong); !errors.Is(err, ErrPassphrase) {
			t.Errorf("passphrase %q: %v", wrong, err)
		}
	}
	if _, err := DecryptSecret(text[:40]+"q"+text[41:], "nostr"); err == nil || errors.Is(err, ErrPassphrase) {
		t.Errorf("a changed character: %v", err)
	}
	c, err := EncryptSecret(s, "Å\u1e9b\u0323") // the two forms of NIP-49's example are one
	if err != nil {
		t.Fatal(err)
	}
	if back, err := DecryptSecret(c, "\u212b\u1e69"); err != nil || back != s {
		t.Errorf("another form of the same passphrase: %v", err)
	}
}

// TestSealedDemands: a file cannot demand any amount of memory.
func TestSealedDemands(t *testing.T) {
	b, err := seal([]byte("x"), "p", 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []byte{0, 21, 63, 255} {
		c := append([]byte(nil), b...)
		c[1] = n
		if _, err := open(c, "p"); err == nil || !strings.Contains(err.Error(), "demands") {
			t.Errorf("2^%d rounds: %v", n, err)
		}
	}
	for i := range b {
		c := append([]byte(nil), b...)
		c[i] ^= 1
		if i == 1 {
			c[i] = 2
		}
		if _, err := open(c, "p"); err == nil {
			t.Errorf("byte %d changed, and it opens", i)
		}
	}
	for n := range len(b) {
		if _, err := open(b[:n], "p"); err == nil {
			t.Errorf("cut to %d bytes, and it opens", n)
		}
	}
}

func TestKeyFile(t *testing.T) {
	for _, pass := range []string{"", "a pass"} {
		path := filepath.Join(t.TempDir(), "new", "node.key")
		made, err := NewKey{Phrase: nip06[0].phrase, Passphrase: pass}.Write(path, false)
		if err != nil {
			t.Fatal(err)
		}
		k, err := LoadKey(path)
		if err != nil || k.Public != made.Public || !k.HasPhrase || k.Encrypted != (pass != "") {
			t.Fatalf("%+v, %v", k, err)
		}
		s, err := k.Secret(pass)
		if err != nil || SecretText(s) != nip06[0].nsec {
			t.Error(err)
		}
		if p, err := k.Phrase(pass); err != nil || p != nip06[0].phrase {
			t.Error(err)
		}
		if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v", info.Mode())
		}
		if _, err := (NewKey{Phrase: nip06[1].phrase}).Write(path, false); !errors.Is(err, fs.ErrExist) {
			t.Errorf("a key was overwritten: %v", err)
		}
		if again, err := OpenKey(path, pass); err != nil || again != s {
			t.Error(err)
		}
		b, _ := os.ReadFile(path)
		if pass != "" {
			for _, secret := range []string{"leader", nip06[0].nsec, hex.EncodeToString(s[:])} {
				if strings.Contains(string(b), secret) {
					t.Errorf("the encrypted file holds %q", secret)
				}
			}
			if _, err := k.Secret("wrong"); !errors.Is(err, ErrPassphrase) {
				t.Error(err)
			}
			if _, err := k.Phrase("wrong"); !errors.Is(err, ErrPassphrase) {
				t.Error(err)
			}
		}
		for _, verb := range []string{"%v", "%+v", "%s", "%q"} {
			if out := fmt.Sprintf(verb, s); strings.Contains(out, nip06[0].nsec[5:20]) {
				t.Errorf("%s prints the secret", verb)
			}
		}
		if j, err := json.Marshal(k); err != nil || strings.Contains(string(j), "leader") || strings.Contains(string(j), "nsec") {
			t.Errorf("JSON of a key file: %s", j)
		}
		os.Chmod(path, 0o640)
		if _, err := LoadKey(path); err == nil || !strings.Contains(err.Error(), "others may read") {
			t.Errorf("a key that others may read: %v", err)
		}
	}
}

// TestKeyFileOld: a key of 64 digits, as earlier versions wrote it.
func TestKeyFileOld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.key")
	s := ghost.Secret{31: 7}
	os.WriteFile(path, []byte(hex.EncodeToString(s[:])+"\n"), 0o600)
	got, err := OpenKey(path, "unused")
	if err != nil || got != s {
		t.Fatal(err)
	}
	k, _ := LoadKey(path)
	if _, err := k.Phrase(""); err == nil || k.HasPhrase {
		t.Error("it has a phrase")
	}
	// Replaced with a passphrase it stays the same key.
	if _, err := (NewKey{Secret: s, Passphrase: "p"}).Write(path, true); err != nil {
		t.Fatal(err)
	}
	if got, err := OpenKey(path, "p"); err != nil || got != s {
		t.Error(err)
	}
}

func TestKeyFileMade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.key")
	secrets := make(chan ghost.Secret)
	for range 8 {
		go func() {
			s, err := OpenKey(path, "")
			if err != nil {
				t.Error(err)
			}
			secrets <- s
		}()
	}
	first := <-secrets
	for range 7 {
		if s := <-secrets; s != first {
			t.Error("two processes have two keys")
		}
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".key-*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestKeyFileRefuses(t *testing.T) {
	good := fmt.Sprintf(`{"version":1,"pubkey":"%s","secret":"%s"}`, must(ParsePublic(nip06[0].npub)), nip06[0].nsec)
	if _, err := decodeKey([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		"", "x", strings.Repeat("0", 64), strings.Repeat("f", 64), "{}", "{", strings.Replace(good, "1", "2", 1),
		strings.Replace(good, `"pubkey":"17`, `"pubkey":"18`, 1), strings.Replace(good, "nsec10", "nsec11", 1), strings.Replace(good, "{", `{"more":1,`, 1),
		strings.Replace(good, nip06[0].nsec, nip06[1].nsec, 1),
	} {
		_, err := decodeKey([]byte(bad))
		if err == nil {
			t.Errorf("%.80q was taken", bad)
		} else if strings.Contains(err.Error(), nip06[0].nsec[10:30]) {
			t.Errorf("the error shows the secret: %v", err)
		}
	}
	if _, err := LoadKey(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func must(k ghost.Key, err error) ghost.Key {
	if err != nil {
		panic(err)
	}
	return k
}

func FuzzKeys(f *testing.F) {
	f.Add(nip06[0].npub)
	f.Add(nip06[0].nsec)
	f.Add(`{"version":1,"pubkey":"","secret":"ncryptsec1"}`)
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := ParsePublic(s); err == nil {
			if back, err := ParsePublic(PublicText(k)); err != nil || back != k {
				t.Error(err)
			}
		}
		if k, err := ParseSecret(s); err == nil {
			if back, err := ParseSecret(SecretText(k)); err != nil || back != k {
				t.Error(err)
			}
		}
		decodeKey([]byte(s))
		CleanPhrase(s)
	})
}

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/nostr"
)

// Key is the key of this node: who it is in receipts, asks and on relays.
func (v verbs) Key() *cobra.Command {
	c := group("key", "Show, make, restore and protect the key of this node",
		v.keyShow(), v.keyNew(), v.keyRestore(), v.keyExport(), v.keyPasswd())
	c.Long = `The key says who this node is: it signs receipts, asks and balances. It comes from
a phrase of 12 or 24 words (BIP-39), which restores it on another machine, and lies
in node.key beside the models, readable by you only. "geist key passwd" encrypts it;
then ` + passphraseVar + ` must hold the passphrase wherever the key is used.`
	return c
}

// keyReport is what is said of a key. Secret and Phrase only where they were asked for.
type keyReport struct {
	PubKey    string `json:"pubkey"`
	Npub      string `json:"npub"`
	File      string `json:"file"`
	Encrypted bool   `json:"encrypted"`
	HasPhrase bool   `json:"has_phrase"`
	Phrase    string `json:"phrase,omitempty"`
	Secret    string `json:"secret,omitempty"`
}

func reportKey(k *nostr.KeyFile) keyReport {
	return keyReport{PubKey: k.Public.String(), Npub: nostr.PublicText(k.Public), File: k.Path, Encrypted: k.Encrypted, HasPhrase: k.HasPhrase}
}

func (r keyReport) print(out console.Out, asJSON bool) error {
	if asJSON {
		return out.JSON(r)
	}
	say := func(b bool) string {
		if b {
			return "yes"
		}
		return "no"
	}
	rows := [][]string{{"npub", r.Npub}, {"hex", r.PubKey}, {"file", r.File}, {"encrypted", say(r.Encrypted)}, {"phrase", say(r.HasPhrase)}}
	if r.Phrase != "" {
		rows[4][1] = r.Phrase
	}
	if r.Secret != "" {
		rows = append(rows, []string{"secret", r.Secret})
	}
	return out.Table(nil, rows)
}

// key reads the key file of this node.
func (e *env) key() (*nostr.KeyFile, error) {
	path, err := e.keyPath()
	if err != nil {
		return nil, err
	}
	k, err := nostr.LoadKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New(`this node has no key yet; "geist key new" makes one, and so does the first receipt`)
	}
	return k, err
}

func (v verbs) keyShow() *cobra.Command {
	c := &cobra.Command{Use: "show", Short: "Show the public key", Args: cobra.NoArgs}
	phrase := c.Flags().Bool("phrase", false, "show the phrase too: whoever reads it has the key")
	asJSON := jsonFlag(c)
	c.RunE = func(*cobra.Command, []string) error {
		k, err := v.key()
		if err != nil {
			return err
		}
		r := reportKey(k)
		if *phrase {
			if r.Phrase, err = k.Phrase(v.getenv(passphraseVar)); err != nil {
				return hintKey(err)
			}
		}
		return r.print(v.out, *asJSON)
	}
	return c
}

func (v verbs) keyNew() *cobra.Command {
	c := &cobra.Command{
		Use:   "new",
		Short: "Make a key from a new phrase",
		Long: `Make a key from a new phrase and write it to node.key, encrypted if ` + passphraseVar + `
holds a passphrase. A key that is there is not replaced. The phrase is shown by
"geist key show --phrase".`,
		Args: cobra.NoArgs,
	}
	words := c.Flags().Int("words", 12, "12 or 24")
	asJSON := jsonFlag(c)
	c.RunE = func(*cobra.Command, []string) error {
		phrase, err := nostr.NewPhrase(*words)
		if err != nil {
			return fmt.Errorf("%w: %w", errUsage, err)
		}
		return v.writeKey(nostr.NewKey{Phrase: phrase, Passphrase: v.getenv(passphraseVar)}, *asJSON)
	}
	return c
}

// writeKey makes a node's first key.
func (e *env) writeKey(n nostr.NewKey, asJSON bool) error {
	path, err := e.keyPath()
	if err != nil {
		return err
	}
	k, err := n.Write(path, false)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("this node has a key already, in %s; save it by \"geist key export\", and move the file away to have another", path)
	}
	if err != nil {
		return err
	}
	return reportKey(k).print(e.out, asJSON)
}

// maxSecret is the bytes of standard input that hold a phrase or a key.
const maxSecret = 4096

func (v verbs) keyRestore() *cobra.Command {
	c := &cobra.Command{
		Use:   "restore",
		Short: "Make the key from a phrase or a secret key on standard input",
		Long: `Read a phrase of 12 or 24 words, a secret key (nsec1… or hexadecimal), or an
encrypted one (ncryptsec1…, with its passphrase in ` + passphraseVar + `) from standard
input, so that it is in no history of commands, and write it to node.key. A key
that is there is not replaced.`,
		Args: cobra.NoArgs,
	}
	asJSON := jsonFlag(c)
	c.RunE = func(*cobra.Command, []string) error {
		if v.err.Terminal {
			fmt.Fprintln(v.err.W, "the phrase or the secret key, on one line:")
		}
		n, err := readSecret(v.stdin, v.getenv(passphraseVar))
		if err != nil {
			return hintKey(err)
		}
		return v.writeKey(n, *asJSON)
	}
	return c
}

func readSecret(r io.Reader, passphrase string) (n nostr.NewKey, err error) {
	var text []byte
	for b := [1]byte{}; len(text) <= maxSecret; text = append(text, b[0]) {
		if _, err := io.ReadFull(r, b[:]); err == io.EOF || err == nil && b[0] == '\n' && len(text) > 0 {
			break
		} else if err != nil {
			return n, fmt.Errorf("read standard input: %w", err)
		}
	}
	if len(text) > maxSecret {
		return n, fmt.Errorf("more than %d bytes are no phrase and no key", maxSecret)
	}
	s := strings.TrimSpace(string(text))
	n.Passphrase = passphrase
	switch {
	case strings.HasPrefix(s, "ncryptsec1"):
		n.Secret, err = nostr.DecryptSecret(s, passphrase)
	case strings.Contains(s, " "):
		n.Phrase, err = nostr.CleanPhrase(s)
	default:
		n.Secret, err = nostr.ParseSecret(s)
	}
	return n, err
}

func (v verbs) keyExport() *cobra.Command {
	c := &cobra.Command{
		Use:   "export",
		Short: "Write the secret key to standard output",
		Long: `Write the secret key to standard output, for a backup or another program: nsec1…,
or ncryptsec1… (NIP-49) if ` + passphraseVar + ` holds a passphrase. An encrypted key
leaves encrypted unless --plain is given.`,
		Args: cobra.NoArgs,
	}
	plain := c.Flags().Bool("plain", false, "not encrypted: whoever reads it has the key")
	asJSON := jsonFlag(c)
	c.RunE = func(*cobra.Command, []string) error {
		k, err := v.key()
		if err != nil {
			return err
		}
		pass := v.getenv(passphraseVar)
		s, err := k.Secret(pass)
		if err != nil {
			return hintKey(err)
		}
		r := reportKey(k)
		switch {
		case *plain || pass == "":
			r.Secret = nostr.SecretText(s)
		default:
			if r.Secret, err = nostr.EncryptSecret(s, pass); err != nil {
				return err
			}
		}
		if *asJSON {
			return v.out.JSON(r)
		}
		_, err = fmt.Fprintln(v.out.W, r.Secret)
		return err
	}
	return c
}

func (v verbs) keyPasswd() *cobra.Command {
	c := &cobra.Command{
		Use:   "passwd",
		Short: "Set, change or remove the passphrase of the key",
		Long: `Encrypt node.key by a new passphrase, the first line of the file given with --new
("-": standard input). ` + passphraseVar + ` holds the one that it has now. An empty first line
removes it.`,
		Args: cobra.NoArgs,
	}
	file := c.Flags().String("new", "-", "`file` with the new passphrase")
	asJSON := jsonFlag(c)
	c.RunE = func(*cobra.Command, []string) error {
		k, err := v.key()
		if err != nil {
			return err
		}
		old := v.getenv(passphraseVar)
		n := nostr.NewKey{}
		if n.Secret, err = k.Secret(old); err != nil {
			return hintKey(err)
		}
		if k.HasPhrase {
			if n.Phrase, err = k.Phrase(old); err != nil {
				return hintKey(err)
			}
		}
		if n.Passphrase, err = v.firstLine(*file); err != nil {
			return err
		}
		if k, err = n.Write(k.Path, true); err != nil {
			return err
		}
		return reportKey(k).print(v.out, *asJSON)
	}
	return c
}

// firstLine is the first line of a file, or of standard input.
func (e *env) firstLine(file string) (string, error) {
	r := e.stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", err
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, maxSecret+1))
	if err != nil {
		return "", fmt.Errorf("read the passphrase: %w", err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	if line = strings.TrimSuffix(line, "\r"); len(line) > maxSecret {
		return "", fmt.Errorf("a passphrase has at most %d bytes", maxSecret)
	}
	return line, nil
}

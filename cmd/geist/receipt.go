package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/author"
	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/engine"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/local"
	"github.com/geistnet/geist/internal/nostr"
	"github.com/geistnet/geist/internal/store"
	"github.com/geistnet/geist/internal/tales"
)

// keyFile is the secret key of this node, beside the directory of the store.
const keyFile = "node.key"

// passphraseVar holds the passphrase of the key, if it is encrypted.
const passphraseVar = "GEIST_PASSPHRASE"

// keyPath is where the secret key of this node lies.
func (e *env) keyPath() (string, error) {
	s, err := e.store()
	if err != nil {
		return "", err
	}
	return filepath.Join(filepath.Dir(s.Dir()), keyFile), nil
}

// nodeKey is the secret key of this node, made when it is first asked for. It is
// never printed.
func (e *env) nodeKey() (ghost.Secret, error) {
	path, err := e.keyPath()
	if err != nil {
		return ghost.Secret{}, err
	}
	k, err := nostr.OpenKey(path, e.getenv(passphraseVar))
	return k, hintKey(err)
}

// hintKey adds to an error about the key what a person can do about it.
func hintKey(err error) error {
	if errors.Is(err, nostr.ErrPassphrase) {
		return fmt.Errorf("%w; set %s", err, passphraseVar)
	}
	return err
}

// likeRun reports a file that does not even begin as a run file does.
func likeRun(path string, b []byte) error {
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")) {
		return nil
	}
	return fmt.Errorf("%s is no run file; \"geist run MODEL PROMPT --receipt FILE\" writes one", path)
}

// parseRun reads a run file. Something else is called what it is not.
func parseRun(path string, b []byte) (*audit.RunFile, error) {
	if err := likeRun(path, b); err != nil {
		return nil, err
	}
	f, err := audit.ParseRunFile(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// ghostOf is the Ghost file of an open model: the one that was made before, or
// a new one, which it keeps.
func (e *env) ghostOf(ctx context.Context, f *gguf.File, stored *store.Model, long bool) (*ghost.Model, error) {
	if isBuiltIn(stored) {
		return author.Build(ctx, f, author.Options{Long: long}, nil) // takes a moment only
	}
	path, err := e.ghostPath(f.Path, stored, long)
	if err != nil {
		return nil, err
	}
	if b, err := os.ReadFile(path); err == nil && !older(path, f.Path) {
		if m, err := ghost.Decode(b); err == nil {
			return m, nil
		}
	}
	p := e.progress()
	defer p.End()
	m, err := author.Build(ctx, f, author.Options{Long: long}, func(done, total int64) { p.Update("hash", done, total) })
	if err != nil {
		return nil, err
	}
	b, err := ghost.Encode(m)
	if err != nil {
		return nil, err
	}
	if err := replaceable(path); err != nil {
		return nil, err
	}
	// A directory that cannot be written to costs time only.
	if err := replace(path, b, 0o644); err != nil && !errors.Is(err, fs.ErrPermission) {
		return nil, err
	}
	return m, nil
}

// builtInGhost is the Ghost file of the built-in model.
func (e *env) builtInGhost(ctx context.Context) ([]byte, error) {
	f, err := tales.Open()
	if err != nil {
		return nil, err
	}
	m, err := e.ghostOf(ctx, f, builtInModel(), false)
	if err != nil {
		return nil, err
	}
	return ghost.Encode(m)
}

// older tells whether file was changed before what it is made of.
func older(file, of string) bool {
	a, err := os.Stat(file)
	b, err2 := os.Stat(of)
	return err != nil || err2 != nil || a.ModTime().Before(b.ModTime())
}

// seal is what "geist run --receipt" adds to a run: this machine is provider and
// asker in one.
type seal struct {
	model *ghost.Model
	key   ghost.Secret
	file  audit.RunFile
}

// prepareSeal does before the model is loaded what may go wrong.
func (r *run) prepareSeal(ctx context.Context, o local.Options) (*seal, error) {
	if err := vacant(r.f.receipt); err != nil {
		return nil, err
	}
	long, err := local.Long(r.file, o)
	if err != nil {
		return nil, err
	}
	s := &seal{}
	if s.model, err = r.ghostOf(ctx, r.file, r.stored, long); err != nil {
		return nil, err
	}
	if s.key, err = r.nodeKey(); err != nil {
		return nil, err
	}
	s.file.Size = audit.Standard
	return s, nil
}

// vacant reports a path where a receipt cannot be written without the loss of a
// file, or without a new directory. A receipt cannot be made again.
func vacant(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s is there already; give another path with --receipt", path)
	}
	info, err := os.Stat(filepath.Dir(path))
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is no directory", filepath.Dir(path))
	}
	return err
}

// sealed makes the request that a receipt can be signed for out of one of the
// engine: its seed follows from the nonce, which is --seed, or drawn.
func (r *run) sealed(q *engine.Request) error {
	f := &r.seal.file
	f.SeedNonce = r.seed
	rand.Read(f.AuditNonce[:])
	f.Request = &ghost.Request{
		// Of the nonce, so that --seed decides the answer.
		Salt:      sha256.Sum256(append([]byte("geist/run/salt/1"), r.seed[:]...)),
		Prompt:    q.Prompt,
		Sampling:  r.sampling([32]byte{}),
		MaxTokens: q.MaxTokens,
		Stop:      r.f.stop,
	}
	// An answer that ends by its length has as many tokens as the request says.
	if room := max(1, r.model.Engine.Context()-len(q.Prompt)); q.MaxTokens == 0 || q.MaxTokens > room {
		f.Request.MaxTokens = room
	}
	switch {
	case r.f.jsonObject:
		f.Request.Grammar = sha256.Sum256([]byte("json-object"))
	case r.f.schema != "":
		b, err := os.ReadFile(r.f.schema)
		if err != nil {
			return err
		}
		f.Request.Grammar = sha256.Sum256(b)
	}
	if err := f.Request.Check(); err != nil {
		return err
	}
	q.Sampling.Seed = ghost.Seed(f.SeedNonce, f.Request.Hash(), r.seal.model.ID())
	return nil
}

// sign signs a receipt for an answer and writes the run file.
func (r *run) sign(a *answered) error {
	f := &r.seal.file
	if len(a.result.Answer) == 0 {
		return errors.New("the answer has no token, so there is nothing to sign a receipt for")
	}
	k, err := r.seal.key.Public()
	if err != nil {
		return err
	}
	q := f.Request
	f.Answer, f.Outline = a.result.Answer, a.result.Outline
	f.Receipt = &ghost.Receipt{
		Time: r.now().Unix(), Model: r.seal.model.ID(), Arithmetic: arith.Version,
		Request: q.Hash(), Prompt: ghost.HashTokens(q.Salt, q.Prompt), Answer: ghost.HashTokens(q.Salt, f.Answer),
		Finish: ghost.Finish(a.result.Finish), SeedRule: ghost.SeedRule1,
		SeedNonce: ghost.CommitSeed(f.SeedNonce), AuditNonce: ghost.CommitAudit(f.AuditNonce),
		Trace: a.result.Trace, Client: k, Grade: ghost.GhostAudited,
	}
	if err := f.Receipt.Sign(r.seal.key); err != nil {
		return err
	}
	b, err := f.Encode()
	if err != nil {
		return err
	}
	if err := replace(r.f.receipt, b, 0o600); err != nil {
		return err
	}
	fmt.Fprintf(r.err.W, "receipt %s of %d tokens in %s\n", f.Receipt.ID(), len(f.Answer), console.Clean(r.f.receipt))
	return nil
}

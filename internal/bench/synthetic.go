package bench

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/geistnet/geist/internal/store"
	"github.com/geistnet/geist/internal/synth"
)

// CacheDir is where synthetic models lie for this user: "synth" in $GEIST_HOME
// if that is set, or else in "geist" in the XDG cache directory.
func CacheDir(getenv func(string) string) (string, error) {
	if home := getenv("GEIST_HOME"); home != "" {
		return filepath.Abs(filepath.Join(home, "synth"))
	}
	if cache := getenv("XDG_CACHE_HOME"); filepath.IsAbs(cache) {
		return filepath.Join(cache, "geist", "synth"), nil
	}
	for _, name := range []string{"HOME", "USERPROFILE"} {
		if home := getenv(name); home != "" {
			return filepath.Join(home, ".cache", "geist", "synth"), nil
		}
	}
	return "", errors.New("neither GEIST_HOME nor HOME is set; set GEIST_HOME to the directory that shall hold the models")
}

// Synthetic returns the path of a model with random weights of a preset and a
// type of package synth. dir is a model store of its own: a model that is there
// is read again and verified, a damaged one is made anew, and one that an
// earlier generator made is removed.
func Synthetic(ctx context.Context, dir, preset, kind string, progress store.ProgressFunc) (string, error) {
	spec, ok := synth.Presets[preset]
	if !ok {
		return "", fmt.Errorf("no synthetic model is called %q; there are: %s", preset, strings.Join(synth.PresetNames(), ", "))
	}
	spec.Type = strings.ToLower(kind)
	print, err := fingerprint(spec)
	if err != nil {
		return "", err
	}
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		return "", err
	}
	base := preset + "-" + spec.Type + "-"
	name := base + print
	m, err := s.Get(name)
	if err == nil {
		err = s.Verify(ctx, m, progress)
		if err == nil {
			return s.Path(m), nil
		}
	}
	if !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrBroken) {
		return "", err
	}
	if errors.Is(err, store.ErrBroken) {
		if _, err := s.Remove(ctx, name); err != nil {
			return "", err
		}
	}
	old, err := s.List()
	if err != nil {
		return "", err
	}
	for _, o := range old {
		if strings.HasPrefix(o.Name, base) {
			if _, err := s.Remove(ctx, o.Name); err != nil {
				return "", err
			}
		}
	}

	r, w := io.Pipe()
	made := make(chan struct{})
	go func() {
		defer close(made)
		w.CloseWithError(synth.Write(w, spec, nil))
	}()
	m, err = s.Add(ctx, store.FromReader(r, "synthetic "+preset+" "+spec.Type), name, progress)
	r.CloseWithError(errors.New("nobody reads the model any more"))
	<-made
	if err != nil {
		return "", fmt.Errorf("make a synthetic model: %w", err)
	}
	return s.Path(m), nil
}

// fingerprint changes with the model that spec describes and with how package
// synth makes models of its type.
func fingerprint(spec synth.Spec) (string, error) {
	small := synth.Presets["tiny"]
	small.Type = spec.Type
	var b bytes.Buffer
	if err := synth.Write(&b, small, nil); err != nil {
		return "", err
	}
	fmt.Fprintf(&b, "%+v", spec)
	sum := sha256.Sum256(b.Bytes())
	return hex.EncodeToString(sum[:4]), nil
}

package local

import "github.com/geistnet/geist/internal/gguf"

// Long tells whether a model opened with these options computes with the second
// set of rotary factors that some files have: that is another model, and has
// another Ghost file.
func Long(f *gguf.File, o Options) (bool, error) {
	_, opt, err := plan(f, &o)
	return opt.Long, err
}

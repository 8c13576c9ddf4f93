// Package tales has the built-in model: a small model that tells fairy tales,
// trained by this program (docs/training.md). Its file is part of the program,
// so that the program can answer, prove and trade without a download.
//
// The text that it was trained on is in the public domain. The file holds no
// more of it than a tokenizer's vocabulary and what the weights remember.
package tales

import (
	_ "embed"

	"github.com/geistnet/geist/internal/gguf"
)

// Name is what the model is called.
const Name = "tales"

//go:embed tales.gguf
var file string

// Size is the length of the model file in bytes.
func Size() int { return len(file) }

// Bytes is a copy of the model file.
func Bytes() []byte { return []byte(file) }

// Open reads the model. It needs no closing, and each call makes a copy.
func Open() (*gguf.File, error) { return gguf.Parse(Name+".gguf", Bytes()) }

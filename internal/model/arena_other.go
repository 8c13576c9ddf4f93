//go:build !(linux || darwin || freebsd)

package model

type arena struct{ mem []byte }

func newArena(size int) (*arena, error) { return &arena{make([]byte, size)}, nil }

func (a *arena) free() error { a.mem = nil; return nil }

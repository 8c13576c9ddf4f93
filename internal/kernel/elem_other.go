//go:build !amd64 || purego

package kernel

import "github.com/geistnet/geist/arith"

func sumSquares512([]float32) float32                          { panic(noAssembly) }
func scaleMul512(_, _, _ []float32, _ float32)                 { panic(noAssembly) }
func add512(_, _ []float32)                                    { panic(noAssembly) }
func gate512(Gate, []float32, []float32, []float32)            { panic(noAssembly) }
func scaleRound512([]float32, float32, arith.KV)               { panic(noAssembly) }
func rotate512([]float32, int, int, *Rotation, bool)           { panic(noAssembly) }
func toF16512([]uint16, []float32)                             { panic(noAssembly) }
func maxChunk512([]float32, uint64, float32) float32           { panic(noAssembly) }
func expChunk512([]float32, uint64, float32, arith.KV) float32 { panic(noAssembly) }

func scores512(arith.KV, []float32, []byte, []float32, int, int)       { panic(noAssembly) }
func mix512(arith.KV, []float32, int, []float32, []byte, int, int)     { panic(noAssembly) }
func quantise512([]float32, []int8, []float32, int, int, []int32) bool { panic(noAssembly) }

const noAssembly = "kernel: internal error: this build has no assembly"

//go:build (!amd64 && !arm64) || purego

package kernel

import "github.com/geistnet/geist/arith"

func (Path) vectors() bool { return false }

func (Path) sumSquaresAsm([]float32) float32                          { panic(noAssembly) }
func (Path) scaleMulAsm(_, _, _ []float32, _ float32)                 { panic(noAssembly) }
func (Path) addAsm(_, _ []float32)                                    { panic(noAssembly) }
func (Path) gateAsm(Gate, []float32, []float32, []float32)            { panic(noAssembly) }
func (Path) scaleRoundAsm([]float32, float32, arith.KV)               { panic(noAssembly) }
func (Path) rotateAsm([]float32, int, int, *Rotation, bool) bool      { panic(noAssembly) }
func (Path) toF16Asm([]uint16, []float32)                             { panic(noAssembly) }
func (Path) maxChunkAsm([]float32, uint64, float32) float32           { panic(noAssembly) }
func (Path) expChunkAsm([]float32, uint64, float32, arith.KV) float32 { panic(noAssembly) }

func (Path) scoresAsm(arith.KV, []float32, []byte, []float32, int, int, int)  { panic(noAssembly) }
func (Path) mixAsm(arith.KV, []float32, int, []float32, []byte, int, int)     { panic(noAssembly) }
func (Path) quantiseAsm([]float32, []int8, []float32, int, int, []int32) bool { panic(noAssembly) }

const noAssembly = "kernel: internal error: this build has no assembly"

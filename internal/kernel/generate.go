package kernel

//go:generate go -C _asm run . -set avx512 -out ../avx512_amd64.s -stubs ../avx512_amd64.go -pkg kernel
//go:generate go -C _asm run . -set avx2 -out ../avx2_amd64.s -stubs ../avx2_amd64.go -pkg kernel
//go:generate go -C _asm run . -set read -out ../read_amd64.s -stubs ../read_amd64.go -pkg kernel

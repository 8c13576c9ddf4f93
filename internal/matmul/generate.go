package matmul

//go:generate go -C _asm run . -out ../tile_amd64.s -stubs ../tile_amd64.go -pkg matmul

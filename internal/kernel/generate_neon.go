package kernel

//go:generate go -C _arm64asm run . -out ../neon_arm64.s -stubs ../neon_arm64.go

module github.com/geistnet/geist/internal/kernel/_arm64asm

go 1.26.0

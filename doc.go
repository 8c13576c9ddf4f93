// Package geist holds no code. Its test enforces the order of the layers that
// ARCHITECTURE.md describes.
package geist

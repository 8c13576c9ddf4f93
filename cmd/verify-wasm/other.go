//go:build !(js && wasm)

// Command verify-wasm is the verifier for web pages; it runs as WebAssembly
// only: GOOS=js GOARCH=wasm go build ./cmd/verify-wasm.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "verify-wasm is for web pages; build it with GOOS=js GOARCH=wasm")
	os.Exit(2)
}

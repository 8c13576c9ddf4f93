//go:build js && wasm

// Command verify-wasm is the verifier for web pages: package audit compiled to
// WebAssembly, with
//
//	geistVerify(runFile, ghostFile, proof)            → verdict as JSON
//	geistVerify(runFile, ghostFile, proof, n)         → the same with cell n pictured
//	geistVerify(runFile, ghostFile, proof, n, size)   → size {cells, tails, full} demanded
//	geistHashLeaf(bytes)                              → its hash in a tree, hex
//
// as functions of the global object. All bytes are Uint8Arrays; n below 0
// pictures nothing. The verdict is what "geist verify --json" says. Nothing
// leaves the page: no model, no network.
package main

import (
	"encoding/json"
	"fmt"
	"syscall/js"

	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/merkle"
)

func main() {
	js.Global().Set("geistVerify", js.FuncOf(func(_ js.Value, args []js.Value) any {
		return string(verdict(args))
	}))
	js.Global().Set("geistHashLeaf", js.FuncOf(func(_ js.Value, args []js.Value) any {
		if len(args) != 1 || !args[0].InstanceOf(js.Global().Get("Uint8Array")) {
			return ""
		}
		b := make([]byte, args[0].Get("length").Int())
		js.CopyBytesToGo(b, args[0])
		return merkle.HashLeaf(b).String()
	}))
	select {} // the functions live as long as the page
}

func verdict(args []js.Value) []byte {
	refuse := func(format string, a ...any) []byte {
		return (&audit.Verdict{Reason: fmt.Sprintf(format, a...)}).JSON()
	}
	if len(args) < 3 {
		return refuse("%d arguments; a run file, a Ghost file and a proof are needed", len(args))
	}
	var files [3][]byte
	array := js.Global().Get("Uint8Array")
	for i := range files {
		if !args[i].InstanceOf(array) {
			return refuse("argument %d is no Uint8Array", i)
		}
		files[i] = make([]byte, args[i].Get("length").Int())
		js.CopyBytesToGo(files[i], args[i])
	}
	var size *audit.Size
	if len(args) > 4 && args[4].Type() == js.TypeObject {
		s := args[4]
		for _, k := range []string{"cells", "tails", "full"} {
			if s.Get(k).Type() != js.TypeNumber {
				return refuse("the size has no number %q", k)
			}
		}
		size = &audit.Size{Cells: s.Get("cells").Int(), Tails: s.Get("tails").Int(), Full: s.Get("full").Int()}
	}
	v := audit.Judge(files[0], files[1], files[2], size)
	if !v.Accepted || len(args) < 4 || args[3].Type() != js.TypeNumber || args[3].Int() < 0 {
		return v.JSON()
	}
	x, err := audit.ExplainFiles(files[0], files[1], files[2], *v.Challenge, args[3].Int())
	if err != nil {
		return refuse("%v", err)
	}
	b, err := json.MarshalIndent(struct {
		*audit.Verdict
		Explanation *audit.Explanation `json:"explanation"`
	}{v, x}, "", "  ")
	if err != nil {
		return refuse("%v", err)
	}
	return append(b, '\n')
}

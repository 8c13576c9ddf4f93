// Package gateway answers the HTTP requests of OpenAI and Ollama clients.
//
// It reads a request of either API into a dialog.Question, hands that to a
// [Backend], and writes the answer in the shape that the client expects. It
// knows neither models nor markets nor money: whatever a Backend says about
// provider, price and proof is passed on in headers and in one object, "geist",
// that clients may ignore. docs/api.md lists every field, openapi.yaml is the
// contract that tests hold all responses against.
//
// The handler protects whoever runs it on a personal machine: a page on the
// web can neither read from it nor make it spend (see guard.go), bodies are
// bounded before they are decoded, a reader that does not read is cut off, and
// a client that goes away ends the computation it asked for.
package gateway

// Package engine serves many token streams from one model: a scheduler that
// decodes all running sessions together and feeds new prompts in chunks
// between, over a paged KV cache in which equal prefixes are shared.
//
// A session's tokens depend on its request alone: not on what runs beside it,
// on how its prompt was chunked, on pages found in the cache, or on having
// been set aside and resumed.
package engine

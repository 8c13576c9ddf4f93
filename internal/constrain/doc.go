// Package constrain keeps a language model's output inside a JSON schema.
//
// A schema is compiled to a recursive transition network over bytes: every
// subschema is a rule, a rule is a deterministic automaton whose edges are
// bytes or calls of other rules, and a frame of the stack is (state, counters).
// Ambiguity (anyOf) is a sorted set of configurations whose parents are again
// interned sets, so it grows with the number of states and never with the
// number of paths. States from which no value can be finished, within the
// nesting limit, are removed: a text that was allowed so far can always be
// completed (given a vocabulary that can spell every byte).
//
// The masks depend on the grammar and the vocabulary alone; nothing iterates
// over a map.
//
// # What is generated
//
// The grammar is sound: whatever it lets through is valid JSON and valid under
// the schema. Where JSON Schema leaves more freedom than a generator needs, it
// takes the tighter reading:
//
//   - Whitespace. Nothing before or after the value. After '{', '[' and ',' and
//     before '}' and ']': nothing, one space, or a newline with up to 40 spaces
//     or 40 tabs. After ':' nothing or one space.
//   - Properties come in the order of the schema, optional ones may be left
//     out, additional ones come last. An object schema that lists properties
//     and does not mention additionalProperties is closed.
//   - A schema without type, enum or const has the types its other keywords
//     speak of, and all types if there are none.
//   - Free strings use every JSON escape; surrogate escapes come in pairs. Keys,
//     enum values and strings with a pattern or format have one spelling: only
//     '"', '\' and control characters are escaped, the latter by their short
//     form or else as \u00xx in lower case.
//   - Integers have at most 18 digits and no fraction. Numbers have at most 18
//     digits before and 20 after the point, and an exponent of at most two digits
//     if the schema gives no bounds, none if it does.
//   - patterns are searched, not matched in full, as JSON Schema says, and use
//     the regular part of ECMA-262: no look-around, back references, \b.
//   - Values nest at most 512 frames deep.
//
// What it does not do: patternProperties, propertyNames, not, if, contains,
// uniqueItems, multipleOf, dependent*, unevaluated*, minProperties,
// maxProperties, references to other documents. Each is an error.
package constrain

package constrain

import (
	"fmt"
	"strings"
	"testing"
)

// Schemas made to take time or memory are refused or compiled, and what
// compiles can be walked.
func TestCostlySchemas(t *testing.T) {
	deep := func(open, mid, shut string, n int) string {
		return strings.Repeat(open, n) + mid + strings.Repeat(shut, n)
	}
	many := func(n int, f func(i int) string) string {
		var s []string
		for i := range n {
			s = append(s, f(i))
		}
		return strings.Join(s, ",")
	}
	pattern := func(p string) string { return fmt.Sprintf(`{"type":"string","pattern":%q}`, p) }
	v := byteVocab(fragments...)
	for name, schema := range map[string]string{
		"deep arrays":        deep(`{"type":"array","items":`, `{"type":"null"}`, `}`, 100),
		"too deep arrays":    deep(`{"type":"array","items":`, `true`, `}`, 100000),
		"deep anyOf":         deep(`{"anyOf":[`, `true`, `]}`, 60),
		"branching anyOf":    deep(`{"anyOf":[{"type":"null"},`, `true`, `]}`, 60),
		"branching allOf":    deep(`{"allOf":[{"anyOf":[{"minLength":1},{"maxLength":9}]},`, `true`, `]}`, 60),
		"allOf of anyOfs":    `{"allOf":[` + many(30, func(i int) string { return fmt.Sprintf(`{"anyOf":[{"minLength":%d},{"maxLength":%d}]}`, i, 100+i) }) + `]}`,
		"nested counts":      pattern(`^((((a{1,99}){1,99}){1,99}){1,99}){1,99}$`),
		"exponential states": pattern(`(a|b)*a(a|b){25}$`),
		"many optionals":     pattern(`^` + strings.Repeat(`a?`, 300) + strings.Repeat(`a`, 300) + `$`),
		"nested stars":       pattern(`^(((((a*)*)*)*)*)*$`),
		"nested groups":      pattern(strings.Repeat(`(`, 100000) + strings.Repeat(`)`, 100000)),
		"huge count":         pattern(`^a{0,2147483646}$`),
		"unicode classes":    pattern(`^[\u{0}-\u{10ffff}]{0,500}x$`),
		"long strings":       `{"type":"string","minLength":1000000000}`,
		"long arrays":        `{"type":"array","minItems":1000000000,"items":{"type":"null"}}`,
		"prefix items":       `{"type":"array","prefixItems":[` + many(20000, func(int) string { return `true` }) + `]}`,
		"many optional keys": `{"type":"object","properties":{` + many(1000, func(i int) string { return fmt.Sprintf(`"k%d":{"type":"null"}`, i) }) + `}}`,
		"too many keys":      `{"type":"object","properties":{` + many(30000, func(i int) string { return fmt.Sprintf(`"k%d":true`, i) }) + `}}`,
		"long enum":          `{"enum":[` + many(60000, func(i int) string { return fmt.Sprintf(`"value %d"`, i*7919) }) + `]}`,
		"reference to self":  `{"$ref":"#"}`,
		"circle":             `{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"anyOf":[{"$ref":"#/$defs/a"}]}}}`,
		"endless value":      `{"type":"object","required":["x"],"properties":{"x":{"$ref":"#"}}}`,
		"doubling": `{"$ref":"#/$defs/d30","$defs":{"d0":{"type":"null"},` + many(30, func(i int) string {
			return fmt.Sprintf(`"d%d":{"anyOf":[{"$ref":"#/$defs/d%d"},{"$ref":"#/$defs/d%d"}]}`, i+1, i, i)
		}) + `}}`,
		"doubling allOf": `{"$ref":"#/$defs/d30","$defs":{"d0":{"type":"null"},` + many(30, func(i int) string {
			return fmt.Sprintf(`"d%d":{"allOf":[{"$ref":"#/$defs/d%d"},{"$ref":"#/$defs/d%d"}]}`, i+1, i, i)
		}) + `}}`,
		"doubling oneOf": `{"$ref":"#/$defs/d30","$defs":{"d0":{"type":"null"},` + many(30, func(i int) string {
			return fmt.Sprintf(`"d%d":{"oneOf":[{"$ref":"#/$defs/d%d"},{"type":"string","const":"%d"}]}`, i+1, i, i)
		}) + `}}`,
		"doubling objects": `{"$ref":"#/$defs/d20","$defs":{"d0":{"type":"null"},` + many(20, func(i int) string {
			return fmt.Sprintf(`"d%d":{"type":"object","required":["a","b"],"properties":{"a":{"$ref":"#/$defs/d%d"},"b":{"$ref":"#/$defs/d%d"}}}`, i+1, i, i)
		}) + `}}`,
		"bounds":        `{"type":"number","minimum":1e-300,"maximum":1e300}`,
		"narrow bounds": `{"type":"number","minimum":0.1234567890123456789012,"maximum":0.1234567890123456789013}`,
		"ambiguous arrays": `{"anyOf":[` + many(200, func(i int) string {
			return fmt.Sprintf(`{"type":"array","items":{"type":"array","items":{"type":"integer","maximum":%d}}}`, i)
		}) + `]}`,
		"no reference":   `{"$ref":"#/$defs/` + strings.Repeat("~1", 10000) + `"}`,
		"big number":     `{"const":1e999999999}`,
		"long key":       `{"type":"object","properties":{"` + strings.Repeat("k", 900000) + `":true}}`,
		"long key twice": `{"` + strings.Repeat("k", 9000) + `":1,"` + strings.Repeat("k", 9000) + `":1}`,
		"invalid text":   "{\"const\":\"\xff\xfe\"}",
	} {
		t.Run(name, func(t *testing.T) {
			g, err := Compile([]byte(schema))
			if err != nil {
				if len(err.Error()) > 2000 {
					t.Errorf("a message of %d bytes: %.100s", len(err.Error()), err)
				}
				t.Logf("%.200s", err)
				return
			}
			s := g.NewState(v)
			mask := make([]uint64, v.Words())
			for i := range 300 {
				s.Allowed(mask)
				ids := bitsOf(mask)
				if len(ids) == 0 {
					t.Fatalf("nothing may follow after %d tokens", i)
				}
				id := ids[i*31%len(ids)]
				if err := s.Accept(id); err != nil {
					t.Fatal(err)
				}
				if v.isEnd(id) {
					break
				}
			}
		})
	}
}

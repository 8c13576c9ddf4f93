package constrain

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// sample is a random schema together with a way to make instances of it, in
// the spelling and property order that the package generates.
type sample struct {
	schema   string
	instance func(r *rand.Rand) string
}

// quote spells a string as JSON in the canonical way.
func quote(s string) string { return `"` + string(appendSpelled(nil, s)) + `"` }

func gap(r *rand.Rand) string {
	switch r.IntN(8) {
	case 0:
		return " "
	case 1:
		return "\n" + strings.Repeat(" ", r.IntN(maxIndent+1))
	case 2:
		return "\n" + strings.Repeat("\t", r.IntN(5))
	}
	return ""
}

func colonGap(r *rand.Rand) string { return ":" + strings.Repeat(" ", r.IntN(2)) }

var alphabet = []rune{'a', 'b', 'z', 'A', '0', '9', ' ', '"', '\\', '/', '\n', '\t', 0, 0x1f, 0x7f, 'é', 'ß', '中', 0x7ff, 0x800, 0xffff, 0xe000, 0xd7ff, '😀', 0x10ffff, '}', ']', ','}

func randomText(r *rand.Rand, least, most int) string {
	var b strings.Builder
	for range least + r.IntN(most-least+1) {
		b.WriteRune(alphabet[r.IntN(len(alphabet))])
	}
	return b.String()
}

// loosely spells a free string with whatever escapes JSON has.
func loosely(r *rand.Rand, s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		switch {
		case r.IntN(3) > 0:
			b.Write(spell(c))
		case c == '/':
			b.WriteString(`\/`)
		case c > 0xffff:
			c -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04X`, 0xd800+c>>10, 0xdc00+c&0x3ff)
		default:
			fmt.Fprintf(&b, []string{`\u%04x`, `\u%04X`}[r.IntN(2)], c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// sampler makes samples; defs collects the definitions of the document.
type sampler struct {
	r    *rand.Rand
	defs []string
}

// document returns a schema with its definitions.
func (g *sampler) document() sample {
	s := g.sample(3)
	if len(g.defs) > 0 && strings.HasPrefix(s.schema, "{") {
		s.schema = `{"$defs":{` + strings.Join(g.defs, ",") + `},"allOf":[` + s.schema + `]}`
	}
	return s
}

func (g *sampler) sample(depth int) sample {
	r := g.r
	n := 14
	if depth <= 0 {
		n = 8
	}
	switch r.IntN(n) {
	case 0:
		return pick(`{"type":"null"}`, "null")
	case 1:
		return pick(`{"type":"boolean","title":"x"}`, "true", "false")
	case 2:
		return g.integers()
	case 3:
		return g.numbers()
	case 4:
		least, most := r.IntN(3), 2+r.IntN(8)
		return sample{fmt.Sprintf(`{"type":"string","minLength":%d,"maxLength":%d}`, least, most),
			func(r *rand.Rand) string { return loosely(r, randomText(r, least, most)) }}
	case 5:
		return sample{`{"type":"string","description":"free"}`,
			func(r *rand.Rand) string { return loosely(r, randomText(r, 0, 12)) }}
	case 6:
		return g.patterns()
	case 7:
		return g.enums()
	case 8, 9, 10:
		return g.object(depth)
	case 11:
		return g.array(depth)
	case 12:
		return g.union(depth)
	}
	return g.recursive(depth)
}

func pick(schema string, texts ...string) sample {
	return sample{schema, func(r *rand.Rand) string { return texts[r.IntN(len(texts))] }}
}

func (g *sampler) integers() sample {
	r := g.r
	low := r.Int64N(1 << r.IntN(50))
	if r.IntN(2) == 0 {
		low = -low
	}
	high := low + r.Int64N(1<<r.IntN(40))
	switch r.IntN(4) {
	case 0:
		return sample{`{"type":"integer"}`, func(r *rand.Rand) string { return strconv.FormatInt(r.Int64N(2e9)-1e9, 10) }}
	case 1:
		return sample{fmt.Sprintf(`{"type":"integer","exclusiveMinimum":%d}`, low-1),
			func(r *rand.Rand) string { return strconv.FormatInt(low+r.Int64N(1e9), 10) }}
	case 2:
		return sample{fmt.Sprintf(`{"maximum":%d.5,"type":"integer"}`, max(high, 0)),
			func(r *rand.Rand) string { return strconv.FormatInt(max(high, 0)-r.Int64N(1e9), 10) }}
	}
	return sample{fmt.Sprintf(`{"type":"integer","minimum":%d,"exclusiveMaximum":%d}`, low, high+1),
		func(r *rand.Rand) string { return strconv.FormatInt(low+r.Int64N(high-low+1), 10) }}
}

// numbers bounds a number by decimals of two places.
func (g *sampler) numbers() sample {
	r := g.r
	if r.IntN(3) == 0 {
		return pick(`{"type":"number"}`, "0", "-0", "1.5", "-0.25e-3", "123456789012345678.5E+07", "7e9")
	}
	hundredths := func(n int64) string {
		sign := ""
		if n < 0 {
			sign, n = "-", -n
		}
		return fmt.Sprintf("%s%d.%02d", sign, n/100, n%100)
	}
	low := r.Int64N(1<<r.IntN(30)) - 1<<r.IntN(20)
	high := low + 2 + r.Int64N(1<<r.IntN(30))
	open := r.IntN(2)
	lowKey, highKey := [...]string{"minimum", "exclusiveMinimum"}[open], [...]string{"maximum", "exclusiveMaximum"}[open]
	return sample{fmt.Sprintf(`{"type":"number","%s":%s,"%s":%s}`, lowKey, hundredths(low), highKey, hundredths(high)),
		func(r *rand.Rand) string {
			x := low + int64(open) + r.Int64N(high-low-int64(2*open)+1)
			text := hundredths(x)
			if x < 0 && r.IntN(2) == 0 {
				return text + "00"
			}
			if x == 0 {
				return "0"
			}
			return text
		}}
}

func (g *sampler) patterns() sample {
	return []sample{
		pick(`{"type":"string","pattern":"^[a-z]{2,4}-[0-9]+$"}`, `"ab-1"`, `"abcd-123456"`),
		pick(`{"type":"string","pattern":"^(foo|bar\"|\\n)*$"}`, `""`, `"foobar\"\nfoo"`),
		pick(`{"type":"string","pattern":"b+"}`, `"b"`, `"aébbb😀\u0001"`),
		pick(`{"type":"string","pattern":"^[^a-y]","maxLength":3}`, `"z"`, `"é中"`, `"\\ab"`),
		pick(`{"type":"string","pattern":"^a|z$","minLength":2}`, `"ab"`, `"bz"`, `"ax\tz"`),
		pick(`{"type":"string","allOf":[{"pattern":"x"},{"pattern":"^.{3}$"}]}`, `"axb"`, `"xxx"`, `"\\x\""`),
		pick(`{"type":"string","format":"date"}`, `"2024-02-29"`, `"1999-12-31"`),
		pick(`{"type":"string","format":"date-time"}`, `"2024-02-29T23:59:59.5Z"`, `"2000-01-01T00:00:00+01:00"`),
		pick(`{"type":"string","format":"uuid"}`, `"123e4567-e89b-12d3-a456-426614174000"`),
		pick(`{"type":"string","format":"ipv4"}`, `"255.0.19.250"`),
		pick(`{"type":"string","format":"email"}`, `"a.b+c@example.org"`),
		pick(`{"type":"string","format":"uri"}`, `"https://example.org:80/a/b?q=1#x"`, `"mailto:a@b"`),
		pick(`{"type":"string","format":"time"}`, `"12:00:00Z"`),
		pick(`{"type":"string","format":"hostname"}`, `"a-b.example"`),
	}[g.r.IntN(14)]
}

func (g *sampler) enums() sample {
	all := []string{`"a"`, `"ab"`, `"abc"`, `"\"\\\n"`, `"é😀"`, `1`, `10`, `-1.50`, `true`, `null`, `{"a":[1,"x"],"b":{}}`, `[]`}
	g.r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if g.r.IntN(3) == 0 {
		return pick(`{"const":`+all[0]+`}`, all[0])
	}
	all = all[:1+g.r.IntN(len(all))]
	return pick(`{"enum":[`+strings.Join(all, ",")+`]}`, all...)
}

var propertyNames = []string{"a", "ab", "abc", "b", "name", "é", "x\"y", "na", "long property name", ""}

func (g *sampler) object(depth int) sample {
	r := g.r
	names := append([]string(nil), propertyNames...)
	r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	names = names[:r.IntN(6)]
	var props, required []string
	subs := make([]sample, len(names))
	needed := map[string]bool{}
	for i, name := range names {
		subs[i] = g.sample(depth - 1)
		key, _ := json.Marshal(name)
		props = append(props, string(key)+":"+subs[i].schema)
		if r.IntN(2) == 0 {
			needed[name] = true
			required = append(required, string(key))
		}
	}
	schema := `{"type":"object","properties":{` + strings.Join(props, ",") + `},"required":[` + strings.Join(required, ",") + `]`
	more := sample{schema: "false"}
	if r.IntN(3) == 0 {
		more = g.sample(depth - 2)
	}
	return sample{schema + `,"additionalProperties":` + more.schema + `}`, func(r *rand.Rand) string {
		var parts []string
		taken := map[string]bool{}
		for i, name := range names {
			taken[name] = true
			if needed[name] || r.IntN(2) == 0 {
				parts = append(parts, quote(name)+colonGap(r)+subs[i].instance(r))
			}
		}
		if more.instance != nil {
			for range r.IntN(3) {
				if key := randomText(r, 0, 3); !taken[key] {
					taken[key] = true
					parts = append(parts, quote(key)+colonGap(r)+more.instance(r))
				}
			}
		}
		return bracket(r, "{", parts, "}")
	}}
}

func bracket(r *rand.Rand, open string, parts []string, end string) string {
	out := open + gap(r)
	for i, p := range parts {
		if i > 0 {
			out += "," + gap(r)
		}
		out += p
	}
	if len(parts) > 0 {
		out += gap(r)
	}
	return out + end
}

func (g *sampler) array(depth int) sample {
	r := g.r
	prefix := make([]sample, r.IntN(3))
	var schemas []string
	for i := range prefix {
		prefix[i] = g.sample(depth - 1)
		schemas = append(schemas, prefix[i].schema)
	}
	item := g.sample(depth - 1)
	least := r.IntN(4)
	most := least + r.IntN(4)
	schema := fmt.Sprintf(`{"type":"array","minItems":%d,"maxItems":%d,"items":%s`, least, most, item.schema)
	if len(prefix) > 0 {
		schema += `,"prefixItems":[` + strings.Join(schemas, ",") + `]`
	}
	return sample{schema + "}", func(r *rand.Rand) string {
		var parts []string
		for i := range least + r.IntN(most-least+1) {
			if i < len(prefix) {
				parts = append(parts, prefix[i].instance(r))
			} else {
				parts = append(parts, item.instance(r))
			}
		}
		return bracket(r, "[", parts, "]")
	}}
}

func (g *sampler) union(depth int) sample {
	subs := make([]sample, 1+g.r.IntN(3))
	var schemas []string
	for i := range subs {
		subs[i] = g.sample(depth - 1)
		if g.r.IntN(2) == 0 {
			subs[i].schema = `{"allOf":[` + subs[i].schema + `,true]}`
		}
		schemas = append(schemas, subs[i].schema)
	}
	return sample{`{"anyOf":[` + strings.Join(schemas, ",") + `,false]}`, func(r *rand.Rand) string {
		return subs[r.IntN(len(subs))].instance(r)
	}}
}

// recursive makes a tree whose nodes carry a value of another schema.
func (g *sampler) recursive(depth int) sample {
	name := "d" + strconv.Itoa(len(g.defs))
	g.defs = append(g.defs, "")
	at := len(g.defs) - 1
	sub := g.sample(depth - 2)
	ref := `{"$ref":"#/$defs/` + name + `"}`
	g.defs[at] = fmt.Sprintf(`"%s":{"type":"object","properties":{"v":%s,"left":{"anyOf":[%s,{"type":"null"}]},"kids":{"type":"array","items":%s}},"required":["v","left"],"additionalProperties":false}`,
		name, sub.schema, ref, ref)
	var tree func(r *rand.Rand, depth int) string
	tree = func(r *rand.Rand, depth int) string {
		parts := []string{`"v"` + colonGap(r) + sub.instance(r)}
		left := "null"
		if depth > 0 && r.IntN(2) == 0 {
			left = tree(r, depth-1)
		}
		parts = append(parts, `"left"`+colonGap(r)+left)
		if depth > 0 && r.IntN(2) == 0 {
			var kids []string
			for range r.IntN(3) {
				kids = append(kids, tree(r, depth-1))
			}
			parts = append(parts, `"kids"`+colonGap(r)+bracket(r, "[", kids, "]"))
		}
		return bracket(r, "{", parts, "}")
	}
	return sample{ref, func(r *rand.Rand) string { return tree(r, 3) }}
}

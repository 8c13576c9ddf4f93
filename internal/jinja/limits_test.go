package jinja

import (
	"errors"
	"strings"
	"sync"
	"testing"
)

func TestNotJinja(t *testing.T) {
	for _, source := range notJinja {
		_, err := Parse("bad", source)
		var e *Error
		if !errors.As(err, &e) || e.Kind != SyntaxError || e.Line < 1 {
			t.Errorf("%q: got %v, want a syntax error with a line", source, err)
		}
	}
}

// hostile templates would take too much time or memory, or too deep a stack.
var hostile = []string{
	"{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
	"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
	"{% macro m(x) %}{{ x(x) }}{% endmacro %}{{ m(m) }}",
	"{% set ns = namespace(s='x') %}{% for a in range(100) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
	"{% set ns = namespace(s='x') %}{% for a in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
	"{% set ns = namespace(s=[1]) %}{% for a in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
	"{% set ns = namespace(s=[1]) %}{% for a in range(100) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
	"{% set ns = namespace(s=[1]) %}{% for a in range(100) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s|tojson }}",
	"{% set a = namespace(s=[1]) %}{% set b = namespace(s=[1]) %}{% for i in range(100) %}{% set a.s = [a.s, a.s] %}{% set b.s = [b.s, b.s] %}{% endfor %}{{ a.s == b.s }}",
	"{% set ns = namespace(s=[]) %}{% for a in range(1000) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s }}",
	"{% set ns = namespace(s=[]) %}{% for a in range(1000) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s|tojson }}",
	"{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}",
	"{% set ns = namespace(g=[1]) %}{% for i in range(5000) %}{% set ns.g = ns.g|map('string') %}{% endfor %}{{ ns.g|list }}",
	"{% set ns = namespace(g=(1,)) %}{% for i in range(1000) %}{% set ns.g = (ns.g,) %}{% endfor %}{{ {ns.g: 1} }}",
	"{{ 'x' * 1000000000000 }}", "{{ [1] * 1000000000000 }}", "{{ '%1000000000d' % 1 }}", "{{ '%*d' % (1000000000, 1) }}", "{{ '{:1000000000}'.format(1) }}",
	"{{ 'x'.center(1000000000000) }}", "{{ 'x'.ljust(100000000000) }}", "{{ '\\t'.expandtabs(100000000000) }}", "{{ 'x'.zfill(100000000000) }}", "{{ 'x'|indent(100000000000, true) }}", "{{ [1]|tojson(indent=100000000000) }}",
	"{{ ('x' * 10000).replace('', 'y' * 100000) }}", "{{ ('x' * 10000)|replace('x', 'y' * 100000) }}", "{{ ('y' * 100000).join('x' * 10000) }}", "{{ [1]|batch(100000000000, 0)|list }}", "{{ [1]|slice(100000000000)|list }}", "{{ range(1000000000000) }}",
	"{% for a in range(100000) %}{{ 'x' * 1000 }}{% endfor %}", "{% set s = 'x' * 1000000 %}{% for a in range(100000) %}{% if 'y' in s %}{% endif %}{% endfor %}", "{% set s = 'x' * 1000000 %}{% for a in range(100000) %}{% set b = s|trim|length %}{% endfor %}",
	"{% set l = [] %}{% for i in range(100000) %}{% for j in range(100) %}{% set _ = l.append(l) %}{% endfor %}{% endfor %}", "{% set l = [] %}{% set _ = l.append(l) %}{{ l }}", "{% set l = [] %}{% set _ = l.append(l) %}{{ l == l }}{{ l|tojson }}",
	"{% set l = [1] %}{% for x in l %}{% set _ = l.append(1) %}{% endfor %}", "{% set d = {} %}{% set _ = d.update({'d': d}) %}{{ d }}", "{% set l = [1] %}{% set _ = l.extend(l) %}{% for i in range(100) %}{% set _ = l.extend(l) %}{% endfor %}",
	"{{ 9223372036854775807 + 1 }}", "{{ 9223372036854775807 * 2 }}", "{{ 2 ** 64 }}", "{{ -(-9223372036854775807 - 1) }}", "{{ (-9223372036854775807 - 1) // -1 }}", "{{ (-9223372036854775807 - 1) * -1 }}", "{{ -1 * (-9223372036854775807 - 1) }}", "{{ 10 ** 100 }}", "{{ 1e300|int }}", "{{ range(9223372036854775807, 0, -1) }}",
	"{{ " + strings.Repeat("(", 300) + "1" + strings.Repeat(")", 300) + " }}", "{{ " + strings.Repeat("[", 10000), strings.Repeat("{% if true %}", 10000), "{{ " + strings.Repeat("not ", 10000) + "x }}", "{{ " + strings.Repeat("-", 10000) + "1 }}", "{{ 1" + strings.Repeat(" + 1", 10000) + " }}", "{{ x" + strings.Repeat("|trim", 10000) + " }}", "{{ 1" + strings.Repeat(" if 1 else 2", 10000) + " }}", "{% set " + strings.Repeat("(", 10000),
}

func TestHostile(t *testing.T) {
	for _, source := range hostile {
		tmpl, err := Parse("hostile", source)
		if err == nil {
			_, err = tmpl.Render(snippetVars(), Options{AllowMutation: true, Limits: Limits{Steps: 2_000_000, Memory: 32 << 20}})
		}
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%.100q: got %v, want an *Error", source, err)
		}
	}
}

// TestChains holds that long chains of elif, which templates may have, are no
// nesting.
func TestChains(t *testing.T) {
	source := "{% if n == 0 %}" + strings.Repeat("{% elif n == 0 %}", 3000) + "{% else %}x{% endif %}"
	if got := run(source, snippetVars(), Options{}); got != `text "x"` {
		t.Error(got)
	}
}

func TestLimits(t *testing.T) {
	for _, c := range []struct {
		source string
		limits Limits
		want   string // part of the message; empty: no error
	}{
		{"{{ 'x' * 100 }}", Limits{Output: 100}, ""},
		{"{{ 'x' * 101 }}", Limits{Output: 100}, "too long"},
		{"{{ 'x' * 60 }}{{ 'x' * 60 }}", Limits{Output: 100}, "more than 100 bytes"},
		{"{{ range(10)|list }}", Limits{Memory: 1000}, ""},
		{"{{ range(100)|list }}", Limits{Memory: 1000}, "more than 1000 bytes"},
		{"{% for i in range(10) %}{% endfor %}", Limits{Steps: 50}, ""},
		{"{% for i in range(50) %}{% endfor %}", Limits{Steps: 50}, "more than 50 steps"},
		{"{{ [[[1]]] }}", Limits{Depth: 5}, ""},
		{"{{ [[[[[1]]]]] }}", Limits{Depth: 5}, "more than 5 levels"},
	} {
		got := run(c.source, snippetVars(), Options{Limits: c.limits})
		if c.want == "" && strings.HasPrefix(got, "text") {
			continue
		}
		if c.want == "" || !strings.HasPrefix(got, string(LimitError)) || !strings.Contains(got, c.want) {
			t.Errorf("%s with %+v: got %s, want %q", c.source, c.limits, got, c.want)
		}
	}
}

func TestMutation(t *testing.T) {
	for source, want := range map[string]string{
		"{% set l = [3, 1] %}{{ l.append(2) }}{{ l }}{{ l.sort() }}{{ l }}{{ l.insert(0, 9) }}{{ l.reverse() }}{{ l }}{{ l.remove(9) }}{{ l.extend([7]) }}{{ l }}{{ l.clear() }}{{ l }}": `text "None[3, 1, 2]None[1, 2, 3]NoneNone[3, 2, 1, 9]NoneNone[3, 2, 1, 7]None[]"`,
		"{% set d = {'a': 1, 'b': 2, 'c': 3} %}{{ d.pop('b') }}{{ d }}{{ d.update({'e': 5}, f=6) }}{{ d['c'] }}{{ d.setdefault('a', 9) }}{{ d.popitem() }}{{ d }}":                       `text "2{'a': 1, 'c': 3}None31('f', 6){'a': 1, 'c': 3, 'e': 5}"`,
	} {
		if got := run(source, nil, Options{AllowMutation: true}); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", source, got, want)
		}
		if got := run(source, nil, Options{}); !strings.HasPrefix(got, string(SecurityError)) {
			t.Errorf("without AllowMutation: got %s", got)
		}
	}
}

func TestErrorText(t *testing.T) {
	tmpl, err := Parse("some-model", "a\n{% if true %}\n{{ raise_exception('roles must alternate') }}\n{% endif %}")
	if err != nil {
		t.Fatal(err)
	}
	_, err = tmpl.Render(nil, Options{})
	want := `template "some-model" line 3: TemplateError: roles must alternate (the template refuses this conversation; change its messages or use another template)`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if got := run("{{ strftime_now('%Y') }}", nil, Options{}); !strings.Contains(got, "none was given") {
		t.Errorf("strftime_now without a clock: got %s", got)
	}
}

// TestConcurrent renders one template from several goroutines; run with -race.
func TestConcurrent(t *testing.T) {
	tmpl, err := Parse("t", "{% for u in users %}{{ u|tojson }}{% endfor %}{{ users|sort(attribute='age') }}")
	if err != nil {
		t.Fatal(err)
	}
	vars := snippetVars()
	want, err := tmpl.Render(vars, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			got, err := tmpl.Render(vars, Options{})
			if err != nil || got != want {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	wg.Wait()
}

func FuzzRender(f *testing.F) {
	for _, s := range snippets {
		f.Add(s, false)
	}
	for _, s := range notJinja {
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, source string, mutable bool) {
		tmpl, err := Parse("fuzz", source)
		var e *Error
		if err != nil {
			if !errors.As(err, &e) || e.Kind != SyntaxError {
				t.Fatalf("parse error %v", err)
			}
			return
		}
		opt := Options{Now: testNow, AllowMutation: mutable, Limits: Limits{Output: 1 << 16, Memory: 1 << 20, Steps: 20000}}
		text, err := tmpl.Render(snippetVars(), opt)
		if err != nil {
			if !errors.As(err, &e) || e.Message == "" && e.Kind != RaisedError {
				t.Fatalf("render error %v", err)
			}
			return
		}
		if len(text) > opt.Limits.Output {
			t.Fatalf("%d bytes of text", len(text))
		}
		again, err := tmpl.Render(snippetVars(), opt)
		if err != nil || again != text {
			t.Fatalf("the second rendering gave %q, %v; the first %q", again, err, text)
		}
	})
}

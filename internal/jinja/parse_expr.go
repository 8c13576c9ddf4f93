package jinja

import (
	"errors"
	"strconv"
)

// tupleOptions says how parseTuple reads.
type tupleOptions struct {
	condexpr bool   // inline if is allowed
	parens   bool   // inside parentheses: () is the empty tuple
	end      string // a name that ends the tuple, if not empty
}

func (p *parser) isTupleEnd(end string) bool {
	switch p.cur().kind {
	case tokVariableEnd, tokBlockEnd:
		return true
	case tokOperator:
		return p.cur().text == ")"
	}
	return end != "" && p.isName(end)
}

// parseTuple reads one expression, or a tuple if a comma follows.
func (p *parser) parseTuple(o tupleOptions) expr {
	var items []expr
	many := false
	for {
		if len(items) > 0 {
			p.expectOp(",")
		}
		if p.isTupleEnd(o.end) {
			break
		}
		if o.condexpr {
			items = append(items, p.parseExpr())
		} else {
			items = append(items, p.parseOr())
		}
		if !p.isOp(",") {
			break
		}
		many = true
	}
	if !many {
		if len(items) == 1 {
			return items[0]
		}
		if !o.parens {
			p.fail("Expected an expression, got '%s'", p.cur().describe())
		}
	}
	return &tupleExpr{items}
}

// parseExpr reads an expression with inline if.
func (p *parser) parseExpr() expr {
	p.enter()
	defer p.leave()
	line := p.cur().line
	seen := len(p.unknown)
	e := p.parseOr()
	for p.skipName("if") {
		c := &condExpr{line: line, then: e, test: p.parseOr()}
		if p.skipName("else") {
			c.els_ = p.parseExpr()
		}
		for i := range p.unknown[seen:] {
			p.unknown[seen+i].soft = true
		}
		e = c
		line = p.cur().line
	}
	return e
}

func (p *parser) parseOr() expr {
	left := p.parseAnd()
	for p.skipName("or") {
		left = &logicExpr{"or", left, p.parseAnd()}
	}
	return left
}

func (p *parser) parseAnd() expr {
	left := p.parseNot()
	for p.skipName("and") {
		left = &logicExpr{"and", left, p.parseNot()}
	}
	return left
}

func (p *parser) parseNot() expr {
	if p.isName("not") {
		p.enter()
		defer p.leave()
		line := p.next().line
		return &unaryExpr{line, "not", p.parseNot()}
	}
	return p.parseCompare()
}

func (p *parser) compareOp() string {
	t := p.cur()
	switch {
	case t.kind == tokOperator:
		switch t.text {
		case "==", "!=", "<", "<=", ">", ">=":
			p.next()
			return t.text
		}
	case p.skipName("in"):
		return "in"
	case p.isName("not") && p.peek().kind == tokName && p.peek().text == "in":
		p.pos += 2
		return "not in"
	}
	return ""
}

func (p *parser) parseCompare() expr {
	c := &compareExpr{line: p.cur().line, first: p.parseSum()}
	for op := p.compareOp(); op != ""; op = p.compareOp() {
		c.ops = append(c.ops, op)
		c.rest = append(c.rest, p.parseSum())
	}
	if len(c.ops) == 0 {
		return c.first
	}
	return c
}

// parseBinary reads a chain of left-associative operators.
func (p *parser) parseBinary(operand func() expr, ops ...string) expr {
	line := p.cur().line
	left := operand()
chain:
	for {
		for _, op := range ops {
			if p.skipOp(op) {
				left = &binaryExpr{line, op, left, operand()}
				line = p.cur().line
				continue chain
			}
		}
		return left
	}
}

func (p *parser) parseSum() expr { return p.parseBinary(p.parseConcat, "+", "-") }

func (p *parser) parseConcat() expr {
	line := p.cur().line
	parts := []expr{p.parseProduct()}
	for p.skipOp("~") {
		parts = append(parts, p.parseProduct())
	}
	if len(parts) == 1 {
		return parts[0]
	}
	return &concatExpr{line, parts}
}

func (p *parser) parseProduct() expr { return p.parseBinary(p.parsePower, "*", "/", "//", "%") }

// parsePower is left-associative: so is Jinja's **.
func (p *parser) parsePower() expr {
	return p.parseBinary(func() expr { return p.parseUnary(true) }, "**")
}

func (p *parser) parseUnary(withFilter bool) expr {
	p.enter()
	defer p.leave()
	var e expr
	t := p.cur()
	switch {
	case p.skipOp("-"), p.skipOp("+"):
		e = &unaryExpr{t.line, t.text, p.parseUnary(false)}
	default:
		e = p.parsePrimary()
	}
	e = p.parsePostfix(e)
	if withFilter {
		e = p.parseFilters(e)
	}
	return e
}

func (p *parser) parsePrimary() expr {
	t := p.next()
	switch t.kind {
	case tokName:
		return p.nameOrConstant(t)
	case tokString:
		text := t.text
		for p.cur().kind == tokString {
			text += p.next().text
		}
		return &constExpr{text}
	case tokInteger:
		return &constExpr{parseIntLiteral(t)}
	case tokFloat:
		f, err := strconv.ParseFloat(t.text, 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			failAt(t.line, SyntaxError, "%q is no number", t.text)
		}
		return &constExpr{f}
	case tokOperator:
		switch t.text {
		case "(":
			e := p.parseTuple(tupleOptions{condexpr: true, parens: true})
			p.expectOp(")")
			return e
		case "[":
			return p.parseList()
		case "{":
			return p.parseDict()
		}
	}
	failAt(t.line, SyntaxError, "unexpected '%s'", t.describe())
	return nil
}

func (p *parser) nameOrConstant(t token) expr {
	switch t.text {
	case "true", "True":
		return &constExpr{true}
	case "false", "False":
		return &constExpr{false}
	case "none", "None":
		return &constExpr{nil}
	}
	for _, m := range p.macros {
		switch t.text {
		case "caller":
			m.caller = true
		case "kwargs":
			m.kwargs = true
		case "varargs":
			m.varargs = true
		}
	}
	return &nameExpr{t.line, t.text}
}

func parseIntLiteral(t token) Value {
	text, base := t.text, 10
	if len(text) > 2 && text[0] == '0' {
		switch text[1] | 0x20 {
		case 'x':
			text, base = text[2:], 16
		case 'o':
			text, base = text[2:], 8
		case 'b':
			text, base = text[2:], 2
		}
	}
	n, err := strconv.ParseInt(text, base, 64)
	if err != nil {
		failAt(t.line, SyntaxError, "the integer %s does not fit in 64 bits", t.text)
	}
	return n
}

func (p *parser) parseList() expr {
	l := &listExpr{}
	for !p.isOp("]") {
		if len(l.items) > 0 {
			p.expectOp(",")
		}
		if p.isOp("]") {
			break
		}
		l.items = append(l.items, p.parseExpr())
	}
	p.expectOp("]")
	return l
}

func (p *parser) parseDict() expr {
	d := &dictExpr{}
	for !p.isOp("}") {
		if len(d.keys) > 0 {
			p.expectOp(",")
		}
		if p.isOp("}") {
			break
		}
		d.keys = append(d.keys, p.parseExpr())
		p.expectOp(":")
		d.values = append(d.values, p.parseExpr())
	}
	p.expectOp("}")
	return d
}

func (p *parser) parsePostfix(e expr) expr {
	for {
		switch {
		case p.isOp("."):
			e = p.parseAttr(e)
		case p.isOp("["):
			e = p.parseIndex(e)
		case p.isOp("("):
			e = &callExpr{p.cur().line, e, p.parseArguments()}
		default:
			return e
		}
	}
}

func (p *parser) parseAttr(obj expr) expr {
	line := p.next().line
	t := p.next()
	switch t.kind {
	case tokName:
		return &attrExpr{line, obj, t.text}
	case tokInteger:
		return &indexExpr{line, obj, &constExpr{parseIntLiteral(t)}}
	}
	failAt(t.line, SyntaxError, "expected name or number")
	return nil
}

func (p *parser) parseIndex(obj expr) expr {
	line := p.next().line
	var items []expr
	for !p.isOp("]") {
		if len(items) > 0 {
			p.expectOp(",")
		}
		items = append(items, p.parseSubscript())
	}
	p.expectOp("]")
	if len(items) == 1 {
		return &indexExpr{line, obj, items[0]}
	}
	for _, it := range items {
		if _, ok := it.(*sliceExpr); ok {
			failAt(line, SyntaxError, "a slice with a comma indexes nothing")
		}
	}
	return &indexExpr{line, obj, &tupleExpr{items}}
}

func (p *parser) parseSubscript() expr {
	s := &sliceExpr{}
	if !p.isOp(":") {
		s.start = p.parseExpr()
		if !p.isOp(":") {
			return s.start
		}
	}
	p.expectOp(":")
	if !p.isOp(":") && !p.isOp("]") && !p.isOp(",") {
		s.stop = p.parseExpr()
	}
	if p.skipOp(":") && !p.isOp("]") && !p.isOp(",") {
		s.step = p.parseExpr()
	}
	return s
}

func (p *parser) parseArguments() arguments {
	open := p.expectOp("(")
	var a arguments
	check := func(ok bool) {
		if !ok {
			failAt(open.line, SyntaxError, "invalid syntax for function call expression")
		}
	}
	for first := true; !p.isOp(")"); first = false {
		if !first {
			p.expectOp(",")
			if p.isOp(")") {
				break
			}
		}
		switch {
		case p.skipOp("*"):
			check(a.star == nil && a.starStar == nil)
			a.star = p.parseExpr()
		case p.skipOp("**"):
			check(a.starStar == nil)
			a.starStar = p.parseExpr()
		case p.cur().kind == tokName && p.peek().kind == tokOperator && p.peek().text == "=":
			check(a.starStar == nil)
			a.names = append(a.names, p.next().text)
			p.next()
			a.named = append(a.named, p.parseExpr())
		default:
			check(a.star == nil && a.starStar == nil && len(a.names) == 0)
			a.positional = append(a.positional, p.parseExpr())
		}
	}
	p.expectOp(")")
	return a
}

// parseFilters reads what may follow an operand: filters, tests and calls.
func (p *parser) parseFilters(e expr) expr {
	for {
		switch {
		case p.isOp("|"):
			e = p.parseFilterChain(e, false)
		case p.isName("is"):
			e = p.parseTest(e)
		case p.isOp("("):
			e = &callExpr{p.cur().line, e, p.parseArguments()}
		default:
			return e
		}
	}
}

// dottedName reads a filter's or test's name.
func (p *parser) dottedName() token {
	t := p.expectKind(tokName, "name")
	for p.skipOp(".") {
		t.text += "." + p.expectKind(tokName, "name").text
	}
	return t
}

// parseFilterChain reads |a|b... after input. With inline the first bar is
// absent. Without any filter it returns input.
func (p *parser) parseFilterChain(input expr, inline bool) expr {
	for inline || p.skipOp("|") {
		inline = false
		t := p.dottedName()
		f := &filterExpr{line: t.line, input: input, name: t.text, fn: lookupFilter(t.text)}
		if f.fn == nil {
			p.unknown = append(p.unknown, unknownName{t.line, "filter", t.text, p.soft})
		}
		if p.isOp("(") {
			f.args = p.parseArguments()
		}
		input = f
	}
	return input
}

func (p *parser) parseTest(input expr) expr {
	p.next()
	negated := p.skipName("not")
	t := p.dottedName()
	e := &testExpr{line: t.line, input: input, name: t.text, fn: lookupTest(t.text)}
	if e.fn == nil {
		p.unknown = append(p.unknown, unknownName{t.line, "test", t.text, p.soft})
	}
	if p.isOp("(") {
		e.args = p.parseArguments()
	} else if p.startsTestArgument() {
		e.args.positional = []expr{p.parsePostfix(p.parsePrimary())}
	}
	if negated {
		return &unaryExpr{t.line, "not", e}
	}
	return e
}

func (p *parser) startsTestArgument() bool {
	t := p.cur()
	switch t.kind {
	case tokName:
		switch t.text {
		case "else", "or", "and":
			return false
		case "is":
			p.fail("You cannot chain multiple tests with is")
		}
		return true
	case tokString, tokInteger, tokFloat:
		return true
	case tokOperator:
		return t.text == "[" || t.text == "{"
	}
	return false
}

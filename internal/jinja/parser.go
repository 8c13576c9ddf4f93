package jinja

import "strings"

// maxParseDepth bounds nesting in the source, and with it the parser's stack.
const maxParseDepth = 200

type parser struct {
	tokens []token
	pos    int
	depth  int
	// soft is true where an unknown filter or test is an error only once it is
	// reached: inside if, as Jinja has it.
	soft    bool
	unknown []unknownName
	macros  []*macroUses // of the macros around, innermost last
}

type unknownName struct {
	line       int
	kind, name string
	soft       bool
}

func (p *parser) cur() token { return p.tokens[p.pos] }

func (p *parser) peek() token {
	if p.pos+1 < len(p.tokens) {
		return p.tokens[p.pos+1]
	}
	return p.tokens[len(p.tokens)-1]
}

func (p *parser) next() token {
	t := p.cur()
	if t.kind != tokEOF {
		p.pos++
	}
	return t
}

func (p *parser) fail(format string, args ...any) {
	failAt(p.cur().line, SyntaxError, format, args...)
}

func (p *parser) isOp(op string) bool {
	return p.cur().kind == tokOperator && p.cur().text == op
}

func (p *parser) isName(name string) bool {
	return p.cur().kind == tokName && p.cur().text == name
}

func (p *parser) skipOp(op string) bool {
	if p.isOp(op) {
		p.pos++
		return true
	}
	return false
}

func (p *parser) skipName(name string) bool {
	if p.isName(name) {
		p.pos++
		return true
	}
	return false
}

func (p *parser) expectOp(op string) token {
	if !p.isOp(op) {
		p.fail("expected token '%s', got '%s'", op, p.cur().describe())
	}
	return p.next()
}

func (p *parser) expectKind(kind tokenKind, what string) token {
	if p.cur().kind != kind {
		p.fail("expected token '%s', got '%s'", what, p.cur().describe())
	}
	return p.next()
}

func (p *parser) expectName(name string) {
	if !p.skipName(name) {
		p.fail("expected token '%s', got '%s'", name, p.cur().describe())
	}
}

func (p *parser) enter() {
	p.depth++
	if p.depth > maxParseDepth {
		p.fail("nested more than %d levels deep", maxParseDepth)
	}
}

func (p *parser) leave() { p.depth-- }

func (p *parser) parseTemplate() []node {
	body := p.parseNodes(nil)
	for _, u := range p.unknown {
		if !u.soft {
			failAt(u.line, SyntaxError, "No %s named '%s'.", u.kind, u.name)
		}
	}
	return body
}

// parseNodes reads nodes up to a block that starts with one of the names in
// ends, whose name becomes the current token; or up to the end of the template
// if ends is nil.
func (p *parser) parseNodes(ends []string) []node {
	p.enter()
	defer p.leave()
	var body []node
	for {
		switch t := p.next(); t.kind {
		case tokEOF:
			if ends != nil {
				failAt(t.line, SyntaxError, "Unexpected end of template. Jinja was looking for the following tags: '%s'.", strings.Join(ends, "' or '"))
			}
			return body
		case tokData:
			body = append(body, &textNode{t.text})
		case tokVariableBegin:
			e := p.parseTuple(tupleOptions{condexpr: true})
			p.expectKind(tokVariableEnd, "end of print statement")
			body = append(body, &outputNode{t.line, e})
		case tokBlockBegin:
			for _, end := range ends {
				if p.isName(end) {
					return body
				}
			}
			if n := p.parseStatement(); n != nil {
				body = append(body, n)
			}
			p.expectKind(tokBlockEnd, "end of statement block")
		}
	}
}

// parseBody reads a block's body: the end of its first tag, the nodes, and
// leaves the parser at the name of the tag that ends it.
func (p *parser) parseBody(ends ...string) []node {
	p.skipOp(":")
	p.expectKind(tokBlockEnd, "end of statement block")
	return p.parseNodes(ends)
}

// parseHardBody is parseBody for blocks with a scope of their own.
func (p *parser) parseHardBody(ends ...string) []node {
	saved := p.soft
	p.soft = false
	body := p.parseBody(ends...)
	p.soft = saved
	return body
}

func (p *parser) parseStatement() node {
	t := p.expectKind(tokName, "tag name")
	switch t.text {
	case "if":
		return p.parseIf(t.line)
	case "for":
		return p.parseFor(t.line)
	case "set":
		return p.parseSet(t.line)
	case "with":
		return p.parseWith(t.line)
	case "macro":
		return p.parseMacro(t.line)
	case "call":
		return p.parseCallBlock(t.line)
	case "filter":
		f := p.parseFilterChain(nil, true)
		body := p.parseHardBody("endfilter")
		p.next()
		return &filterBlockNode{t.line, f, body}
	case "generation":
		body := p.parseHardBody("endgeneration")
		p.next()
		return &scopeNode{body}
	case "break":
		return &breakNode{}
	case "continue":
		return &continueNode{}
	case "print":
		return p.parsePrint(t.line)
	case "include", "import", "from", "extends", "block", "autoescape":
		failAt(t.line, SyntaxError, "the tag '%s' is not supported: a chat template is one file without inheritance", t.text)
	}
	failAt(t.line, SyntaxError, "Encountered unknown tag '%s'.", t.text)
	return nil
}

// parsePrint reads {% print a, b %}, which prints one after the other.
func (p *parser) parsePrint(line int) node {
	e := &concatExpr{line: line}
	for p.cur().kind != tokBlockEnd {
		if len(e.parts) > 0 {
			p.expectOp(",")
		}
		e.parts = append(e.parts, p.parseExpr())
	}
	return &outputNode{line, e}
}

func (p *parser) parseIf(line int) node {
	p.enter()
	defer p.leave()
	saved := p.soft
	p.soft = true
	defer func() { p.soft = saved }()
	n := &ifNode{line: line}
	first := n
	for {
		n.test = p.parseTuple(tupleOptions{})
		n.then = p.parseBody("elif", "else", "endif")
		switch p.next().text {
		case "elif":
			next := &ifNode{line: p.cur().line}
			n.els_ = []node{next}
			n = next
			continue
		case "else":
			n.els_ = p.parseBody("endif")
			p.next()
		}
		return first
	}
}

func (p *parser) parseFor(line int) node {
	n := &forNode{line: line}
	n.target = p.parseTarget("in")
	p.expectName("in")
	n.iter = p.parseTuple(tupleOptions{end: "recursive"})
	if p.skipName("if") {
		n.test = p.parseExpr()
	}
	n.recursive = p.skipName("recursive")
	n.body = p.parseHardBody("endfor", "else")
	if p.next().text == "else" {
		n.elseBody = p.parseHardBody("endfor")
		p.next()
	}
	return n
}

func (p *parser) parseSet(line int) node {
	t := p.parseSetTarget()
	if p.skipOp("=") {
		return &setNode{line, t, p.parseTuple(tupleOptions{condexpr: true})}
	}
	f := p.parseFilterChain(nil, false)
	body := p.parseHardBody("endset")
	p.next()
	return &setBlockNode{line, t, f, body}
}

func (p *parser) parseWith(line int) node {
	n := &withNode{line: line}
	for p.cur().kind != tokBlockEnd {
		if len(n.targets) > 0 {
			p.expectOp(",")
		}
		n.targets = append(n.targets, p.parseTarget(""))
		p.expectOp("=")
		n.values = append(n.values, p.parseExpr())
	}
	n.body = p.parseHardBody("endwith")
	p.next()
	return n
}

func (p *parser) parseMacro(line int) node {
	name := p.expectKind(tokName, "name")
	checkAssignable(name)
	m := &macroNode{line: line, name: name.text}
	p.parseMacroRest(m, "endmacro")
	return m
}

// parseMacroRest reads a macro's parameters and body.
func (p *parser) parseMacroRest(m *macroNode, end string) {
	p.parseParams(m)
	p.parseMacroBody(m, end)
}

func (p *parser) parseMacroBody(m *macroNode, end string) {
	p.macros = append(p.macros, &m.uses)
	m.body = p.parseHardBody(end)
	p.macros = p.macros[:len(p.macros)-1]
	p.next()
}

func (p *parser) parseParams(m *macroNode) {
	p.expectOp("(")
	for !p.isOp(")") {
		if len(m.params) > 0 {
			p.expectOp(",")
		}
		name := p.expectKind(tokName, "name")
		checkAssignable(name)
		prm := param{name: name.text}
		if p.skipOp("=") {
			prm.def = p.parseExpr()
		} else if len(m.params) > 0 && m.params[len(m.params)-1].def != nil {
			p.fail("non-default argument follows default argument")
		}
		m.explicit = m.explicit || prm.name == "caller"
		m.params = append(m.params, prm)
	}
	p.expectOp(")")
}

func (p *parser) parseCallBlock(line int) node {
	m := &macroNode{line: line, name: "caller"}
	if p.isOp("(") {
		p.parseParams(m)
	}
	call, ok := p.parseExpr().(*callExpr)
	if !ok {
		failAt(line, SyntaxError, "expected call")
	}
	p.parseMacroBody(m, "endcall")
	return &callBlockNode{line, call, m}
}

func checkAssignable(name token) {
	switch name.text {
	case "true", "false", "none", "True", "False", "None":
		failAt(name.line, SyntaxError, "can't assign to '%s'", name.text)
	}
}

func (p *parser) parseSetTarget() target {
	if p.cur().kind == tokName && p.peek().kind == tokOperator && p.peek().text == "." {
		name := p.next().text
		p.next()
		return target{name: name, attr: p.expectKind(tokName, "name").text}
	}
	return p.parseTarget("")
}

// parseTarget reads a name or a tuple of targets, which ends before the name
// end if that is not empty.
func (p *parser) parseTarget(end string) target {
	p.enter()
	defer p.leave()
	var items []target
	many := false
	for {
		if p.isTupleEnd(end) || p.isOp("=") {
			break
		}
		items = append(items, p.parseTargetItem())
		if !p.skipOp(",") {
			break
		}
		many = true
	}
	if !many {
		if len(items) == 0 {
			p.fail("expected a name to assign to, got '%s'", p.cur().describe())
		}
		return items[0]
	}
	return target{tuple: items, many: true}
}

func (p *parser) parseTargetItem() target {
	if p.skipOp("(") {
		if p.skipOp(")") {
			return target{many: true}
		}
		t := p.parseTarget("")
		p.expectOp(")")
		return t
	}
	name := p.expectKind(tokName, "name")
	checkAssignable(name)
	return target{name: name.text}
}

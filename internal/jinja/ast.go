package jinja

// node is a statement: one of the pointer types below.
type node any

type (
	textNode struct{ text string }

	outputNode struct {
		line int
		expr expr
	}

	ifNode struct {
		line       int
		test       expr
		then, els_ []node // elif is an ifNode alone in els_
	}

	forNode struct {
		line      int
		target    target
		iter      expr
		test      expr // nil without a filter
		recursive bool
		body      []node
		elseBody  []node
	}

	setNode struct {
		line   int
		target target
		value  expr
	}

	// setBlockNode is {% set x | filter %}body{% endset %}.
	setBlockNode struct {
		line   int
		target target
		filter expr // filterExpr chain whose innermost input is nil; nil without
		body   []node
	}

	withNode struct {
		line    int
		targets []target
		values  []expr
		body    []node
	}

	macroNode struct {
		line     int
		name     string
		params   []param
		body     []node
		uses     macroUses
		explicit bool // a parameter is called caller
	}

	callBlockNode struct {
		line  int
		call  *callExpr
		macro *macroNode // the body as an unnamed macro
	}

	filterBlockNode struct {
		line   int
		filter expr
		body   []node
	}

	// scopeNode renders its body in a scope of its own: the generation tag.
	scopeNode struct{ body []node }

	breakNode    struct{}
	continueNode struct{}
)

type param struct {
	name string
	def  expr // nil without a default
}

// macroUses says which of the special names a macro's body reads.
type macroUses struct{ caller, kwargs, varargs bool }

// target is what an assignment writes to: a name, an attribute of a namespace,
// or a tuple of targets.
type target struct {
	name  string
	attr  string // not empty: name.attr
	tuple []target
	many  bool // a tuple, which may be empty
}

// expr is an expression: one of the pointer types below.
type expr any

type (
	constExpr struct{ value Value }

	nameExpr struct {
		line int
		name string
	}

	listExpr  struct{ items []expr }
	tupleExpr struct{ items []expr }
	dictExpr  struct{ keys, values []expr }

	attrExpr struct {
		line int
		obj  expr
		name string
	}

	indexExpr struct {
		line  int
		obj   expr
		index expr
	}

	// sliceExpr is start:stop:step inside an indexExpr; nil parts are absent.
	sliceExpr struct{ start, stop, step expr }

	callExpr struct {
		line int
		fn   expr
		args arguments
	}

	// filterExpr is input|name(args); input is nil at the start of the chain of
	// a filter block, where the block's text goes in.
	filterExpr struct {
		line  int
		input expr
		name  string
		fn    filterFunc // nil: unknown, an error when it is reached
		args  arguments
	}

	testExpr struct {
		line  int
		input expr
		name  string
		fn    testFunc // nil: unknown
		args  arguments
	}

	unaryExpr struct {
		line    int
		op      string // "not", "-", "+"
		operand expr
	}

	binaryExpr struct {
		line        int
		op          string
		left, right expr
	}

	concatExpr struct {
		line  int
		parts []expr
	}

	compareExpr struct {
		line  int
		first expr
		ops   []string // "==", "in", "not in", ...
		rest  []expr
	}

	// logicExpr is "and" or "or".
	logicExpr struct {
		op          string
		left, right expr
	}

	condExpr struct {
		line       int
		test       expr
		then, els_ expr // els_ is nil without else
	}
)

type arguments struct {
	positional []expr
	names      []string // of named
	named      []expr
	star       expr // *star, nil if absent
	starStar   expr // **starStar, nil if absent
}

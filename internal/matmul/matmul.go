// Package matmul is the arithmetic of training that costs time: products of
// float32 matrices, and the element-wise functions around softmax and SiLU.
//
// Each output of a product is one chain of fused multiply and add,
//
//	c ← fma(a[i][k], b[k][j], c),  k = 0, 1, 2, …
//
// beginning at +0 or, with add, at the output's old value; fma rounds once.
// Lanes, tiles and threads run across outputs and never inside a chain, and a
// chain that pauses in memory goes on from the same float32. So every path and
// every number of threads gives the same bits, except that which NaN comes out
// of an operation on NaNs is not defined.
//
// These bits decide what a training run learns. They are no part of the
// canonical arithmetic in which answers are computed; that is package arith.
package matmul

import "fmt"

// Path names an implementation. All paths give the same bits.
type Path int

// The implementations; which of them run on this machine, Paths tells.
const (
	Generic Path = iota // plain Go
	AVX2                // amd64 with AVX2 and FMA
	AVX512              // amd64 with AVX-512 F, BW, VL and DQ
)

func (p Path) String() string {
	switch p {
	case Generic:
		return "generic"
	case AVX2:
		return "avx2"
	case AVX512:
		return "avx512"
	}
	return fmt.Sprintf("path %d", int(p))
}

// Best is the fastest path of this machine.
func Best() Path {
	p := Paths()
	return p[len(p)-1]
}

// shape is the tile of p: rows of A and columns of B.
func (p Path) shape() (rows, cols int) {
	switch p {
	case AVX512:
		return 12, 32
	case AVX2:
		return 6, 16
	}
	return 4, 16
}

// A Matrix is a view of float32 values: element (i, j) is X[i·RowStep + j·ColStep].
type Matrix struct {
	X                []float32
	Rows, Cols       int
	RowStep, ColStep int
}

// Of is the matrix of rows rows and cols columns whose rows lie one after the
// other in x. It panics if x is shorter.
func Of(x []float32, rows, cols int) Matrix {
	return Matrix{X: x[:rows*cols], Rows: rows, Cols: cols, RowStep: cols, ColStep: 1}
}

// T is the transpose of m, a view of the same values.
func (m Matrix) T() Matrix {
	return Matrix{X: m.X, Rows: m.Cols, Cols: m.Rows, RowStep: m.ColStep, ColStep: m.RowStep}
}

// Part is the view of rows [r, r+rows) and columns [c, c+cols) of m.
func (m Matrix) Part(r, rows, c, cols int) Matrix {
	if r < 0 || c < 0 || rows < 0 || cols < 0 || r+rows > m.Rows || c+cols > m.Cols {
		panic(fmt.Sprintf("matmul: part [%d+%d, %d+%d] of a %d×%d matrix", r, rows, c, cols, m.Rows, m.Cols))
	}
	m.X = m.X[min(r*m.RowStep+c*m.ColStep, len(m.X)):]
	m.Rows, m.Cols = rows, cols
	return m
}

// end is the index after the last element of m.
func (m Matrix) end() int {
	if m.Rows == 0 || m.Cols == 0 {
		return 0
	}
	return (m.Rows-1)*m.RowStep + (m.Cols-1)*m.ColStep + 1
}

const (
	depth = 384 // steps of k between loads and stores of a tile
	block = 96  // rows of A that one task takes; a multiple of every tile's rows
)

// A Multiplier multiplies matrices with a fixed path and number of threads. It
// keeps buffers between products, so one goroutine at a time may use it.
type Multiplier struct {
	path    Path
	threads int
	panels  []float32 // B, packed: for each panel depth rows of its columns
	free    chan []float32
}

// New makes a Multiplier. threads is at least 1.
func New(p Path, threads int) *Multiplier {
	threads = max(threads, 1)
	rows, cols := p.shape()
	m := &Multiplier{path: p, threads: threads, free: make(chan []float32, threads)}
	for range threads {
		m.free <- make([]float32, (block+rows)*depth+rows*cols)
	}
	return m
}

// Path is the implementation that m uses.
func (m *Multiplier) Path() Path { return m.path }

// Threads is the number of goroutines that m uses.
func (m *Multiplier) Threads() int { return m.threads }

// Mul computes c = a·b, or c += a·b with add. The columns of c lie next to each
// other, and c overlaps neither a nor b. It panics if the shapes do not fit.
func (m *Multiplier) Mul(c, a, b Matrix, add bool) {
	if a.Rows != c.Rows || b.Cols != c.Cols || a.Cols != b.Rows || c.ColStep != 1 ||
		a.end() > len(a.X) || b.end() > len(b.X) || c.end() > len(c.X) {
		panic(fmt.Sprintf("matmul: %d×%d = %d×%d · %d×%d does not fit, or a view leaves its values",
			c.Rows, c.Cols, a.Rows, a.Cols, b.Rows, b.Cols))
	}
	if c.Rows == 0 || c.Cols == 0 {
		return
	}
	if a.Cols == 0 {
		if !add {
			for i := range c.Rows {
				clear(c.X[i*c.RowStep : i*c.RowStep+c.Cols])
			}
		}
		return
	}
	_, tileCols := m.path.shape()
	panels := (b.Cols + tileCols - 1) / tileCols
	if need := panels * tileCols * min(depth, b.Rows); len(m.panels) < need {
		m.panels = make([]float32, need)
	}
	blocks := (a.Rows + block - 1) / block
	// Few rows are divided by their columns too, so that no thread idles.
	span := panels
	for blocks*((panels+span-1)/span) < 8*m.threads && span > 2 && m.threads > 1 {
		span = (span + 1) / 2
	}
	spans := (panels + span - 1) / span
	for k := 0; k < a.Cols; k += depth {
		n := min(depth, a.Cols-k)
		size := n * tileCols
		Each(m.threads, panels, func(p int) {
			j := p * tileCols
			m.path.pack(m.panels[p*size:(p+1)*size], b.Part(k, n, j, min(tileCols, b.Cols-j)), tileCols)
		})
		Each(m.threads, blocks*spans, func(i int) {
			buf := <-m.free
			r, j := i/spans*block, i%spans*span
			rows, cols := min(block, a.Rows-r), min(span*tileCols, c.Cols-j*tileCols)
			m.rows(c.Part(r, rows, j*tileCols, cols), a.Part(r, rows, k, n), m.panels[j*size:], buf, k == 0 && !add)
			m.free <- buf
		})
	}
}

// rows multiplies some rows of A with the panels of the columns of c.
func (m *Multiplier) rows(c, a Matrix, panels, buf []float32, zero bool) {
	tileRows, tileCols := m.path.shape()
	n := a.Cols
	edge := buf[:tileRows*tileCols]
	packed := buf[tileRows*tileCols:]
	// Rows that lie one after the other are read where they are; others, and
	// those of a tile that is not full, are packed.
	whole := 0
	if a.ColStep == 1 {
		whole = a.Rows / tileRows * tileRows
	}
	for i := whole; i < a.Rows; i += tileRows {
		m.path.pack(packed[(i-whole)*n:(i-whole+tileRows)*n], a.Part(i, min(tileRows, a.Rows-i), 0, n).T(), tileRows)
	}
	size := n * tileCols
	for j := 0; j < c.Cols; j += tileCols {
		panel := panels[j/tileCols*size:][:size]
		cols := min(tileCols, c.Cols-j)
		for i := 0; i < a.Rows; i += tileRows {
			x, rowStep, colStep := a.X, a.RowStep, 1
			if i < whole {
				x = x[i*a.RowStep:]
			} else {
				x, rowStep, colStep = packed[(i-whole)*n:], 1, tileRows
			}
			rows := min(tileRows, a.Rows-i)
			if rows == tileRows && cols == tileCols {
				m.path.tile(c.X[i*c.RowStep+j:], c.RowStep, x, rowStep, colStep, panel, n, zero)
				continue
			}
			if !zero {
				for r := range rows {
					copy(edge[r*tileCols:], c.X[(i+r)*c.RowStep+j:][:cols])
				}
			}
			m.path.tile(edge, tileCols, x, rowStep, colStep, panel, n, zero)
			for r := range rows {
				copy(c.X[(i+r)*c.RowStep+j:][:cols], edge[r*tileCols:])
			}
		}
	}
}

// pack writes rows of width values to dst: row k has those of row k of m, and
// zeros after them.
func (p Path) pack(dst []float32, m Matrix, width int) {
	if m.ColStep == 1 {
		if m.Cols == width && p.packRuns(dst[:m.Rows*width], m.X[:m.end()], m.RowStep, width, m.Rows) {
			return
		}
		for k := range m.Rows {
			row := dst[k*width : (k+1)*width]
			clear(row[copy(row, m.X[k*m.RowStep:][:m.Cols]):])
		}
		return
	}
	if m.Cols < width {
		clear(dst[:m.Rows*width])
	}
	if m.RowStep == 1 {
		// Four columns at a time are four runs of memory.
		j := 0
		for ; j+4 <= m.Cols; j += 4 {
			s0 := m.X[(j+0)*m.ColStep:][:m.Rows]
			s1 := m.X[(j+1)*m.ColStep:][:m.Rows]
			s2 := m.X[(j+2)*m.ColStep:][:m.Rows]
			s3 := m.X[(j+3)*m.ColStep:][:m.Rows]
			at := j
			for k := range s0 {
				d := dst[at : at+4 : at+4]
				d[0], d[1], d[2], d[3] = s0[k], s1[k], s2[k], s3[k]
				at += width
			}
		}
		for ; j < m.Cols; j++ {
			for k, v := range m.X[j*m.ColStep:][:m.Rows] {
				dst[k*width+j] = v
			}
		}
		return
	}
	for k := range m.Rows {
		for j := range m.Cols {
			dst[k*width+j] = m.X[k*m.RowStep+j*m.ColStep]
		}
	}
}

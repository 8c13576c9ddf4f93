package matmul

import "math"

// lanes is the number of partial sums of a reduction, as in arith: element i
// goes to lane i mod 16, and the lanes are added as a tree 8-4-2-1.
const lanes = 16

// Constants of the exponential; they are those of arith.Exp, which it equals.
const (
	expMin     = -87
	expMax     = 88
	log2E      = 1.44269504
	ln2Hi      = 0.693359375
	ln2Lo      = -2.12194440e-4
	roundMagic = 12582912
	roundBits  = 0x4B400000
)

// Exp is e^x with x clamped to [−87, 88], equal to arith.Exp but that a NaN
// counts as −87, as in the vectors.
func Exp(x float32) float32 {
	if !(x > expMin) {
		x = expMin
	}
	if !(x < expMax) {
		x = expMax
	}
	t := float32(x*log2E) + roundMagic
	n := int32(math.Float32bits(t)) - roundBits
	k := t - roundMagic
	x -= float32(k * ln2Hi)
	x -= float32(k * ln2Lo)
	p := float32(1.0 / 720)
	p = float32(p*x) + 1.0/120
	p = float32(p*x) + 1.0/24
	p = float32(p*x) + 1.0/6
	p = float32(p*x) + 0.5
	p = float32(p*x) + 1
	p = float32(p*x) + 1
	return math.Float32frombits(uint32(int32(math.Float32bits(p)) + n<<23))
}

// Largest is the largest value of x, which is not empty and holds no NaN.
func (p Path) Largest(x []float32) float32 {
	top := x[0]
	if n := p.whole(len(x)); n > 0 {
		top = p.largestAsm(x[:n])
		x = x[n:]
	}
	for _, v := range x {
		if v > top {
			top = v
		}
	}
	return top
}

// ExpSum replaces each x by Exp(x − sub) and returns their sum, in 16 lanes.
func (p Path) ExpSum(x []float32, sub float32) float32 {
	n := p.whole(len(x))
	if n > 0 && n == len(x) {
		return p.expSumAsm(x, sub)
	}
	var l [lanes]float32
	for i, v := range x {
		v = Exp(v - sub)
		x[i] = v
		l[i%lanes] += v
	}
	return tree(&l)
}

func tree(l *[lanes]float32) float32 {
	for w := lanes / 2; w >= 1; w /= 2 {
		for i := range w {
			l[i] += l[i+w]
		}
	}
	return l[0]
}

// Axpy adds a·x to y, each product rounded first. The slices have one length.
func (p Path) Axpy(y, x []float32, a float32) {
	n := p.whole(len(x))
	y = y[:len(x)]
	if n > 0 {
		p.axpyAsm(y[:n], x[:n], a)
	}
	for i, v := range x[n:] {
		y[n+i] += float32(a * v)
	}
}

// Dot is the sum of the rounded products of x and y, in 16 lanes. The slices
// have one length.
func (p Path) Dot(x, y []float32) float32 {
	n := p.whole(len(x))
	y = y[:len(x)]
	if n > 0 && n == len(x) {
		return p.dotAsm(x, y)
	}
	var l [lanes]float32
	for i, v := range x {
		l[i%lanes] += float32(v * y[i])
	}
	return tree(&l)
}

// Softmax replaces x by its softmax and returns what log Σ e^x needs: the
// largest value and Σ e^(x−largest).
func (p Path) Softmax(x []float32) (top, sum float32) {
	top = p.Largest(x)
	sum = p.ExpSum(x, top)
	p.Scale(x, 1/sum)
	return top, sum
}

// Scale replaces each x by x·s.
func (p Path) Scale(x []float32, s float32) {
	n := p.whole(len(x))
	if n > 0 {
		p.scaleAsm(x[:n], s)
	}
	for i, v := range x[n:] {
		x[n+i] = float32(v * s)
	}
}

// Gate sets h to silu(g)·u. The slices have one length.
func (p Path) Gate(h, g, u []float32) {
	n := p.whole(len(h))
	if n > 0 {
		p.gateAsm(h[:n], g[:n], u[:n])
	}
	for i := n; i < len(h); i++ {
		s := 1 / (1 + Exp(-g[i]))
		h[i] = float32(float32(g[i]*s) * u[i])
	}
}

// GateGrad is the gradient of h = silu(g)·u: from dh it writes dg and du. The
// slices have one length; dg and du may be g, u or dh only where they are the
// same slice from its start.
func (p Path) GateGrad(dg, du, g, u, dh []float32) {
	n := p.whole(len(g))
	if n > 0 {
		p.gateGradAsm(dg[:n], du[:n], g[:n], u[:n], dh[:n])
	}
	for i := n; i < len(g); i++ {
		s := 1 / (1 + Exp(-g[i]))
		m := float32(g[i] * s)
		d, w := dh[i], u[i]
		t := float32(s * (1 + float32(g[i]*(1-s))))
		du[i] = float32(d * m)
		dg[i] = float32(float32(d*w) * t)
	}
}

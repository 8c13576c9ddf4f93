package sat

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/geistnet/geist/arith"
)

// Adam is the optimizer step that trainers make and verifiers repeat: Adam with
// decoupled weight decay (Kingma and Ba, arXiv:1412.6980; Loshchilov and Hutter,
// arXiv:1711.05101). All fields are finite; betas lie in [0, 1), Eps is above 0,
// LR and WeightDecay are not negative.
type Adam struct {
	LR, Beta1, Beta2, Eps, WeightDecay float32
}

// Valid says what is wrong with the parameters.
func (a Adam) Valid() error {
	for _, x := range []float32{a.LR, a.Beta1, a.Beta2, a.Eps, a.WeightDecay} {
		if !finite(x) || x < 0 {
			return fmt.Errorf("adam: parameter %v, want finite and not negative", x)
		}
	}
	if a.Beta1 >= 1 || a.Beta2 >= 1 || a.Eps == 0 {
		return fmt.Errorf("adam: betas %v and %v, eps %v; want betas below 1 and eps above 0", a.Beta1, a.Beta2, a.Eps)
	}
	return nil
}

// equal compares the bits of the parameters: -0 is not 0.
func (a Adam) equal(b Adam) bool {
	x, y := a.fields(), b.fields()
	for i := range x {
		if math.Float32bits(*x[i]) != math.Float32bits(*y[i]) {
			return false
		}
	}
	return true
}

// fields lists the parameters in the order of the encoding.
func (a *Adam) fields() [5]*float32 {
	return [5]*float32{&a.LR, &a.Beta1, &a.Beta2, &a.Eps, &a.WeightDecay}
}

// Step makes one step of values w with moments m and v, all of grad's length, in
// place. step counts the steps of these values, this one included, from 1. With
// every operation rounded to float32, in this order:
//
//	m ← β₁·m + (1−β₁)·g
//	v ← β₂·v + (1−β₂)·(g·g)
//	w ← w − lr·((m/c₁)/(√(v/c₂)+ε) + decay·w)
//
// where c₁ = 1−β₁^step is made in float64 by squaring, lowest bit first, then
// rounded to float32; likewise c₂. Elements do not depend on each other. It is an error, and
// w, m and v are spoilt, if a gradient or a result is not finite.
func (a Adam) Step(w, m, v, grad []float32, step uint32) error {
	if err := a.Valid(); err != nil {
		return err
	}
	if step == 0 {
		return fmt.Errorf("adam: step 0, want 1 or more")
	}
	if len(w) != len(grad) || len(m) != len(grad) || len(v) != len(grad) {
		return fmt.Errorf("adam: %d values, %d and %d moments for %d gradients", len(w), len(m), len(v), len(grad))
	}
	c1, c2 := unbias(a.Beta1, step), unbias(a.Beta2, step)
	rest1, rest2 := 1-a.Beta1, 1-a.Beta2
	for i, g := range grad {
		mi := float32(a.Beta1*m[i]) + float32(rest1*g)
		vi := float32(a.Beta2*v[i]) + float32(rest2*float32(g*g))
		root := float32(math.Sqrt(float64(vi / c2)))
		move := float32(mi/c1)/(root+a.Eps) + float32(a.WeightDecay*w[i])
		wi := w[i] - float32(a.LR*move)
		if !finite(mi) || !finite(vi) || !finite(wi) {
			return fmt.Errorf("adam: element %d of %d: gradient %v leads to value %v, moments %v and %v", i, len(grad), g, wi, mi, vi)
		}
		w[i], m[i], v[i] = wi, mi, vi
	}
	return nil
}

// unbias is 1 − beta^step.
func unbias(beta float32, step uint32) float32 {
	power, square := 1.0, float64(beta)
	for ; step > 0; step >>= 1 {
		if step&1 == 1 {
			power = float64(power * square)
		}
		square = float64(square * square)
	}
	return float32(1 - power)
}

func finite(x float32) bool { return x-x == 0 }

// A Shape says what the records of a table are. A record is the values of a
// row, Dim of them in Format; with Moments then the moments m and v, Dim float32 each,
// and the number of steps that the row has seen, u32. All is little-endian.
type Shape struct {
	Rows    uint64       // 1 to MaxRows
	Format  arith.Format // of the values; F32 with Moments
	Dim     int          // values in a row, 1 to MaxDim, whole blocks of Format
	Moments bool
}

// Limits of a Shape.
const (
	MaxRows = 1 << 32
	MaxDim  = 1 << 18
)

// Valid says what is wrong with s.
func (s Shape) Valid() error {
	switch {
	case s.Rows < 1 || s.Rows > MaxRows:
		return fmt.Errorf("table of %d rows, want 1 to %d", s.Rows, uint64(MaxRows))
	case !s.Format.Known():
		return fmt.Errorf("table of values of %v, which is not supported", s.Format)
	case s.Dim < 1 || s.Dim > MaxDim || s.Dim%s.Format.BlockLen() != 0:
		return fmt.Errorf("table with rows of %d values in %v, want 1 to %d in whole blocks of %d", s.Dim, s.Format, MaxDim, s.Format.BlockLen())
	case s.Moments && s.Format != arith.F32:
		return fmt.Errorf("table of %v with moments, want F32", s.Format)
	}
	return nil
}

// RecordBytes is the size of a record. s is valid.
func (s Shape) RecordBytes() int {
	if s.Moments {
		return 12*s.Dim + 4
	}
	return s.ValueBytes()
}

// ValueBytes is the size of a row's values, with which its record begins. s is valid.
func (s Shape) ValueBytes() int { return s.Format.RowBytes(s.Dim) }

// Record makes one step of a record of a table with moments and Dim values. dst
// is as long as record and may be it; after an error its content is undefined. The
// row's own number of steps rises by one.
func (a Adam) Record(dst, record []byte, grad []float32) error {
	dim := len(grad)
	if len(record) != 12*dim+4 || len(dst) != len(record) {
		return fmt.Errorf("adam: record of %d bytes into %d for %d gradients, want %d", len(record), len(dst), dim, 12*dim+4)
	}
	steps := binary.LittleEndian.Uint32(record[12*dim:])
	if steps == math.MaxUint32 {
		return fmt.Errorf("adam: the row has seen %d steps, no more can be counted", steps)
	}
	all := make([]float32, 3*dim)
	for i := range all {
		all[i] = math.Float32frombits(binary.LittleEndian.Uint32(record[4*i:]))
	}
	if err := a.Step(all[:dim], all[dim:2*dim], all[2*dim:], grad, steps+1); err != nil {
		return err
	}
	for i, x := range all {
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(x))
	}
	binary.LittleEndian.PutUint32(dst[12*dim:], steps+1)
	return nil
}

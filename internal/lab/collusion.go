package lab

import (
	"errors"

	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/merkle"
)

// committed is the opinion of a node that commits to one root and opens another.
func (b *bench) committed(r *ghost.Receipt, to, opened merkle.Hash) *audit.Opinion {
	o := &audit.Opinion{Root: opened}
	for i := range o.Node {
		o.Node[i], o.Salt[i] = byte(b.r.Uint32()), byte(b.r.Uint32())
	}
	o.Commitment = audit.CommitRoot(r.Request, r.Answer, o.Node, to, o.Salt)
	return o
}

// lazyCopies are the ways of a node that has not run an answer to agree with the
// provider. It reports whether all are noticed.
func lazyCopies(b *bench) (bool, error) {
	o, err := b.order()
	if err != nil {
		return false, err
	}
	r := o.receipt
	honest := b.committed(r, o.run.Trace, o.run.Trace)
	if agrees, err := honest.Check(r); err != nil || !agrees {
		return false, errors.Join(errors.New("an honest opinion is refused"), err)
	}
	// If it were shown the receipt first, nothing would be noticed.
	if agrees, err := b.committed(r, r.Trace, r.Trace).Check(r); err != nil || !agrees {
		return false, errors.Join(errors.New("a copy made before the commitment is noticed"), err)
	}
	guess := r.Trace
	guess[b.r.IntN(len(guess))] ^= byte(1 + b.r.IntN(255))
	_, swapped := b.committed(r, guess, r.Trace).Check(r)
	agrees, err := b.committed(r, guess, guess).Check(r)
	if err != nil {
		return false, err
	}
	stolen := *honest // somebody else's commitment, with its opening
	stolen.Node[0] ^= 1
	_, theft := stolen.Check(r)
	return swapped != nil && !agrees && theft != nil, nil
}

// collusion is a provider whose forged root two of four nodes of the model know
// beforehand. A draw after the signature picks so many of the four to run the
// answer again. It reports whether one of them disagrees.
func collusion(picked int) func(b *bench) (bool, error) {
	return func(b *bench) (bool, error) {
		o, err := b.order()
		if err != nil {
			return false, err
		}
		forged, err := forgeCells(func(b *bench, n, layers int) map[[2]int]bool {
			return map[[2]int]bool{{b.r.IntN(n), b.r.IntN(layers)}: true}
		})(b)
		if err != nil {
			return false, err
		}
		differs, err := b.s.convicts(forged.run)
		if err != nil {
			return false, err
		}
		r := *o.receipt
		r.Answer, r.Trace = ghost.HashTokens(o.request.Salt, forged.run.Answer), forged.run.Trace
		honest := o.run.Trace // of what such a node computes it matters that it is another root
		if !differs {
			honest = r.Trace
		}
		caught := false
		for i, node := range b.r.Perm(4) {
			if i == picked {
				break
			}
			root := honest
			if node < 2 {
				root = r.Trace
			}
			agrees, err := b.committed(&r, root, root).Check(&r)
			if err != nil {
				return false, err
			}
			caught = caught || !agrees
		}
		return caught, nil
	}
}

func collusionAttacks() []attack {
	as := []attack{
		{name: "auditor-copies-root", by: ByRoot, theory: "1: it commits before it is shown the receipt",
			what: "A node paid to run an answer again does not, and signs the provider's trace root, or opens another node's commitment as its own.", claim: lazyCopies},
		{name: "auditor-colludes", by: ByReExecution, odds: 0.5, theory: "1 − k/n, k of n nodes colluding",
			what: "The provider tells its forged trace root beforehand to two of the four nodes of which one is drawn to run the answer again.", claim: collusion(1)},
		{name: "auditor-colludes-two-drawn", by: ByReExecution, odds: 5. / 6, theory: "1 − k(k − 1)/(n(n − 1))",
			what: "The same, and two of the four are drawn.", claim: collusion(2)},
		{name: "auditor-colludes-three-drawn", by: ByReExecution, odds: 1, theory: "1: one of three is honest",
			what: "The same, and three of the four are drawn.", claim: collusion(3)},
	}
	for i := range as {
		as[i].family = "collusion"
	}
	return as
}

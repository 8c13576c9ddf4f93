package audit

import (
	"testing"

	"github.com/geistnet/geist/ghost"
)

// An opinion is bound to its node, request, answer, root and salt.
func TestOpinion(t *testing.T) {
	r := sample(t).Receipt
	o := Opinion{Node: ghost.Key{1}, Root: r.Trace, Salt: ghost.Nonce{2}}
	o.Commitment = CommitRoot(r.Request, r.Answer, o.Node, o.Root, o.Salt)
	if agrees, err := o.Check(r); err != nil || !agrees {
		t.Fatal(agrees, err)
	}
	for i, alter := range []func(o *Opinion, r *ghost.Receipt){
		func(o *Opinion, _ *ghost.Receipt) { o.Node[0] ^= 1 },
		func(o *Opinion, _ *ghost.Receipt) { o.Root[31] ^= 1 },
		func(o *Opinion, _ *ghost.Receipt) { o.Salt[0] ^= 1 },
		func(o *Opinion, _ *ghost.Receipt) { o.Commitment[5] ^= 1 },
		func(_ *Opinion, r *ghost.Receipt) { r.Request[0] ^= 1 },
		func(_ *Opinion, r *ghost.Receipt) { r.Answer.Hash[0] ^= 1 },
	} {
		p, q := o, *r
		alter(&p, &q)
		if _, err := p.Check(&q); err == nil {
			t.Errorf("alteration %d is not noticed", i)
		}
	}
	other := *r
	other.Trace[0] ^= 1
	if agrees, err := o.Check(&other); err != nil || agrees {
		t.Error("another root is agreed to", err)
	}
}

package audit

import (
	"crypto/sha256"
	"errors"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/merkle"
)

// CommitRoot is what a node that has run an answer again publishes before it is
// shown the receipt, which has the provider's trace root, or another node's
// opinion: SHA-256("geist/again/1" ‖ request ‖ answer ‖ node ‖ root ‖ salt). The
// node's key is in it, so that nobody can pass off another's as its own.
func CommitRoot(request [32]byte, answer ghost.Tokens, node ghost.Key, root merkle.Hash, salt ghost.Nonce) [32]byte {
	h := sha256.New()
	h.Write([]byte("geist/again/1"))
	for _, b := range [][]byte{request[:], answer.Hash[:], node[:], root[:], salt[:]} {
		h.Write(b)
	}
	return [32]byte(h.Sum(nil))
}

// Opinion is a trace root that a node stands by, and what it committed to before.
type Opinion struct {
	Node       ghost.Key
	Commitment [32]byte
	Root       merkle.Hash
	Salt       ghost.Nonce
}

// Check compares an opinion with a receipt once all are open. agrees: the node
// found the receipt's root. If it did not, one of the two lies, and a dispute
// shows which. The error says that the opinion is not the one committed to.
func (o *Opinion) Check(r *ghost.Receipt) (agrees bool, err error) {
	if CommitRoot(r.Request, r.Answer, o.Node, o.Root, o.Salt) != o.Commitment {
		return false, errors.New("the node opens another trace root than the one it committed to")
	}
	return o.Root == r.Trace, nil
}

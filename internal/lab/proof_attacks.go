package lab

import (
	"crypto/sha256"
	"encoding/binary"
	"math"

	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
)

const hashBytes = 32

// proofAttacks send bad proofs, or none, or choose what is drawn.
func proofAttacks() []attack {
	honest := func(b *bench) (*recording, error) {
		r, err := b.run(hooks{})
		return sealed(r, err, everyCell(1))
	}
	small := []int{8}
	spoiled := func(f func(b *bench, proof []byte) []byte) func(*bench, *recording, audit.Challenge, []byte) []byte {
		return func(b *bench, _ *recording, _ audit.Challenge, proof []byte) []byte { return f(b, proof) }
	}
	const always = "1: the proof's length and order follow from the challenge"
	as := []attack{
		{name: "proof-empty", what: "No proof is sent.", spoil: spoiled(func(*bench, []byte) []byte { return nil })},
		{name: "proof-hash-missing", what: "The last hash of the proof is left out.", spoil: spoiled(func(_ *bench, p []byte) []byte { return p[:len(p)-hashBytes] })},
		{name: "proof-hash-added", what: "A hash more is sent than is needed.", spoil: spoiled(func(_ *bench, p []byte) []byte { return append(p, p[len(p)-hashBytes:]...) })},
		{name: "proof-hashes-swapped", what: "The last two hashes are sent in the wrong order.", spoil: spoiled(func(_ *bench, p []byte) []byte {
			n := len(p)
			out := append([]byte(nil), p[:n-2*hashBytes]...)
			out = append(out, p[n-hashBytes:]...)
			return append(out, p[n-2*hashBytes:n-hashBytes]...)
		})},
		{name: "proof-bit-flipped", what: "One bit of the proof, anywhere, is another.", spoil: spoiled(func(b *bench, p []byte) []byte {
			p[b.r.IntN(len(p))] ^= 1 << b.r.IntN(8)
			return p
		})},
		{name: "proof-cut", what: "The proof ends too early, anywhere.", spoil: spoiled(func(b *bench, p []byte) []byte { return p[:b.r.IntN(len(p))] })},
		{name: "proof-item-moved", what: "A kilobyte in the middle of the proof is exchanged with the one after it.", spoil: spoiled(func(b *bench, p []byte) []byte {
			at := 100 + b.r.IntN(len(p)-3000)
			for i := range 1024 {
				p[at+i], p[at+1024+i] = p[at+1024+i], p[at+i]
			}
			return p
		})},
		{name: "proof-of-other-challenge", what: "The proof answers another challenge.",
			spoil: func(_ *bench, r *recording, ch audit.Challenge, _ []byte) []byte {
				ch.Seed[0] ^= 1
				return r.prove(ch)
			}},
		{name: "proof-of-smaller-challenge", what: "The proof answers the challenge with half as many cells.",
			spoil: func(_ *bench, r *recording, ch audit.Challenge, _ []byte) []byte {
				ch.Cells /= 2
				return r.prove(ch)
			}},
		{name: "proof-of-other-run", what: "The proof is of an honest run with another prompt.",
			forge: func(b *bench) (*recording, error) {
				r, err := honest(b)
				if err != nil {
					return nil, err
				}
				b.prompt = drawPrompt(b.r, promptLen)
				r.other, err = honest(b)
				return r, err
			}},
	}
	for i := range as {
		a := &as[i]
		a.by, a.theory, a.sizes, a.honest, a.runs = ByRoot, always, small, true, 1
		if a.forge == nil {
			a.forge = honest
		}
	}
	// An honest run is opened under the root of a forged one.
	as = append(as, attack{name: "honest-values-under-forged-root", what: "The signed root is that of another model's run; when asked, the true values are opened.", theory: "1: they do not lie under the signed root", by: ByRoot, sizes: small, runs: 1,
		forge: func(b *bench) (*recording, error) {
			o, err := b.subject("another llama")
			if err != nil {
				return nil, err
			}
			bad, err := recorded(b.s, o.row, b.prompt, b.answer, b.sampling, hooks{})
			if err == nil {
				err = bad.seal()
			}
			if err != nil {
				return nil, err
			}
			// The true values for the same tokens.
			good, err := recorded(b.s, b.s.row, b.prompt, b.answer, b.sampling, hooks{choose: func(a int, _ []float32, _ int32) int32 { return bad.run.Answer[a] }})
			if err == nil {
				err = good.seal()
			}
			bad.other, bad.chance = good, everyCell(1)
			return bad, err
		}},
		attack{name: "values-fixed-after-challenge", what: "A forged state is committed to; when its cell is drawn, the true one is opened.", theory: "1 − (1 − s/(N·L))^c, s the cells that show the committed value: its own and the next layer's", sizes: []int{8, 32},
			forge: func(b *bench) (*recording, error) {
				good, err := honest(b)
				if err != nil {
					return nil, err
				}
				bad, err := b.run(hooks{choose: func(a int, _ []float32, _ int32) int32 { return good.run.Answer[a] }})
				if err != nil {
					return nil, err
				}
				x := bad.cells[11][1][ghost.ResidOut][0]
				for i := 2; i < len(x); i += 4 {
					x[i] ^= 0x55
				}
				bad.other = good
				// Any opening of that layer at that position shows another root,
				// because its siblings cannot fit: also those of the layers beside
				// it, whose path goes over the forged root.
				return sealed(bad, nil, everyCell(1))
			}})
	refuse := func(f float64) attack {
		return attack{what: "The provider forges one cell in ten and does not answer when one of them is drawn.", sizes: []int{8, 32},
			theory: cellTheory + "; no answer in time is a failure",
			forge:  forgeCells(share(f)),
			spoil: func(_ *bench, r *recording, ch audit.Challenge, proof []byte) []byte {
				if _, err := audit.Verify(r.run, ch, proof); err != nil {
					return nil
				}
				return proof
			}}
	}
	r := refuse(0.1)
	r.name = "refusal"
	as = append(as, r)
	const tries = 32
	// grind signs many receipts and keeps that of which the challenge, if it
	// followed from the receipt alone, would be kindest.
	grind := func(rec *recording, ch audit.Challenge, trial int) [32]byte {
		var id [32]byte
		for k := range tries {
			b := binary.LittleEndian.AppendUint64(rec.run.Trace[:], uint64(trial))
			id = sha256.Sum256(binary.LittleEndian.AppendUint64(append(b, ch.Seed[:]...), uint64(k)))
			c := ch
			c.Seed = audit.Draw([32]byte{}, id)
			if _, err := audit.Verify(rec.run, c, rec.prove(c)); err == nil {
				break
			}
		}
		return id
	}
	as = append(as,
		attack{name: "grinding-without-nonce", what: "One cell in ten is forged, and 32 receipts are tried. If the challenge followed from the receipt alone, as it does not, the provider could choose a kind one.",
			theory: "(1 − (1 − g)^c)^32: what the client's nonce is for", sizes: []int{8}, runs: 1, forge: forgeCells(share(0.1)),
			predict: func(miss float64) float64 { return math.Pow(1-miss, tries) },
			draw: func(_ *bench, rec *recording, ch audit.Challenge, trial int) audit.Challenge {
				ch.Seed = audit.Draw([32]byte{}, grind(rec, ch, trial))
				return ch
			}},
		attack{name: "grinding", what: "One cell in ten is forged, and 32 receipts are tried; the client's nonce, shown afterwards, decides.",
			theory: cellTheory + "; trying gains nothing", sizes: []int{8}, runs: 1, forge: forgeCells(share(0.1)),
			draw: func(_ *bench, rec *recording, ch audit.Challenge, trial int) audit.Challenge {
				nonce := sha256.Sum256(append([]byte("the client's"), ch.Seed[:]...))
				ch.Seed = audit.Draw(nonce, grind(rec, ch, trial))
				return ch
			}})
	for i := range as {
		as[i].family = "proof"
	}
	return as
}

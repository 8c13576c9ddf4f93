package train

import "slices"

// A Recipe is all that a run depends on besides its text and the version of
// this program.
type Recipe struct {
	Name  string
	Shape Shape
	Optimiser
	Batch int // windows of a step
	Every int // steps between two measurements of held-out text
	Seed  uint64
}

// Tales is the recipe of the built-in model (docs/training.md has the reasons).
func Tales() Recipe {
	return Recipe{
		Name: "tales",
		Shape: Shape{
			Vocab: 4096, Dim: 256, Heads: 8, KVHeads: 2, HeadDim: 32, FF: 512, Context: 512, Eps: 1e-5, RopeBase: 10000,
			Blocks:     []string{Dense, Hash, Product, Dense},
			HashOrders: []int{2, 3}, HashHeads: 4, HashRows: 8192,
			ProductHeads: 2, ProductKeys: 64, ProductDim: 32, ProductTopK: 8,
		},
		Optimiser: Optimiser{
			Steps: 3200, Warmup: 100, Rate: 3e-3, RowRate: 5e-3, RowDropout: 0.5, Final: 0.05,
			Beta1: 0.9, Beta2: 0.95, RowBeta2: 0.99, Eps: 1e-10, WeightDecay: 0.1, Clip: 1,
		},
		Batch: 4, Every: 100, Seed: 1,
	}
}

// WithoutMemory is the recipe of a dense model that makes about as many
// multiply-adds for a token and sees the same tokens.
func (r Recipe) WithoutMemory() Recipe {
	want := r.Shape.MulAdds()
	r.Name += "-dense"
	r.Shape.Blocks = slices.Repeat([]string{Dense}, len(r.Shape.Blocks))
	for r.Shape.FF = 32; r.Shape.MulAdds() < want; r.Shape.FF += 32 {
	}
	return r
}

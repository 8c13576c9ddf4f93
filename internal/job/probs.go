package job

import (
	"encoding/json"
	"fmt"
	"math"
)

// TokenProb is how likely a token was, by natural logarithms from -9999 to 0.
// Nobody checks what a provider says here.
type TokenProb struct {
	LogProb float32       `json:"p"`
	Top     []Alternative `json:"top,omitempty"` // the likeliest first; at most MaxAlternatives
}

// Alternative is a token that could have been drawn. Its JSON is [id, log probability].
type Alternative struct {
	ID      int32
	LogProb float32
}

// LogProb fits a log probability to what an event may hold.
func LogProb(x float64) float32 {
	if math.IsNaN(x) {
		return minProb
	}
	return float32(min(max(x, minProb), 0))
}

// MarshalJSON writes the pair.
func (a Alternative) MarshalJSON() ([]byte, error) { return json.Marshal([2]any{a.ID, a.LogProb}) }

// UnmarshalJSON reads the pair.
func (a *Alternative) UnmarshalJSON(b []byte) error {
	var pair []json.RawMessage
	if err := json.Unmarshal(b, &pair); err != nil {
		return err
	}
	if len(pair) != 2 {
		return fmt.Errorf("an alternative has %d members; it is a token and its log probability", len(pair))
	}
	if err := json.Unmarshal(pair[0], &a.ID); err != nil {
		return err
	}
	return json.Unmarshal(pair[1], &a.LogProb)
}

// checkProbs looks at the log probabilities of n tokens.
func checkProbs(list []*TokenProb, n int) error {
	if len(list) > 0 && len(list) != n {
		return fmt.Errorf("log probabilities of %d tokens with %d tokens", len(list), n)
	}
	in := func(x float32) bool { return x >= minProb && x <= 0 }
	for i, p := range list {
		if p == nil {
			continue
		}
		if !in(p.LogProb) || len(p.Top) > MaxAlternatives {
			return fmt.Errorf("token %d: log probability %g, %d alternatives", i, p.LogProb, len(p.Top))
		}
		for _, a := range p.Top {
			if a.ID < 0 || !in(a.LogProb) {
				return fmt.Errorf("token %d: an alternative is %d with %g", i, a.ID, a.LogProb)
			}
		}
	}
	return nil
}

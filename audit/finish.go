package audit

import (
	"errors"
	"fmt"

	"github.com/geistnet/geist/ghost"
)

// Ended checks that an answer ended for the reason a receipt gives, which no
// trace tells. ends reports whether an answer, not empty, ends with one of the
// model's end tokens or with a stop text of the request; it needs the tokenizer
// and is asked about ever longer beginnings of the answer. If it is nil, only what
// needs no tokenizer is checked. cancelled: the client stopped the answer itself.
func Ended(run *Run, q *ghost.Request, why ghost.Finish, cancelled bool, ends func(answer []int32) bool) error {
	n := len(run.Answer)
	for i := 1; ends != nil && i < n; i++ {
		if ends(run.Answer[:i]) {
			return fmt.Errorf("the answer goes on after its end at token %d", i-1)
		}
	}
	switch why {
	case ghost.FinishStop:
		if n == 0 || ends != nil && !ends(run.Answer) {
			return errors.New("the answer is said to have ended by itself; it did not")
		}
	case ghost.FinishLength:
		if n < q.MaxTokens && len(run.Prompt)+n < run.Model.Context {
			return fmt.Errorf("the answer is said to have ended by its length; it has %d of at most %d tokens", n, q.MaxTokens)
		}
	case ghost.FinishCancelled:
		if !cancelled {
			return errors.New("the answer is said to have been cancelled; it was not")
		}
	default:
		return fmt.Errorf("an answer cannot end by %.40q", why)
	}
	return nil
}

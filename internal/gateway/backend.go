package gateway

import (
	"context"

	"github.com/geistnet/geist/internal/dialog"
)

// Backend gets answers. Its methods are called concurrently, and the end of a
// context ends what was begun with it, at once and unpaid from there on. Errors
// of type *dialog.Error reach the client in words and status; others are failures.
type Backend interface {
	// Models lists what can be asked now, in an order that stays the same.
	Models(ctx context.Context) ([]dialog.Model, error)
	// Ask begins an answer. It may return before anybody has been found who
	// answers: errors can come from Next as well.
	Ask(ctx context.Context, q *dialog.Question) (dialog.Answer, error)
	Embed(ctx context.Context, q *dialog.EmbedQuestion) (*dialog.Vectors, error)
}

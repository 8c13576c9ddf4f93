package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"

	"github.com/geistnet/geist/internal/dialog"
)

// errGone means that the client takes no more: there is nobody to tell.
var errGone = errors.New("the client went away")

// httpError is an error of this package's own.
type httpError struct {
	status  int
	code    string
	message string
}

func (e *httpError) Error() string { return e.message }

// A problem is an error as clients see it. Its JSON is the value of "error" in
// OpenAI's shape.
type problem struct {
	status int
	retry  float64 // seconds; 0: not said

	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    string  `json:"code"`
	Price   *int64  `json:"price_msat,omitempty"`
}

// kinds is what each kind of error is in HTTP.
var kinds = map[dialog.Kind]problem{
	dialog.Invalid:     {status: 400, Type: "invalid_request_error", Code: "invalid_value"},
	dialog.Unsupported: {status: 400, Type: "invalid_request_error", Code: "unsupported_value"},
	dialog.Context:     {status: 400, Type: "invalid_request_error", Code: "context_length_exceeded"},
	dialog.NoModel:     {status: 404, Type: "invalid_request_error", Code: "model_not_found"},
	dialog.NotFound:    {status: 404, Type: "invalid_request_error", Code: "not_found"},
	dialog.Mismatch:    {status: 422, Type: "invalid_request_error", Code: "demand_not_met"},
	dialog.NoFunds:     {status: 402, Type: "insufficient_quota", Code: "insufficient_quota"},
	dialog.Overloaded:  {status: 429, Type: "rate_limit_error", Code: "rate_limit_exceeded", retry: 1},
	dialog.Unavailable: {status: 503, Type: "server_error", Code: "unavailable", retry: 5},
	dialog.Failed:      {status: 502, Type: "server_error", Code: "provider_failed"},
	dialog.Rejected:    {status: 502, Type: "server_error", Code: "answer_rejected"},
}

// explain turns any error into what a client may know. What is nobody's fault
// but ours is logged and not told.
func (c *call) explain(err error) problem {
	var d *dialog.Error
	var own *httpError
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &d):
		p, ok := kinds[d.Kind]
		if !ok {
			break
		}
		p.Message = d.Message
		if d.Param != "" {
			p.Param = &d.Param
		}
		if d.RetryAfter > 0 {
			p.retry = d.RetryAfter.Seconds()
		}
		if d.Kind == dialog.NoFunds {
			p.Price = &d.Price
		}
		return p
	case errors.As(err, &own):
		kind := "invalid_request_error"
		if own.status == http.StatusUnauthorized {
			kind = "authentication_error"
		}
		return problem{status: own.status, Type: kind, Code: own.code, Message: own.message}
	case errors.As(err, &large):
		return problem{status: http.StatusRequestEntityTooLarge, Type: "invalid_request_error", Code: "body_too_large", Message: fmt.Sprintf("the body has more than the %d bytes that a request may have", large.Limit)}
	case errors.Is(err, context.DeadlineExceeded):
		return problem{status: http.StatusGatewayTimeout, Type: "server_error", Code: "timeout", Message: "the answer took too long"}
	}
	c.g.opt.Log.LogAttrs(c.ctx, slog.LevelError, "request failed", slog.String("id", c.id), slog.Any("error", err))
	return problem{status: http.StatusInternalServerError, Type: "server_error", Code: "internal_error", Message: "the answer failed here; the log says why, at request " + c.id}
}

// body is an error in the shape of the route's API.
func (c *call) body(p problem) any {
	if c.route != nil && c.route.ollama {
		return map[string]any{"error": p.Message, "code": p.Code}
	}
	return map[string]any{"error": p}
}

// fail answers with an error, unless the client is gone or the answer had begun.
func (c *call) fail(err error) {
	// A body that does not arrive ends the request's context too.
	var own *httpError
	if errors.Is(err, errGone) || c.w.code != 0 || c.r.Context().Err() != nil && !errors.As(err, &own) {
		return
	}
	p := c.explain(err)
	h := c.w.Header()
	if p.retry > 0 {
		h.Set("Retry-After", fmt.Sprint(math.Ceil(p.retry)))
		h.Set("Retry-After-Ms", fmt.Sprint(math.Ceil(p.retry*1000)))
	}
	if p.status == http.StatusUnprocessableEntity || p.status == http.StatusPaymentRequired {
		h.Set("X-Should-Retry", "false")
	}
	if err := c.json(p.status, c.body(p)); err != nil {
		c.g.opt.Log.LogAttrs(c.ctx, slog.LevelDebug, "error not sent", slog.String("id", c.id), slog.Any("error", err))
	}
}

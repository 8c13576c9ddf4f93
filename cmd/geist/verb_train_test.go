package main

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// TestPrepared ends with its context though what it waits for does not.
func TestPrepared(t *testing.T) {
	e, _, stderr := command(t)
	ctx, cancel := context.WithCancel(t.Context())
	never := make(chan struct{})
	defer close(never)
	_, err := prepared(ctx, e, func() (int, error) {
		cancel()
		<-never
		return 1, nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want the context's", err)
	}
	n, err := prepared(t.Context(), e, func() (int, error) { return 2, nil })
	if n != 2 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if !strings.Contains(stderr.String(), "preparing the text") {
		t.Errorf("nothing is said: %q", stderr)
	}
}

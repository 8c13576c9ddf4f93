package gateway

import (
	"context"
	"flag"
	"os"
	"os/signal"
	"testing"
)

var listen = flag.String("listen", "", "let TestServe serve a fake that knows every model, at this address, until it is interrupted")

// TestServe is the server that clients of other projects are run against:
//
//	go test ./internal/gateway -run TestServe -timeout 0 -listen 127.0.0.1:11500
func TestServe(t *testing.T) {
	if *listen == "" {
		t.Skip("no -listen")
	}
	g, err := New(Options{Backend: &fake{any: true}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := g.Listen(*listen)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	s := Server(g)
	go func() {
		<-ctx.Done()
		s.Close()
	}()
	t.Log(s.Serve(l))
}

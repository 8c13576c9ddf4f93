package node

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"testing"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/author"
	"github.com/geistnet/geist/internal/rows"
	"github.com/geistnet/geist/internal/tales"
)

// listed asks a provider which tables it serves.
func listed(t *testing.T, url string) (names []string) {
	t.Helper()
	a, err := http.Get(url + "/geist/v1/rows")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	var l struct{ Tables []struct{ Name string } }
	if err := json.NewDecoder(a.Body).Decode(&l); err != nil {
		t.Fatal(err)
	}
	for _, x := range l.Tables {
		names = append(names, x.Name)
	}
	return names
}

// TestRows: a provider serves the rows of what it offers where it takes jobs, until
// it offers that no more, and closes while rows are asked for.
func TestRows(t *testing.T) {
	var g *ghost.Model
	c := Default(t.TempDir())
	c.Listen, c.Provide = "127.0.0.1:0", "127.0.0.1:0"
	c.Models = []Offer{{Model: tales.Name, Sessions: 1, Context: 64, Threads: 1}}
	var secret ghost.Secret
	secret[31] = 1
	n, err := Start(t.Context(), c, Parts{Secret: secret, Version: "test", Open: func(ctx context.Context, _ string) (*Opened, error) {
		f, err := tales.Open()
		if err != nil {
			return nil, err
		}
		g, err = author.Build(ctx, f, author.Options{}, nil)
		return &Opened{File: f, Ghost: g, Name: tales.Name, Quantisation: "q8_0"}, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	if got := listed(t, n.ProvideURL()); len(got) != len(rows.Memory(g)) || len(got) == 0 {
		t.Errorf("it serves %v", got)
	}
	client, err := rows.NewClient(g, rows.Options{Servers: []string{n.ProvideURL()}, Nodes: 64, Cache: 1})
	if err != nil {
		t.Fatal(err)
	}
	f, err := tales.Open()
	if err != nil {
		t.Fatal(err)
	}
	x := &g.Tensors[rows.Memory(g)[0]]
	row := make([]byte, x.Format.RowBytes(x.Cols))
	if err := client.Rows(x.Name, []int{7}, row); err != nil || !bytes.Equal(row, f.Tensor(x.Name).Data[7*len(row):][:len(row)]) {
		t.Errorf("row 7: %v", err)
	}
	if asks := n.Asks(); len(asks) != 1 || asks[0].Model != g.ID() || asks[0].Endpoints[0] != n.ProvideURL() {
		t.Errorf("%d asks", len(asks))
	}
	if err := n.Withdraw(t.Context(), g.ID()); err != nil {
		t.Error(err)
	}
	if got := listed(t, n.ProvideURL()); len(got) != 0 {
		t.Errorf("it serves %v of a model that is no longer offered", got)
	}
	if err := n.Offer(t.Context(), c.Models[0], nil); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; client.Rows(x.Name, []int{i % x.Rows}, make([]byte, len(row))) == nil; i++ {
		}
	}()
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	<-done
}

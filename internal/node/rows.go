package node

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/market"
	"github.com/geistnet/geist/internal/rows"
)

// rowTime is how long a request for rows may take to come, and its answer to go.
const rowTime = 30 * time.Second

// rowHandler serves rows of the models that are offered. The server at Provide has
// no such limits of time, because answers of models stream for minutes.
func (n *Node) rowHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		c := http.NewResponseController(w)
		end := time.Now().Add(rowTime)
		// Only a connection that is gone refuses.
		if c.SetReadDeadline(end) != nil || c.SetWriteDeadline(end) != nil {
			http.Error(w, "the connection is gone", http.StatusInternalServerError)
			return
		}
		n.rows.ServeHTTP(w, q)
		_ = c.Flush()
		_ = c.SetWriteDeadline(time.Time{}) // the connection may go on with a job
	})
}

// openRows serves the rows of a model that has memory.
func (n *Node) openRows(ctx context.Context, s *serving, g *ghost.Model) error {
	if len(rows.Memory(g)) == 0 {
		return nil
	}
	tables, err := rows.Open(ctx, s.file, g)
	if err != nil {
		return fmt.Errorf("serve its rows: %w", err)
	}
	s.noRows, err = n.rows.Add(tables)
	return err
}

// Asks lists the offers that are known, each once.
func (n *Node) Asks() []*market.Ask { return n.view.Asks() }

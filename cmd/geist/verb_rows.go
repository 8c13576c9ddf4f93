package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/rows"
)

// Rows serves rows of memory tables, and checks who does.
func (v verbs) Rows() *cobra.Command {
	c := group("rows", "Serve rows of a model's memory, and check servers of them", v.rowsServe(), v.rowsCheck())
	c.Long = `A model with memory blocks reads a few rows of large tables for each token. Whoever
has the model file can serve rows to others; whoever has the Ghost file needs to
trust no server, because each answer comes with a proof. The protocol is
docs/spec/rows.md.`
	return c
}

// drain is how long answers in work may take after a server is told to stop.
const drain = 10 * time.Second

func (v verbs) rowsServe() *cobra.Command {
	c := &cobra.Command{
		Use:   "serve MODEL",
		Short: "Serve the rows of a model's memory tables over HTTP",
		Long: `Hashes the memory tables of the model once, keeps their trees in memory (64 bytes a
row), and serves rows with proofs until it is interrupted; answers in work are
finished first. Rows are read from the model file.`,
		Example:           "  geist rows serve tales\n  geist rows serve tales --addr 0.0.0.0:4378",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: v.completeModels,
	}
	addr := c.Flags().String("addr", "127.0.0.1:4378", "listen here")
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		if _, _, err := net.SplitHostPort(*addr); err != nil {
			return fmt.Errorf("%w: --addr: %q is no address such as 127.0.0.1:4378: %w", errUsage, *addr, err)
		}
		o, err := v.openServed(ctx, args[0])
		if err != nil {
			return err
		}
		f, g := o.File, o.Ghost
		defer f.Close()
		if len(rows.Memory(g)) == 0 {
			return fmt.Errorf("%s has no memory blocks; there are no rows to serve", console.Clean(f.Path))
		}
		tables, err := rows.Open(ctx, f, g)
		if err != nil {
			return err
		}
		s, err := rows.NewServer(tables)
		if err != nil {
			return err
		}
		l, err := net.Listen("tcp", *addr)
		if err != nil {
			return fmt.Errorf("%w; give another address with --addr", err)
		}
		if *asJSON {
			x := rowServer{URL: "http://" + l.Addr().String(), Model: o.Name, ID: g.ID().String()}
			for i := range tables {
				t := &tables[i]
				x.Tables = append(x.Tables, rowTable{t.Name, t.Rows, t.RowBytes(), t.Root.String()})
			}
			if err := v.out.JSON(x); err != nil {
				return errors.Join(err, l.Close())
			}
			return serveUntil(ctx, s.HTTP(), l)
		}
		for i := range tables {
			t := &tables[i]
			if _, err := fmt.Fprintf(v.out.W, "%s: %d rows of %d bytes, root %v\n", console.Clean(t.Name), t.Rows, t.RowBytes(), t.Root); err != nil {
				return errors.Join(err, l.Close())
			}
		}
		if _, err := fmt.Fprintf(v.out.W, "serving at http://%v\n", l.Addr()); err != nil {
			return errors.Join(err, l.Close())
		}
		return serveUntil(ctx, s.HTTP(), l)
	}
	return c
}

// rowServer is what "rows serve --json" says before it serves.
type rowServer struct {
	URL    string     `json:"url"`
	Model  string     `json:"model"`
	ID     string     `json:"id"`
	Tables []rowTable `json:"tables"`
}

type rowTable struct {
	Name     string `json:"name"`
	Rows     int    `json:"rows"`
	RowBytes int    `json:"row_bytes"`
	Root     string `json:"root"`
}

// serveUntil serves until ctx ends, and then finishes what is in work.
func serveUntil(ctx context.Context, h *http.Server, l net.Listener) error {
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
		defer cancel()
		err := h.Shutdown(end)
		if err != nil {
			err = errors.Join(fmt.Errorf("answers that took longer than %v were cut: %w", drain, err), h.Close())
		}
		stopped <- err
	})
	err := h.Serve(l)
	if !errors.Is(err, http.ErrServerClosed) || stop() {
		return err
	}
	return <-stopped
}

func (v verbs) rowsCheck() *cobra.Command {
	c := &cobra.Command{
		Use:   "check MODEL --server URL",
		Short: "Ask servers for random rows and verify them",
		Long: `MODEL is a model or the path of its Ghost file. Each server is asked for random rows of
every memory table, 16 at a time, and every row is verified. The exit code is 1 if
a server gave a wrong row or none.`,
		Example:           "  geist rows check tales.ghost --server http://127.0.0.1:4378",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: v.completeModels,
	}
	servers := c.Flags().StringArray("server", nil, "base URL of a server; may be given more than once")
	count := c.Flags().Int("rows", 1024, "rows of each table")
	seed := c.Flags().Uint64("seed", 1, "of the choice of rows")
	nodes := c.Flags().Int("nodes", 1<<16, "most hashes of each table's tree that are fetched first; with more of them proofs are shorter")
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case len(*servers) == 0:
			return fmt.Errorf("%w: name a server with --server", errUsage)
		case *count < 1 || *count > 1<<24:
			return fmt.Errorf("%w: --rows is %d; it must be between 1 and %d", errUsage, *count, 1<<24)
		case *nodes < 1 || *nodes > 1<<20:
			return fmt.Errorf("%w: --nodes is %d; it must be between 1 and %d", errUsage, *nodes, 1<<20)
		}
		for _, s := range *servers {
			if u, err := url.Parse(s); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
				return fmt.Errorf("%w: --server: %q is no http or https URL", errUsage, s)
			}
		}
		g, err := v.ghostOrModel(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if len(rows.Memory(g)) == 0 {
			return fmt.Errorf("%s has no memory blocks", console.Clean(args[0]))
		}
		var out []checkedServer
		bad := false
		for _, server := range *servers {
			x, err := checkServer(g, server, *count, *nodes, *seed)
			if err != nil {
				return err
			}
			bad = bad || x.Error != ""
			out = append(out, x)
		}
		if *asJSON {
			err = v.out.JSON(out)
		} else {
			err = v.sayServers(out)
		}
		if err == nil && bad {
			err = errReported
		}
		return err
	}
	return c
}

// ghostOrModel reads a Ghost file, or has that of a model.
func (e *env) ghostOrModel(ctx context.Context, ref string) (*ghost.Model, error) {
	if strings.HasSuffix(ref, ".ghost") {
		b, err := os.ReadFile(ref)
		if err != nil {
			return nil, err
		}
		return ghost.Decode(b)
	}
	o, err := e.openServed(ctx, ref)
	if err != nil {
		return nil, err
	}
	return o.Ghost, o.File.Close()
}

// checkedServer is what "rows check --json" says of a server.
type checkedServer struct {
	Server   string  `json:"server"`
	Error    string  `json:"error,omitempty"`
	Wrong    bool    `json:"wrong"` // it gave a wrong row
	Rows     int64   `json:"rows"`
	Received int64   `json:"received_bytes"`
	PerRow   float64 `json:"bytes_per_row"`
	Verify   float64 `json:"verify_ms"`
}

// lookupRows is how many rows are asked for at once: about as many as a token
// reads.
const lookupRows = 16

func checkServer(g *ghost.Model, url string, count, nodes int, seed uint64) (checkedServer, error) {
	c, err := rows.NewClient(g, rows.Options{Servers: []string{url}, Nodes: nodes})
	if err != nil {
		return checkedServer{}, fmt.Errorf("%w: %w", errUsage, err)
	}
	r := rand.New(rand.NewPCG(seed, 0))
	x := checkedServer{Server: url}
	for _, i := range rows.Memory(g) {
		t := &g.Tensors[i]
		size := t.Format.RowBytes(t.Cols)
		for left := count; left > 0; left -= lookupRows {
			ids := make([]int, min(left, lookupRows))
			for j := range ids {
				ids[j] = r.IntN(t.Rows)
			}
			if err = c.Rows(t.Name, ids, make([]byte, len(ids)*size)); err != nil {
				break
			}
		}
		if err != nil {
			x.Error = err.Error()
			break
		}
	}
	s := c.Stats()
	x.Wrong, x.Rows, x.Received, x.Verify = len(c.Dropped()) > 0, s.Rows, s.Received, float64(s.Verify.Microseconds())/1000
	x.PerRow = float64(x.Received) / float64(max(1, x.Rows))
	return x, nil
}

func (v verbs) sayServers(out []checkedServer) error {
	for _, x := range out {
		var err error
		switch {
		case x.Error != "":
			_, err = fmt.Fprintf(v.out.W, "%s: %s\n", console.Clean(x.Server), console.Clean(x.Error))
		default:
			_, err = fmt.Fprintf(v.out.W, "%s: %d rows, all right (%.0f bytes a row, %.1f ms to verify all)\n", console.Clean(x.Server), x.Rows, x.PerRow, x.Verify)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

package rows

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/hashmany"
	"github.com/geistnet/geist/merkle"
	"github.com/geistnet/geist/sat"
)

// Options of a Client. Servers has to be given.
type Options struct {
	Servers []string      // base URLs
	HTTP    *http.Client  // nil: one of its own; redirects are not followed then
	Cache   int64         // bytes of rows that are kept; 0: 64 MiB
	Nodes   int           // most hashes of each table's tree that are kept; 0: 2¹⁶
	Timeout time.Duration // of one request; 0: 20 s
	Slow    time.Duration // margin by which a server is slow; 0: 100 ms
	// Context ends the fetches of Rows; nil: nothing does.
	Context context.Context
	// Dropped is called once for each server that gave a wrong row, from the
	// goroutine that met it. It may be nil.
	Dropped func(server string, reason error)
}

// Client fetches rows of a model's memory tables. Its methods may be called from
// several goroutines.
type Client struct {
	model   *ghost.Model
	opt     Options
	tables  map[string]*wanted // by name
	cache   *cache
	servers []*server
	next    atomic.Uint32   // where to begin among servers
	hashed  map[string]bool // names of tables that hashed n-grams read
	gather  gather

	requests, out, in, fetched, hits, verify atomic.Int64
}

// wanted is a table as the client knows it.
type wanted struct {
	sat.Table
	number uint32 // in keys: tables of one root have one number
	mu     sync.Mutex
	top    *sat.Top // nil until a server has given it
}

type server struct {
	url     string
	fails   atomic.Int32 // in a row, of a server that did not answer
	dropped atomic.Pointer[error]
	failed  atomic.Pointer[error] // the last time that it did not answer
	answers atomic.Int64          // that were right
	took    atomic.Int64          // ns of an answer, about; 0: there was none
}

// A WrongError says that a server gave bytes that are not the table's.
type WrongError struct {
	Server string
	Err    error
}

func (e *WrongError) Error() string { return fmt.Sprintf("%s gave wrong rows: %v", e.Server, e.Err) }

// Unwrap is what is wrong.
func (e *WrongError) Unwrap() error { return e.Err }

// NewClient makes a client for the memory tables of m, which has the roots: as
// a Ghost file says it. Nothing is asked yet.
func NewClient(m *ghost.Model, opt Options) (*Client, error) {
	if opt.Cache == 0 {
		opt.Cache = 64 << 20
	}
	if opt.Nodes == 0 {
		opt.Nodes = 1 << 16
	}
	if opt.Timeout == 0 {
		opt.Timeout = 20 * time.Second
	}
	if opt.Slow == 0 {
		opt.Slow = 100 * time.Millisecond
	}
	if opt.Context == nil {
		opt.Context = context.Background()
	}
	if opt.HTTP == nil {
		opt.HTTP = &http.Client{
			Transport:     &http.Transport{MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute, DisableCompression: true, Proxy: http.ProxyFromEnvironment},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	c := &Client{model: m, opt: opt, tables: map[string]*wanted{}, cache: newCache(opt.Cache), hashed: map[string]bool{}}
	numbers := map[merkle.Hash]*wanted{}
	for _, i := range Memory(m) {
		g := &m.Tensors[i]
		t := sat.Table{Root: g.Root, Rows: g.Rows, Format: g.Format, Cols: g.Cols}
		if err := t.Check(); err != nil {
			return nil, fmt.Errorf("table %q: %w", g.Name, err)
		}
		w := numbers[g.Root]
		if w == nil || w.Table != t {
			w = &wanted{Table: t, number: uint32(i)}
			numbers[g.Root] = w
		}
		c.tables[g.Name] = w
	}
	if len(c.tables) == 0 {
		return nil, errors.New("the model has no memory tables")
	}
	for i := range m.Layers {
		if x := m.Layers[i].Memory; x != nil && m.Rules[x.Rule].Hash != nil {
			c.hashed[m.Tensors[x.Table].Name] = true
		}
	}
	c.gather.tables = len(c.hashed)
	for _, s := range opt.Servers {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("server %q is no URL of http or https", s)
		}
		c.servers = append(c.servers, &server{url: strings.TrimSuffix(s, "/")})
	}
	if len(c.servers) == 0 {
		return nil, errors.New("there are no servers of rows")
	}
	return c, nil
}

// Stats is what a client has done so far.
type Stats struct {
	Requests int64
	Sent     int64 // bytes of bodies
	Received int64 // bytes of bodies, wrong ones too
	Rows     int64 // rows that were fetched and are right
	Cached   int64 // rows that were there already
	Verify   time.Duration
}

// Stats reports what was done so far.
func (c *Client) Stats() Stats {
	return Stats{c.requests.Load(), c.out.Load(), c.in.Load(), c.fetched.Load(), c.hits.Load(), time.Duration(c.verify.Load())}
}

// Dropped lists the servers that gave wrong rows, with what was wrong.
func (c *Client) Dropped() []WrongError {
	var out []WrongError
	for _, s := range c.servers {
		if err := s.dropped.Load(); err != nil {
			out = append(out, WrongError{s.url, *err})
		}
	}
	return out
}

// A ServerState is what came of one server so far.
type ServerState struct {
	URL     string
	Answers int64         // that were right
	Took    time.Duration // of an answer, about; 0: there was none
	Dropped error         // why it is asked no more; nil: it is
	Failed  error         // why it last gave no answer; nil: it always did
}

// Servers says what came of each server, in the order of Options.Servers.
func (c *Client) Servers() []ServerState {
	out := make([]ServerState, len(c.servers))
	for i, s := range c.servers {
		out[i] = ServerState{URL: s.url, Answers: s.answers.Load(), Took: time.Duration(s.took.Load())}
		if err := s.dropped.Load(); err != nil {
			out[i].Dropped = *err
		}
		if err := s.failed.Load(); err != nil {
			out[i].Failed = *err
		}
	}
	return out
}

// Table says what a memory table is by the name of its tensor.
func (c *Client) Table(name string) (f arith.Format, rows, cols int, ok bool) {
	t := c.tables[name]
	if t == nil {
		return 0, 0, 0, false
	}
	return t.Format, t.Rows, t.Cols, true
}

// Rows writes the rows of a table into dst, one after the other in order of
// ids, which may name a row twice. Every row was checked. Calls for different
// tables of hashed n-grams at the same time become one request.
func (c *Client) Rows(name string, ids []int, dst []byte) error {
	t := c.tables[name]
	if t == nil {
		return fmt.Errorf("%q is no memory table of the model", name)
	}
	size := t.RowBytes()
	if len(dst) != len(ids)*size {
		return fmt.Errorf("room of %d bytes for %d rows of %d", len(dst), len(ids), size)
	}
	missing := map[uint64][]int{} // places in dst
	for i, id := range ids {
		if id < 0 || id >= t.Rows {
			return fmt.Errorf("row %d of table %q with %d", id, name, t.Rows)
		}
		if b := c.cache.get(key{t.number, uint32(id)}); b != nil {
			c.hits.Add(1)
			copy(dst[i*size:][:size], b)
			continue
		}
		missing[uint64(id)] = append(missing[uint64(id)], i)
	}
	want := make([]uint64, 0, len(missing))
	for id := range missing {
		want = append(want, id)
	}
	slices.Sort(want)
	place := func(of *wanted, id uint64, row []byte) {
		if of != t {
			return
		}
		for _, i := range missing[id] {
			copy(dst[i*size:][:size], row)
		}
	}
	if c.hashed[name] && c.gather.tables > 1 {
		return c.join(name, part{t, want}, place)
	}
	return c.fetch(c.opt.Context, []part{{t, want}}, place)
}

// Prompt fetches the rows that hashed n-grams read for all of tokens and that
// are not there yet, in one request where it is not too long. Rows then finds
// them, if the cache has room.
func (c *Client) Prompt(ctx context.Context, tokens []int32) error {
	wants := map[*wanted][]uint64{}
	var ids []int
	for i := range c.model.Layers {
		x := c.model.Layers[i].Memory
		if x == nil || c.model.Rules[x.Rule].Hash == nil {
			continue
		}
		h := c.model.Rules[x.Rule].Hash
		t := c.tables[c.model.Tensors[x.Table].Name]
		for at := range tokens {
			ids = h.IDs(ids[:0], tokens[:at+1])
			for _, id := range ids {
				if c.cache.get(key{t.number, uint32(id)}) == nil {
					wants[t] = append(wants[t], uint64(id))
				}
			}
		}
	}
	return c.fetch(ctx, sorted(wants), func(*wanted, uint64, []byte) {})
}

// part is rows of one table that are to be fetched.
type part struct {
	t   *wanted
	ids []uint64 // ascending strictly
}

// fetch gets rows, keeps them and gives each to use. It cuts what is too long
// for one request.
func (c *Client) fetch(ctx context.Context, parts []part, use use) error {
	var now []part
	count, size := 0, 0
	flush := func() error {
		if len(now) == 0 {
			return nil
		}
		err := c.request(ctx, now, use)
		now, count, size = now[:0], 0, 0
		return err
	}
	for _, p := range parts {
		for len(p.ids) > 0 {
			// A proof has at most 32 hashes for each row.
			per := p.t.RowBytes() + 32*len(merkle.Hash{})
			room := min(maxRows-count, (maxAnswerBytes-size)/per)
			if len(now) == maxWants || room < 1 {
				if count == 0 {
					return fmt.Errorf("rows of %d bytes are too long to be fetched", p.t.RowBytes())
				}
				if err := flush(); err != nil {
					return err
				}
				continue
			}
			n := min(room, len(p.ids))
			now = append(now, part{p.t, p.ids[:n]})
			count, size, p.ids = count+n, size+n*per, p.ids[n:]
		}
	}
	return flush()
}

// request gets rows that fit into one request.
func (c *Client) request(ctx context.Context, parts []part, use use) error {
	wants := make([]Want, len(parts))
	tops := make([]*sat.Top, len(parts))
	sizes := make([]int, len(parts))
	all := 0
	for i, p := range parts {
		var err error
		if tops[i], err = c.top(ctx, p.t); err != nil {
			return err
		}
		wants[i] = Want{p.t.Root, tops[i].Level(), p.ids}
		if sizes[i], err = tops[i].Size(p.ids); err != nil {
			return err
		}
		all += sizes[i]
	}
	body := encode(wants)
	return c.ask(ctx, http.MethodPost, "/geist/v1/rows", body, all, func(b []byte) error {
		opened := make([][][]byte, len(parts))
		for i, p := range parts {
			var err error
			if opened[i], err = tops[i].Open(b[:sizes[i]], p.ids); err != nil {
				return err
			}
			b = b[sizes[i]:]
		}
		for i, p := range parts {
			for j, row := range opened[i] {
				c.cache.add(key{p.t.number, uint32(p.ids[j])}, row)
				use(p.t, p.ids[j], row)
			}
			c.fetched.Add(int64(len(p.ids)))
		}
		return nil
	})
}

// top is the upper part of a table's tree, fetched when it is first needed.
func (c *Client) top(ctx context.Context, t *wanted) (*sat.Top, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.top != nil {
		return t.top, nil
	}
	level := sat.Level(t.Rows, c.opt.Nodes)
	n := sat.Width(t.Rows, level)
	path := fmt.Sprintf("/geist/v1/rows/%v/%d", t.Root, level)
	err := c.ask(ctx, http.MethodGet, path, nil, n*len(merkle.Hash{}), func(b []byte) error {
		hashes := make([]merkle.Hash, n)
		for i := range hashes {
			b = b[copy(hashes[i][:], b):]
		}
		var err error
		t.top, err = sat.NewTop(t.Table, level, hashes, hashmany.New())
		return err
	})
	return t.top, err
}

// rounds is how often servers that did not answer are asked, and pause the time
// before the second round; it doubles.
const (
	rounds = 3
	pause  = 200 * time.Millisecond
)

// ask asks one server after the other until one gives an answer of size bytes
// that check accepts. A server whose answer it does not is dropped.
func (c *Client) ask(ctx context.Context, method, path string, body []byte, size int, check func(b []byte) error) error {
	var last error
	for round := range rounds {
		if round > 0 {
			timer := time.NewTimer(pause << (round - 1))
			select {
			case <-ctx.Done():
				timer.Stop()
				return ctx.Err()
			case <-timer.C:
			}
		}
		asked := false
		for _, s := range c.inOrder() {
			if s.dropped.Load() != nil {
				continue
			}
			asked = true
			begin := time.Now()
			b, err := c.once(ctx, s, method, path, body, size)
			if err == nil {
				came := time.Now()
				err = check(b)
				c.verify.Add(int64(time.Since(came)))
				if err == nil {
					s.fails.Store(0)
					s.answers.Add(1)
					s.timed(came.Sub(begin))
					return nil
				}
				err = &WrongError{s.url, err}
			}
			var wrong *WrongError
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case errors.As(err, &wrong):
				if s.dropped.CompareAndSwap(nil, &wrong.Err) && c.opt.Dropped != nil {
					c.opt.Dropped(s.url, wrong.Err)
				}
			default:
				s.fails.Add(1)
				s.failed.Store(&err)
			}
			last = err
		}
		if !asked {
			break
		}
	}
	if last == nil {
		last = errors.New("all of them gave wrong rows earlier")
	}
	return &ServersError{Servers: c.Servers(), Last: last}
}

// A ServersError says that no server gave right rows. Others are needed.
type ServersError struct {
	Servers []ServerState
	Last    error
}

func (e *ServersError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "no server of %d gives the rows", len(e.Servers))
	for i, s := range e.Servers {
		b.WriteString([]string{": ", "; "}[min(i, 1)])
		switch {
		case s.Dropped != nil:
			fmt.Fprintf(&b, "%s gave wrong ones (%v)", s.URL, s.Dropped)
		case s.Failed != nil:
			b.WriteString(s.Failed.Error())
		default:
			b.WriteString(s.URL)
		}
	}
	return b.String()
}

// Unwrap is the last error of a server.
func (e *ServersError) Unwrap() error { return e.Last }

// A server is slow if it takes several times as long as the fastest, by a margin
// of Options.Slow. At times it is asked all the same: it may have become faster.
const (
	slowTimes = 4
	slowTurn  = 16 // of so many requests one goes to whose turn it is
)

// timed takes the time of an answer into account.
func (s *server) timed(d time.Duration) {
	old := s.took.Load()
	if old == 0 {
		s.took.Store(max(1, int64(d)))
		return
	}
	s.took.Store(old + (int64(d)-old)/4)
}

// inOrder lists the servers, those first that answered last, and of them the
// slow ones after the others; equal ones take turns.
func (c *Client) inOrder() []*server {
	n := int(c.next.Add(1))
	look := n%slowTurn != 0
	n += n / slowTurn // so that the turns of slow servers go round, too
	s := make([]*server, len(c.servers))
	best := int64(0)
	for i := range s {
		s[i] = c.servers[(n+i)%len(s)]
		if d := s[i].took.Load(); d > 0 && (best == 0 || d < best) {
			best = d
		}
	}
	rank := make(map[*server]int, len(s))
	for _, x := range s {
		rank[x] = 2 * int(x.fails.Load())
		if look && x.took.Load() > slowTimes*best+int64(c.opt.Slow) {
			rank[x]++
		}
	}
	slices.SortStableFunc(s, func(a, b *server) int { return rank[a] - rank[b] })
	return s
}

// once asks one server. Bytes that cannot be an honest answer are a WrongError.
func (c *Client) once(ctx context.Context, s *server, method, path string, body []byte, size int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opt.Timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, s.url+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/octet-stream")
	c.requests.Add(1)
	c.out.Add(int64(len(body)))
	a, err := c.opt.HTTP.Do(r)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(a.Body, 200))
		return nil, fmt.Errorf("%s: %s: %q", s.url, a.Status, text)
	}
	if a.ContentLength >= 0 && a.ContentLength != int64(size) {
		return nil, &WrongError{s.url, fmt.Errorf("an answer of %d bytes; expected %d", a.ContentLength, size)}
	}
	b := make([]byte, size)
	n, err := io.ReadFull(a.Body, b)
	c.in.Add(int64(n))
	if err != nil {
		if _, again := a.Body.Read(make([]byte, 1)); errors.Is(again, io.EOF) { // it meant to end here
			return nil, &WrongError{s.url, fmt.Errorf("an answer of %d bytes; expected %d", n, size)}
		}
		return nil, fmt.Errorf("%s: %w after %d of %d bytes", s.url, err, n, size)
	}
	if n, _ := a.Body.Read(make([]byte, 1)); n > 0 {
		return nil, &WrongError{s.url, fmt.Errorf("an answer of more than %d bytes", size)}
	}
	return b, nil
}

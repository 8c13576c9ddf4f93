package gateway

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/geistnet/geist/internal/dialog"
)

// Options of New. Only Backend is needed.
type Options struct {
	Backend Backend
	// Keys that clients may show. If there are any, every route demands one.
	Keys []string
	// Origins of web pages that may use the API, such as "https://chat.example";
	// "*" is all of them. None by default.
	Origins []string
	// Hosts are further names that this machine is reached by on its loopback
	// addresses, for a proxy in front of it.
	Hosts []string
	// Aliases are further names of models, for clients that have a name built in:
	// from the alias to the name that Backend knows. They are not listed, and
	// answers name the model.
	Aliases map[string]string
	// Page is what browsers get at "/"; nil: one line of text.
	Page http.Handler
	// More serves what is below /geist/, for the page, behind the same guard; nil:
	// nothing is there.
	More http.Handler
	// Ready tells why questions cannot be answered now; nil: the backend lists
	// a model.
	Ready func(ctx context.Context) error
	// Registry takes the metrics and is what /metrics shows; nil: a new one.
	Registry *prometheus.Registry
	Log      *slog.Logger // nil: nowhere
	Version  string
	Now      func() time.Time // nil: time.Now

	MaxBody      int64         // bytes of a request; 0: 16 MiB
	MaxStreams   int           // requests under way; 0: 4096
	ReadTimeout  time.Duration // for a body; 0: 30 s
	WriteTimeout time.Duration // for a reader to take a piece; 0: 30 s
	Silence      time.Duration // after which a stream gets a comment; 0: 15 s
}

// Receipts is what a Backend implements that keeps receipts.
type Receipts interface {
	// Receipt gives what is known of one by its id: a JSON object. The error is
	// of kind NotFound if there is none.
	Receipt(ctx context.Context, id string) (json.RawMessage, error)
}

// Gateway is the handler. Make it with New.
type Gateway struct {
	opt    Options
	origin *http.CrossOriginProtection
	paths  map[string]*route
	trees  []*route      // of routes that end with a name
	room   chan struct{} // one element for each request under way
	m      *metrics
}

// A route is one row of the table of paths.
type route struct {
	method, path string // a path that ends with "/" takes a name after it
	ollama       bool   // errors have the shape of that API
	work         bool   // counts against MaxStreams
	serve        func(*call) error
}

func (g *Gateway) routes() []*route {
	return []*route{
		{"POST", "/v1/chat/completions", false, true, (*call).chat},
		{"POST", "/v1/completions", false, true, (*call).complete},
		{"POST", "/v1/embeddings", false, true, (*call).embeddings},
		{"GET", "/v1/models", false, false, (*call).models},
		{"GET", "/v1/models/", false, false, (*call).model},
		{"GET", "/v1/receipts/", false, false, (*call).receipt},

		{"POST", "/api/chat", true, true, (*call).ollamaChat},
		{"POST", "/api/generate", true, true, (*call).ollamaGenerate},
		{"POST", "/api/embed", true, true, (*call).ollamaEmbed},
		{"POST", "/api/embeddings", true, true, (*call).ollamaEmbeddings},
		{"GET", "/api/tags", true, false, (*call).ollamaTags},
		{"GET", "/api/ps", true, false, (*call).ollamaRunning},
		{"POST", "/api/show", true, false, (*call).ollamaShow},
		{"GET", "/api/version", true, false, (*call).ollamaVersion},

		{"GET", "/", true, false, (*call).root},
		{"GET", "/v1", false, false, (*call).base},
		{"GET", "/healthz", false, false, (*call).healthy},
		{"GET", "/health", false, false, (*call).ready},
		{"GET", "/readyz", false, false, (*call).ready},
		{"GET", "/metrics", false, false, (*call).metrics},
		{"GET", "/openapi.yaml", false, false, (*call).contract},
	}
}

// New makes the handler. The error is about Options that contradict themselves.
func New(o Options) (*Gateway, error) {
	if o.Backend == nil {
		return nil, errors.New("gateway: no backend")
	}
	for _, k := range o.Keys {
		if k == "" {
			return nil, errors.New("gateway: an empty key")
		}
	}
	for alias, name := range o.Aliases {
		if _, again := o.Aliases[name]; again || alias == "" || name == "" || strings.Contains(alias+name, "@") {
			return nil, fmt.Errorf("gateway: the alias %q of %q; an alias and a model's name are wanted, both without @", alias, name)
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
	}
	o.MaxBody = orElse(o.MaxBody, 16<<20)
	o.MaxStreams = orElse(o.MaxStreams, 4096)
	o.ReadTimeout = orElse(o.ReadTimeout, 30*time.Second)
	o.WriteTimeout = orElse(o.WriteTimeout, 30*time.Second)
	o.Silence = orElse(o.Silence, 15*time.Second)

	g := &Gateway{opt: o, paths: map[string]*route{}, room: make(chan struct{}, o.MaxStreams)}
	var err error
	if g.m, err = newMetrics(o.Registry, o.Version); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	if g.origin, err = crossOrigin(o.Origins); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	for _, r := range g.routes() {
		if r.path != "/" && strings.HasSuffix(r.path, "/") {
			g.trees = append(g.trees, r)
			continue
		}
		g.paths[r.path] = r
	}
	return g, nil
}

func orElse[T comparable](v, other T) T {
	var zero T
	if v == zero {
		return other
	}
	return v
}

// find looks a request up; allow is the method of a path that has another.
func (g *Gateway) find(method, p string) (r *route, name, allow string) {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	r = g.paths[p]
	for _, t := range g.trees {
		if rest, ok := strings.CutPrefix(p, t.path); ok && rest != "" {
			r, name = t, rest
		}
	}
	if r != nil && r.method != method {
		return nil, "", r.method
	}
	return r, name, ""
}

// clean drops doubled and trailing slashes, which clients make when they join
// a base and a path.
func clean(p string) string {
	if p == "" {
		return "/"
	}
	return path.Clean("/" + p)
}

// A call is one request under way.
type call struct {
	g      *Gateway
	w      *recorder
	r      *http.Request
	ctx    context.Context
	route  *route
	id     string // of the request
	name   string // the rest of a path that ends with a name
	begin  time.Time
	first  time.Time // of the first piece of an answer
	served string    // the name of the model that served; "" before that is known
}

// ServeHTTP answers one request.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{g: g, w: &recorder{ResponseWriter: w}, r: r, ctx: r.Context(), id: newID(), begin: g.opt.Now()}
	p := clean(r.URL.Path)
	var allow string
	c.route, c.name, allow = g.find(r.Method, p)
	label := "other"
	if c.route != nil {
		label = c.route.path
	}
	c.w.Header().Set("X-Request-Id", c.id)
	c.w.Header().Set("X-Content-Type-Options", "nosniff")
	err := g.admit(c)
	switch {
	case err == errPreflight:
		c.w.WriteHeader(http.StatusNoContent)
	case err != nil:
		c.fail(err)
	case c.route == nil && g.opt.More != nil && strings.HasPrefix(p, "/geist/"):
		label = "/geist/"
		g.opt.More.ServeHTTP(c.w, r)
	case c.route == nil && allow != "":
		c.w.Header().Set("Allow", allow)
		c.fail(&httpError{http.StatusMethodNotAllowed, "method_not_allowed", fmt.Sprintf("%s takes %s, not %s", p, allow, r.Method)})
	case c.route == nil:
		c.fail(&httpError{http.StatusNotFound, "unknown_url", fmt.Sprintf("nothing is at %s; docs/api.md and /openapi.yaml list what there is", p)})
	default:
		if err := c.run(); err != nil {
			c.fail(err)
		}
	}
	took := g.opt.Now().Sub(c.begin)
	g.m.requests.WithLabelValues(c.served, label, fmt.Sprint(c.w.status())).Inc()
	g.m.duration.WithLabelValues(label).Observe(took.Seconds())
	g.opt.Log.LogAttrs(c.ctx, slog.LevelInfo, "request", slog.String("id", c.id), slog.String("method", r.Method), slog.String("route", label),
		slog.Int("status", c.w.status()), slog.Duration("took", took), slog.String("model", c.served))
}

func (c *call) run() error {
	if !c.route.work {
		return c.route.serve(c)
	}
	select {
	case c.g.room <- struct{}{}:
	default:
		return &dialog.Error{Kind: dialog.Overloaded, Message: fmt.Sprintf("%d requests are under way, which is as many as may be", cap(c.g.room)), RetryAfter: time.Second}
	}
	c.g.m.running.Inc()
	defer func() {
		c.g.m.running.Dec()
		<-c.g.room
	}()
	// Whatever ends the handler ends what it asked for.
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	c.ctx = ctx
	return c.route.serve(c)
}

func newID() string {
	var b [12]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Listen binds addr for a server of g. An address that other machines reach is
// refused unless keys are demanded.
func (g *Gateway) Listen(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	if tcp, ok := l.Addr().(*net.TCPAddr); len(g.opt.Keys) == 0 && (!ok || !tcp.IP.IsLoopback()) {
		return nil, errors.Join(fmt.Errorf("listen on %s: other machines reach this address, and no key is demanded; set one, or listen on 127.0.0.1", addr), l.Close())
	}
	return l, nil
}

// Server is a server of h with bounds on what connections may take.
func Server(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
}

// recorder notes what was answered.
type recorder struct {
	http.ResponseWriter
	code int
}

func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recorder) WriteHeader(code int) {
	if w.code == 0 {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.code == 0 {
		w.code = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// status is what metrics and logs say; 499: the client went away before.
func (w *recorder) status() int { return orElse(w.code, 499) }

// write sends b within the time that a reader has to take it.
func (c *call) write(b []byte) error {
	err := http.NewResponseController(c.w).SetWriteDeadline(time.Now().Add(c.g.opt.WriteTimeout))
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	_, err = c.w.Write(b)
	return err
}

// json sends v as the whole answer.
func (c *call) json(status int, v any) error {
	b, err := encode(v)
	if err != nil {
		return err
	}
	h := c.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", fmt.Sprint(len(b)))
	c.w.WriteHeader(status)
	if err := c.write(b); err != nil {
		return errGone
	}
	return nil
}

func (c *call) text(kind, s string) error {
	c.w.Header().Set("Content-Type", kind)
	if _, err := io.WriteString(c.w, s); err != nil {
		return errGone
	}
	return nil
}

// encode is JSON with a newline at the end. It leaves <, > and & as they are.
func encode(v any) ([]byte, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encode an answer: %w", err)
	}
	return []byte(b.String()), nil
}

// listed is the test of readiness where Options have none.
func (g *Gateway) listed(ctx context.Context) error {
	list, err := g.opt.Backend.Models(ctx)
	if err == nil && len(list) == 0 {
		err = errors.New("there is no model to ask")
	}
	return err
}

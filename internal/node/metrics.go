package node

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/geistnet/geist/internal/asker"
	"github.com/geistnet/geist/internal/job"
	"github.com/geistnet/geist/internal/provider"
)

// metrics count what parts of a node report. The gateway has its own.
type metrics struct {
	jobs     *prometheus.CounterVec
	tokens   *prometheus.CounterVec
	payments *prometheus.CounterVec
	audits   *prometheus.CounterVec
	proofs   prometheus.Counter
	wait     *prometheus.HistogramVec
	first    *prometheus.HistogramVec
	asks     *prometheus.CounterVec
}

func newMetrics() *metrics {
	m := &metrics{
		jobs:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "geist_provider_jobs_total", Help: "Jobs that ended, by model, phase and reason code."}, []string{"model", "phase", "code"}),
		tokens:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "geist_provider_tokens_total", Help: "Tokens of jobs that were not refused."}, []string{"model", "kind"}),
		payments: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "geist_payments_msat_total", Help: "Millisatoshi paid for jobs."}, []string{"direction"}),
		audits:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "geist_audits_total", Help: "Verdicts on answers that this node got: passed or failed."}, []string{"verdict"}),
		proofs:   prometheus.NewCounter(prometheus.CounterOpts{Name: "geist_provider_proofs_total", Help: "Proofs of answers that this node gave to others."}),
		wait:     prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "geist_provider_queue_seconds", Help: "Time until a job had a place.", Buckets: []float64{.001, .01, .1, .5, 1, 2, 5, 10, 30, 60}}, []string{"model"}),
		first:    prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "geist_provider_job_seconds", Help: "Time from order to end of a job.", Buckets: []float64{.05, .1, .5, 1, 2, 5, 10, 30, 60, 300}}, []string{"model"}),
		asks:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "geist_asker_jobs_total", Help: "Jobs that this node ordered, by model, phase and reason code."}, []string{"model", "phase", "code"}),
	}
	for _, v := range []string{"passed", "failed"} {
		m.audits.WithLabelValues(v) // so that a first failure is seen as a step
	}
	return m
}

// provided takes what the provider reports.
func (m *metrics) provided(h provider.Happening) {
	if h.Phase == "" {
		m.proofs.Inc()
		return
	}
	m.jobs.WithLabelValues(h.Name, string(h.Phase), string(h.Code)).Inc()
	if h.Phase != job.PhaseRefused {
		m.tokens.WithLabelValues(h.Name, "prompt").Add(float64(h.Prompt))
		m.tokens.WithLabelValues(h.Name, "answer").Add(float64(h.Tokens))
		m.wait.WithLabelValues(h.Name).Observe(h.Wait.Seconds())
		m.first.WithLabelValues(h.Name).Observe(h.Took.Seconds())
	}
	m.payments.WithLabelValues("in").Add(float64(h.Paid))
}

// asked takes what the asker reports.
func (m *metrics) asked(e asker.Entry) {
	m.asks.WithLabelValues(e.Model, string(e.Phase), string(e.Code)).Inc()
	m.payments.WithLabelValues("out").Add(float64(e.PaidMsat))
}

// judged takes a verdict.
func (m *metrics) judged(e asker.Entry) { m.audits.WithLabelValues(e.Verdict).Inc() }

// register adds them to a registry, with gauges that look at n.
func (m *metrics) register(r *prometheus.Registry, n *Node) error {
	for _, c := range []prometheus.Collector{m.jobs, m.tokens, m.payments, m.audits, m.proofs, m.wait, m.first, m.asks, &gauges{n,
		prometheus.NewDesc("geist_provider_requests_running", "Jobs that have a place.", []string{"model"}, nil),
		prometheus.NewDesc("geist_provider_requests_waiting", "Jobs that wait for a place.", []string{"model"}, nil),
		prometheus.NewDesc("geist_provider_kv_cache_usage_ratio", "Share of the KV cache that is in use.", []string{"model"}, nil),
		prometheus.NewDesc("geist_market_asks", "Offers that are known.", nil, nil),
		prometheus.NewDesc("geist_balance_msat", "What peers owe this node, and it owes them.", []string{"direction"}, nil),
	}} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// gauges are values that are looked up when they are asked for.
type gauges struct {
	n                                     *Node
	running, waiting, cache, asks, credit *prometheus.Desc
}

func (g *gauges) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{g.running, g.waiting, g.cache, g.asks, g.credit} {
		c <- d
	}
}

func (g *gauges) Collect(c chan<- prometheus.Metric) {
	put := func(d *prometheus.Desc, v float64, labels ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	n := g.n
	if n.provider != nil {
		seen := map[string]bool{}
		for _, m := range n.provider.Models() {
			if seen[m.Name] {
				continue
			}
			seen[m.Name] = true
			l := n.provider.Load(m.ID)
			put(g.running, float64(l.Running), m.Name)
			put(g.waiting, float64(l.Waiting), m.Name)
			put(g.cache, l.Busy, m.Name)
		}
	}
	put(g.asks, float64(len(n.view.Asks())))
	in, out := n.balances()
	put(g.credit, float64(in), "in")
	put(g.credit, float64(out), "out")
}

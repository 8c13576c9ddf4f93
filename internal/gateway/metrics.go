package gateway

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what this package counts. Labels have few values: a model's name
// appears only once somebody has served it.
type metrics struct {
	requests  *prometheus.CounterVec   // model, route, code
	duration  *prometheus.HistogramVec // route
	first     *prometheus.HistogramVec // model
	each      *prometheus.HistogramVec // model
	tokens    *prometheus.CounterVec   // model, kind
	cost      *prometheus.CounterVec   // model
	running   prometheus.Gauge
	waiting   prometheus.Gauge
	cancelled prometheus.Counter
}

func newMetrics(r *prometheus.Registry, version string) (*metrics, error) {
	fine := []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}
	m := &metrics{
		requests:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "geist_requests_total", Help: "Requests answered. Code 499: the client went away before."}, []string{"model", "route", "code"}),
		duration:  prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "geist_request_duration_seconds", Help: "Time from a request to the end of its answer.", Buckets: fine}, []string{"route"}),
		first:     prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "geist_time_to_first_token_seconds", Help: "Time from a request to the first piece of its answer.", Buckets: fine}, []string{"model"}),
		each:      prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "geist_time_per_output_token_seconds", Help: "Time per token after the first piece.", Buckets: fine}, []string{"model"}),
		tokens:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "geist_tokens_total", Help: "Tokens of prompts, of those the ones found in a cache, and of answers."}, []string{"model", "kind"}),
		cost:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "geist_answers_cost_msat_total", Help: "Millisatoshi that answers cost."}, []string{"model"}),
		running:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "geist_requests_running", Help: "Requests for answers and embeddings under way."}),
		waiting:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "geist_requests_waiting", Help: "Of those, the ones that wait for the first piece of an answer."}),
		cancelled: prometheus.NewCounter(prometheus.CounterOpts{Name: "geist_answers_cancelled_total", Help: "Answers whose client went away."}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "geist_build_info", Help: "Always 1; the version is a label.", ConstLabels: prometheus.Labels{"version": version}})
	build.Set(1)
	var errs []error
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.first, m.each, m.tokens, m.cost, m.running, m.waiting, m.cancelled, build} {
		errs = append(errs, r.Register(c))
	}
	return m, errors.Join(errs...)
}

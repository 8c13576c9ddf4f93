package asker

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/geistnet/geist/internal/dialog"
)

// A provider that is away for a moment when the proof is wanted gives it a moment
// later. One that stays away has not failed an audit: its answer counts as one that
// did not come.
func TestProofLater(t *testing.T) {
	for _, stays := range []bool{false, true} {
		var away atomic.Int32
		h := newHouse(t, 1, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				if strings.HasSuffix(q.URL.Path, "/audit") && (away.Add(1) == 1 || stays) {
					panic(http.ErrAbortHandler) // the connection breaks
				}
				next.ServeHTTP(w, q)
			})
		})
		a, _ := newAsker(t, h)
		a.o.AuditPatience = 500 * time.Millisecond
		q := question(20)
		q.Verify = dialog.VerifyAudit
		x, err := a.Ask(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		_, err = readAll(x)
		e := a.Entries(1)[0]
		if !stays {
			if err != nil || e.Verdict != "passed" || x.Summary().Verified != dialog.VerifyAudit {
				t.Errorf("%v, %+v", err, e)
			}
			continue
		}
		var d *dialog.Error
		if !errors.As(err, &d) || d.Kind != dialog.Rejected || e.Verdict != verdictMissing {
			t.Errorf("%v, %+v", err, e)
		}
		if ex := a.Experience(); len(ex) != 1 || ex[0].OK || ex[0].Audit != "" {
			t.Errorf("%+v", ex)
		}
	}
}

// Providers that serve other contexts are asked for the same answer: what one can
// give, and no more.
func TestReplicateContexts(t *testing.T) {
	small, large := newHouse(t, 1, nil), newHouse(t, 2, nil)
	m := small.Models()[0]
	m.Context = 100
	small.offer(t, m, 1)
	a, _ := newAsker(t, small, large)
	q := question(0)
	q.Verify, q.Route.Order = dialog.VerifyReplicate, []string{small.Key().String()}
	x, err := a.Ask(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readAll(x); err != nil || x.Summary().Verified != dialog.VerifyReplicate {
		t.Errorf("%v, %+v", err, x.Summary())
	}
}

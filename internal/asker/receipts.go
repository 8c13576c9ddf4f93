package asker

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/geistnet/geist/audit"
	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/dialog"
	"github.com/geistnet/geist/internal/hashmany"
	"github.com/geistnet/geist/internal/job"
)

const auditTimeout = 5 * time.Minute

// path of a file that belongs to a receipt.
func (a *Asker) path(id, ending string) string {
	return filepath.Join(a.o.Dir, "receipts", id+ending)
}

// keep writes the run file of an answer. It gives nil where there is nothing to
// keep, or it cannot be written.
func (a *Asker) keep(c *call, nonce ghost.Nonce, e *Entry) *audit.RunFile {
	r := c.m.Receipt()
	if r == nil || len(c.m.Tokens()) == 0 {
		return nil
	}
	f := &audit.RunFile{Receipt: r, Request: c.order.Request, Answer: c.m.Tokens(), SeedNonce: c.order.SeedNonce, AuditNonce: nonce, Size: a.o.Size}
	b, err := f.Encode()
	if err == nil {
		err = write(a.path(e.Receipt, ".run"), b)
	}
	if err == nil {
		err = write(a.path(e.Receipt, ".endpoint"), []byte(c.endpoint))
	}
	if err != nil {
		a.o.Log.Error("keep a receipt", "receipt", e.Receipt, "error", err)
		return nil
	}
	return f
}

var errNoReceipt = errors.New("there is no receipt with this id here")

// known tells whether an id is one of a receipt that is kept.
func (a *Asker) holds(id string) bool {
	_, ok := unhex(id)
	if !ok || strings.ToLower(id) != id {
		return false
	}
	_, err := os.Stat(a.path(id, ".run"))
	return err == nil
}

// Files of a receipt: the run file, the Ghost file, which is nil if the model has
// none here, and the proof, which is nil before there is one.
func (a *Asker) Files(id string) (run, ghostFile, proof []byte, err error) {
	if !a.holds(id) {
		return nil, nil, nil, errNoReceipt
	}
	if run, err = os.ReadFile(a.path(id, ".run")); err != nil {
		return nil, nil, nil, err
	}
	f, err := audit.ParseRunFile(run)
	if err != nil {
		return nil, nil, nil, err
	}
	if k := a.names.have(f.Receipt.Model); k != nil {
		ghostFile = k.file
	} else if ghostFile, err = os.ReadFile(filepath.Join(a.o.Dir, "models", f.Receipt.Model.String()+".ghost")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil, err
	}
	if proof, err = os.ReadFile(a.path(id, ".proof")); errors.Is(err, os.ErrNotExist) {
		proof, err = nil, nil
	}
	return run, ghostFile, proof, err
}

// Audit demands the proof of an answer from the provider that gave it, else from
// others who have the model, and judges it. The verdict is kept. Nil: no proof
// came, which counts against the provider.
func (a *Asker) Audit(ctx context.Context, id string) *audit.Verdict {
	caller := ctx
	ctx, stop := context.WithTimeout(ctx, auditTimeout)
	defer stop()
	run, g, proof, err := a.Files(id)
	if err != nil {
		return nil
	}
	f, err := audit.ParseRunFile(run)
	if err != nil || g == nil {
		return nil
	}
	var e Entry
	a.mu.Lock()
	for i := range a.entries {
		if a.entries[i].Receipt == id {
			e = a.entries[i]
		}
	}
	a.mu.Unlock()
	var v *audit.Verdict
	if proof == nil {
		endpoint, err := os.ReadFile(a.path(id, ".endpoint"))
		if err != nil {
			return nil
		}
		call := job.AuditCall{Nonce: f.AuditNonce, Size: f.Size}
		proof, err = a.demand(ctx, string(endpoint)+"/geist/v1/jobs/"+e.Job+"/audit", call.Encode())
		if err != nil {
			a.o.Log.Warn("audit", "receipt", id, "error", err)
			if caller.Err() == nil && a.ctx.Err() == nil && e.Job != "" {
				// Who refuses has failed. Who cannot be reached may be starting again: that
				// counts as an answer that did not come, not as a forged one.
				e.Verdict, e.Reason = "failed", "no proof: "+err.Error()
				if u := (*unreached)(nil); errors.As(err, &u) {
					e.Verdict = verdictMissing
				}
				a.put(e)
				a.o.Judged(e)
			}
			return nil
		}
	}
	v = audit.JudgeWith(run, g, proof, audit.Options{Size: &f.Size, Hasher: hashmany.New()})
	if v.Accepted {
		if err := a.ended(f); err != nil {
			v.Accepted, v.Reason = false, err.Error()
		}
	}
	if err := write(a.path(id, ".proof"), proof); err != nil {
		a.o.Log.Error("keep a proof", "receipt", id, "error", err)
	}
	if e.Job != "" {
		e.Verdict, e.Verified = "passed", dialog.VerifyAudit
		if !v.Accepted {
			e.Verdict, e.Reason, e.Verified = "failed", v.Reason, dialog.VerifyReceipt
		}
		a.put(e)
		a.o.Judged(e)
	}
	return v
}

// verdictMissing is the verdict of an audit whose provider could not be reached.
const verdictMissing = "missing"

// unreached is the error of a demand that got no answer, or "not now".
type unreached struct{ err error }

func (u *unreached) Error() string { return u.err.Error() }
func (u *unreached) Unwrap() error { return u.err }

// demand asks for a proof, and again for some seconds if nobody answers: a
// provider that starts again finds the job in its journal.
func (a *Asker) demand(ctx context.Context, url string, body []byte) (proof []byte, err error) {
	for pause := 500 * time.Millisecond; ; pause *= 2 {
		if proof, err = a.proof(ctx, url, "application/json", body); err == nil {
			return proof, nil
		}
		if u := (*unreached)(nil); !errors.As(err, &u) || pause > a.o.AuditPatience {
			return nil, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		case <-a.ctx.Done():
			return nil, err
		}
	}
}

// ended checks that the answer ended for the reason that its receipt gives.
func (a *Asker) ended(f *audit.RunFile) error {
	k := a.names.have(f.Receipt.Model)
	if k == nil || f.Request.Grammar != [32]byte{} {
		return nil // a grammar may end an answer too
	}
	run, err := f.Run(k.ghost)
	if err != nil {
		return err
	}
	return audit.Ended(run, f.Request, f.Receipt.Finish, f.Receipt.Finish == ghost.FinishCancelled, func(answer []int32) bool {
		return k.words.Ends(answer, f.Request.Stop, f.Request.IgnoreEnd)
	})
}

// Receipt implements the gateway's Receipts.
func (a *Asker) Receipt(_ context.Context, id string) (json.RawMessage, error) {
	run, _, proof, err := a.Files(id)
	if errors.Is(err, errNoReceipt) {
		return nil, dialog.Errorf(dialog.NotFound, "id", "%v", err)
	}
	if err != nil {
		return nil, err
	}
	f, err := audit.ParseRunFile(run)
	if err != nil {
		return nil, err
	}
	out := map[string]any{"id": id, "object": "geist.receipt", "receipt": json.RawMessage(f.Receipt.Encode()), "run": json.RawMessage(run), "proof_bytes": len(proof)}
	a.mu.Lock()
	for i := range a.entries {
		if a.entries[i].Receipt == id {
			out["account"] = a.entries[i]
		}
	}
	a.mu.Unlock()
	return json.Marshal(out)
}

// Verdict judges what is kept of a receipt, without asking anybody; nil: there
// is no proof here.
func (a *Asker) Verdict(id string) *audit.Verdict {
	run, g, proof, err := a.Files(id)
	if err != nil || proof == nil {
		return nil
	}
	return audit.JudgeWith(run, g, proof, audit.Options{Hasher: hashmany.New()})
}

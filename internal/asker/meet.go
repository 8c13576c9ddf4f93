package asker

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/geistnet/geist/ghost"
	"github.com/geistnet/geist/internal/pay"
)

const (
	meetEvery = 2 * time.Second
	meetLimit = 5 * time.Second // for one exchange
	meetMost  = 5 * time.Minute // between two tries
)

// meeter is a rail on which nodes that meet again agree on balances.
type meeter interface {
	Peers() []ghost.Key
	Statement(peer ghost.Key) pay.Statement
	Hello(peer ghost.Key) []byte
	Exchange(peer ghost.Key, message []byte) (answer []byte, err error)
}

// meeting is what is known of a peer with which there are lines.
type meeting struct {
	met   bool
	wait  time.Duration // after a try that failed
	again time.Time
	open  int // looks in a row at which a payment waited for its answer
}

// meet exchanges the last states of all lines with the peers that are there: with
// each once, since either may have crashed between a payment and its answer, and again
// while payments wait. It ends with the asker.
func (a *Asker) meet() {
	peers := map[ghost.Key]*meeting{}
	tick := time.NewTicker(meetEvery)
	defer tick.Stop()
	for {
		for _, r := range a.o.Rails {
			if x, ok := r.(meeter); ok {
				a.meetAll(x, peers)
			}
		}
		select {
		case <-tick.C:
		case <-a.ctx.Done():
			return
		}
	}
}

func (a *Asker) meetAll(x meeter, peers map[ghost.Key]*meeting) {
	var at map[ghost.Key]string // endpoints, made when they are needed
	now := a.o.Now()
	for _, k := range x.Peers() {
		m := peers[k]
		if m == nil {
			m = &meeting{}
			peers[k] = m
		}
		if x.Statement(k).Waiting > 0 {
			m.open++
		} else {
			m.open = 0
		}
		if m.met && m.open < 2 || now.Before(m.again) {
			continue
		}
		if at == nil {
			at = map[ghost.Key]string{}
			for _, ask := range a.o.Asks() {
				at[ask.Provider] = ask.Endpoints[0]
			}
		}
		endpoint, ok := at[k]
		if !ok {
			continue
		}
		if err := a.greet(x, k, endpoint); err != nil {
			m.wait = min(max(2*m.wait, meetEvery), meetMost)
			m.again = now.Add(m.wait)
			a.o.Log.Info("agree on a balance", "provider", k.String(), "error", err)
			continue
		}
		m.met, m.wait, m.open = true, 0, 0
	}
}

// greet exchanges states until nothing is left to say.
func (a *Asker) greet(x meeter, peer ghost.Key, endpoint string) error {
	ctx, stop := context.WithTimeout(a.ctx, meetLimit)
	defer stop()
	message := x.Hello(peer)
	for range 4 {
		if message == nil {
			return nil
		}
		answer, err := a.hello(ctx, endpoint, message)
		if err != nil || len(answer) == 0 {
			return err
		}
		if message, err = x.Exchange(peer, answer); err != nil && !errors.Is(err, pay.ErrAgain) {
			return err
		}
	}
	return nil
}

func (a *Asker) hello(ctx context.Context, endpoint string, message []byte) ([]byte, error) {
	q, err := http.NewRequestWithContext(ctx, "POST", strings.TrimRight(endpoint, "/")+"/geist/v1/credit", strings.NewReader(string(message)))
	if err != nil {
		return nil, err
	}
	q.Header.Set("Content-Type", "application/octet-stream")
	q.Header.Set("Geist-Peer", hex.EncodeToString(a.self[:]))
	w, err := a.o.HTTP.Do(q)
	if err != nil {
		return nil, err
	}
	defer w.Body.Close()
	b, err := io.ReadAll(io.LimitReader(w.Body, pay.MaxMessage+1))
	if err == nil && (w.StatusCode != http.StatusOK && w.StatusCode != http.StatusConflict || len(b) > pay.MaxMessage) {
		err = fmt.Errorf("status %d, %d bytes", w.StatusCode, len(b))
	}
	return b, err
}

package pay

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/geistnet/geist/ghost"
)

// Credit is the rail of mutual credit, docs/spec/credit.md. All of a node's lines
// are in one Credit, whichever side it is on.
type Credit struct {
	secret ghost.Secret
	self   ghost.Key
	j      *Journal
	limit  CreditLimit

	mu    sync.Mutex
	peers map[ghost.Key]*peerLines

	// What all keys together that known does not know may owe, and what they do:
	// keys are free, so a limit for each alone bounds nothing.
	known   func(ghost.Key) bool
	most    MilliSat
	exposed MilliSat
}

// CreditLimit says how much a peer may owe this node, and this node a peer. It is
// called often and at any time, and must not call the Credit.
type CreditLimit func(peer ghost.Key) (give, take MilliSat)

// peerLines is all there is with one peer. Held under Credit.mu.
type peerLines struct {
	in     *state   // last agreed state of the line on which the peer pays; nil: none
	out    *state   // last agreed state of the line on which this node pays
	queue  []*state // proposed since out, in order
	jobs   map[JobID]*creditJob
	closed []JobID // jobs that are done and without debt, oldest first
}

// creditJob is one job with a peer. A payer uses Paid and Promised, a payee the rest.
type creditJob struct {
	Promised MilliSat `json:"promised,omitempty"` // by this node
	Sent     MilliSat `json:"sent,omitempty"`     // of Promised, what is agreed
	Got      MilliSat `json:"got,omitempty"`      // from the peer
	Cover    MilliSat `json:"cover,omitempty"`    // Got may grow to this
	Open     bool     `json:"open,omitempty"`     // the payee works
	Lapsed   bool     `json:"lapsed,omitempty"`   // done: Cover - Got is not held against the limit
}

// held is what the job holds of the peer's limit.
func (c *creditJob) held() MilliSat {
	if c.Lapsed || c.Got >= c.Cover {
		return 0
	}
	return c.Cover - c.Got
}

// maxClosed bounds the jobs that are remembered only because a late payment may come.
const maxClosed = 256

// NewCredit is the rail with the lines that stand in the journal, under the key
// prefixes "credit/line/" and "credit/job/".
func NewCredit(secret ghost.Secret, j *Journal, limit CreditLimit) (*Credit, error) {
	self, err := secret.Public()
	if err != nil {
		return nil, fmt.Errorf("mutual credit: %w", err)
	}
	c := &Credit{secret: secret, self: self, j: j, limit: limit, peers: map[ghost.Key]*peerLines{}, known: func(ghost.Key) bool { return true }}
	for k, v := range j.All("credit/") {
		if err := c.load(k, v); err != nil {
			return nil, fmt.Errorf("mutual credit: journal entry %q: %w", k, err)
		}
	}
	return c, nil
}

// Newcomers bounds what all keys for which known is false may owe together, what
// their jobs hold included. Without it there is no such bound. known is called as
// CreditLimit is; its answers do not change. Call it before sessions are opened.
func (c *Credit) Newcomers(most MilliSat, known func(ghost.Key) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.most, c.known, c.exposed = most, known, 0
	for k, p := range c.peers {
		if !known(k) {
			c.exposed += p.exposure()
		}
	}
}

// exposure is what may be lost by the peer's going away.
func (p *peerLines) exposure() MilliSat { return max(0, total(p.in)-total(p.out)) + p.held() }

func lineKey(peer ghost.Key) string { return "credit/line/" + peer.String() }

func jobKey(peer ghost.Key, job JobID) string {
	return "credit/job/" + peer.String() + "/" + job.String()
}

func (c *Credit) load(k string, v []byte) error {
	parts := strings.Split(k, "/")
	digits := func(i int) (b [32]byte, err error) {
		if i >= len(parts) {
			return b, errors.New("it is too short")
		}
		d, err := hex.DecodeString(parts[i])
		if err != nil || len(d) != 32 {
			return b, fmt.Errorf("%.80q is not 64 hexadecimal digits", parts[i])
		}
		return [32]byte(d), nil
	}
	id, err := digits(2)
	if err != nil {
		return err
	}
	p := c.peer(id)
	switch {
	case parts[1] == "line" && len(parts) == 3:
		return c.loadLines(p, id, v)
	case parts[1] == "job" && len(parts) == 4:
		job, err := digits(3)
		if err != nil {
			return err
		}
		s := &creditJob{}
		if err := json.Unmarshal(v, s); err != nil {
			return err
		}
		p.jobs[job] = s
		if s.Lapsed {
			p.closed = append(p.closed, job)
		}
		return nil
	}
	return errors.New("the key is unknown")
}

// encodeLines is a bit for each of in and out that is there, and the states.
func encodeLines(p *peerLines) []byte {
	b := []byte{0}
	if p.in != nil {
		b[0] |= 1
		b = append(b, p.in.encode()...)
	}
	if p.out != nil {
		b[0] |= 2
		b = append(b, p.out.encode()...)
	}
	for _, s := range p.queue {
		b = append(b, s.encode()...)
	}
	return b
}

func (c *Credit) loadLines(p *peerLines, peer ghost.Key, v []byte) error {
	if len(v) < 1 || v[0] > 3 || len(v)%stateBytes != 1 {
		return fmt.Errorf("%d bytes", len(v))
	}
	which := v[0]
	for v = v[1:]; len(v) > 0; v = v[stateBytes:] {
		s, err := decodeState(v[:stateBytes])
		if err != nil {
			return err
		}
		switch {
		case which&1 != 0 && s.Payer == peer && s.Payee == c.self && s.agreed():
			p.in = s
			which &^= 1
		case which&1 == 0 && which&2 != 0 && s.Payer == c.self && s.Payee == peer && s.agreed():
			p.out = s
			which &^= 2
		case which == 0 && s.Payer == c.self && s.Payee == peer && !s.agreed():
			p.queue = append(p.queue, s)
		default:
			return errors.New("the states are not in order")
		}
	}
	if which != 0 {
		return errors.New("a state is missing")
	}
	return nil
}

// look is what there is with a peer, for reading. Needs c.mu.
func (c *Credit) look(k ghost.Key) *peerLines {
	if p := c.peers[k]; p != nil {
		return p
	}
	return &peerLines{}
}

// peer needs c.mu, but while loading.
func (c *Credit) peer(k ghost.Key) *peerLines {
	p := c.peers[k]
	if p == nil {
		p = &peerLines{jobs: map[JobID]*creditJob{}}
		c.peers[k] = p
	}
	return p
}

func (p *peerLines) job(id JobID) creditJob {
	if s := p.jobs[id]; s != nil {
		return *s
	}
	return creditJob{}
}

// commit journals the peer's lines as they are in next, with the given jobs, and
// then makes them so. next shares nothing that changes with the old lines.
func (c *Credit) commit(peer ghost.Key, next peerLines, jobs map[JobID]creditJob) error {
	p := c.peer(peer)
	var entries []Entry
	if next.in != nil || next.last() != nil {
		entries = append(entries, Entry{lineKey(peer), encodeLines(&next)})
	}
	for id, s := range jobs {
		b, err := json.Marshal(s)
		if err != nil {
			return fmt.Errorf("journal a job: %w", err)
		}
		if s == (creditJob{}) {
			b = nil
		}
		entries = append(entries, Entry{jobKey(peer, id), b})
	}
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Key, b.Key) })
	if len(entries) > 0 {
		if err := c.j.Put(entries...); err != nil {
			return err
		}
	}
	before := p.exposure()
	p.in, p.out, p.queue, p.closed = next.in, next.out, next.queue, next.closed
	for id, s := range jobs {
		if s == (creditJob{}) {
			delete(p.jobs, id)
		} else {
			p.jobs[id] = &s
		}
	}
	if !c.known(peer) {
		c.exposed += p.exposure() - before
	}
	if p.in == nil && p.last() == nil && len(p.jobs) == 0 {
		delete(c.peers, peer) // it came and went
	}
	return nil
}

func total(s *state) MilliSat {
	if s == nil {
		return 0
	}
	return s.Total
}

func seq(s *state) uint64 {
	if s == nil {
		return 0
	}
	return s.Seq
}

// last is the newest state of the line out, agreed or not.
func (p *peerLines) last() *state {
	if n := len(p.queue); n > 0 {
		return p.queue[n-1]
	}
	return p.out
}

// held is what the peer's jobs hold of its limit.
func (p *peerLines) held() (sum MilliSat) {
	for _, s := range p.jobs {
		sum += s.held() // each at most MaxAmount, and together below the limit when they were held
	}
	return sum
}

// message is the last agreed state and all that is proposed.
func (p *peerLines) message() []byte {
	var b []byte
	if p.out != nil {
		b = p.out.encode()
	}
	for _, s := range p.queue {
		b = append(b, s.encode()...)
	}
	return b
}

// Name is "credit".
func (c *Credit) Name() string { return "credit" }

// Self is this node's key.
func (c *Credit) Self() ghost.Key { return c.self }

// Balance is what the peer owes this node by the states that both have signed;
// negative: what this node owes.
func (c *Credit) Balance(peer ghost.Key) MilliSat {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.look(peer)
	return total(p.in) - total(p.out)
}

// Room is how much more the peer may come to owe, counting what its jobs hold.
func (c *Credit) Room(peer ghost.Key) MilliSat {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.room(peer, c.look(peer))
}

func (c *Credit) room(peer ghost.Key, p *peerLines) MilliSat {
	give, _ := c.limit(peer)
	room := give - (total(p.in) - total(p.out)) - p.held()
	if !c.known(peer) {
		room = min(room, c.most-c.exposed)
	}
	return room
}

// Peers are all keys with which there is a line.
func (c *Credit) Peers() []ghost.Key {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []ghost.Key
	for k, p := range c.peers {
		if p.in != nil || p.last() != nil {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, func(a, b ghost.Key) int { return strings.Compare(string(a[:]), string(b[:])) })
	return out
}

// propose signs the next state of the line out. Needs c.mu.
func (c *Credit) propose(peer ghost.Key, memo JobID, amount MilliSat, job creditJob) error {
	p := c.peer(peer)
	if len(p.queue) >= maxStates-1 {
		return fmt.Errorf("pay %v: %d payments wait for its agreement", peer, len(p.queue))
	}
	last := p.last()
	sum, err := total(last).Plus(amount)
	if err != nil {
		return fmt.Errorf("pay %v: %w", peer, err)
	}
	if _, take := c.limit(peer); sum-total(p.in) > take {
		return fmt.Errorf("pay %v: to owe it %v, of at most %v: %w", peer, sum-total(p.in), take, ErrLimit)
	}
	s := &state{Payer: c.self, Payee: peer, Seq: seq(last) + 1, Total: sum, Memo: memo, Amount: amount}
	if s.PayerSig, err = c.secret.Sign(s.digest()); err != nil {
		return fmt.Errorf("pay %v: %w", peer, err)
	}
	next := *p
	next.queue = append(slices.Clone(p.queue), s)
	jobs := map[JobID]creditJob{}
	if memo != (JobID{}) {
		jobs[memo] = job
	}
	return c.commit(peer, next, jobs)
}

// Settle pays the peer outside of any job: what it gave in another way. The message
// is for the peer's Exchange, its answer for ours.
func (c *Credit) Settle(peer ghost.Key, amount MilliSat) (message []byte, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if amount < 1 || peer == c.self {
		return nil, fmt.Errorf("settle %d msat with %v", amount, peer)
	}
	if err := c.propose(peer, JobID{}, amount, creditJob{}); err != nil {
		return nil, err
	}
	return c.peer(peer).message(), nil
}

// Hello is what two nodes that meet again exchange: the last states of both lines. Nil: there is none.
func (c *Credit) Hello(peer ghost.Key) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.look(peer)
	b := p.message()
	if p.in != nil {
		b = append(b, p.in.encode()...)
	}
	return b
}

// Exchange takes a message or an answer from the peer and gives the answer, nil if
// there is nothing to say. With an error (ErrMessage, ErrLimit, or of the journal) the
// answer may still bring the peer up to date. Answers may be given to Exchange again,
// to and fro, until they are nil.
func (c *Credit) Exchange(peer ghost.Key, message []byte) (answer []byte, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	states, err := decodeStates(message)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMessage, err)
	}
	theirs := false
	rebased := false
	for _, s := range states {
		var err error
		switch {
		case s.Payer == peer && s.Payee == c.self:
			theirs = true
			err = c.receive(peer, s)
		case s.Payer == c.self && s.Payee == peer:
			var again bool
			again, err = c.agreed(peer, s)
			rebased = rebased || again
		default:
			err = fmt.Errorf("%w: it is between %v and %v", ErrMessage, s.Payer, s.Payee)
		}
		if err != nil {
			return c.reply(peer, theirs), err
		}
	}
	if rebased {
		return c.reply(peer, theirs), ErrAgain
	}
	return c.reply(peer, theirs), nil
}

func (c *Credit) reply(peer ghost.Key, theirs bool) []byte {
	if p := c.look(peer); theirs && p.in != nil {
		return p.in.encode()
	}
	return nil
}

// receive takes a state of the line on which the peer pays. Needs c.mu.
func (c *Credit) receive(peer ghost.Key, s *state) error {
	p := c.look(peer)
	if s.Seq <= seq(p.in) {
		return nil // seen; the answer shows what is agreed
	}
	if err := peer.Verify(s.digest(), s.PayerSig); err != nil {
		return fmt.Errorf("%w: payment %d: %w", ErrMessage, s.Seq, err)
	}
	next := *p
	if s.agreed() {
		// My signature is under something that my journal does not have.
		if err := c.self.Verify(s.digest(), s.PayeeSig); err != nil {
			return fmt.Errorf("%w: payment %d: %w", ErrMessage, s.Seq, err)
		}
		if s.Total < total(p.in) {
			return fmt.Errorf("%w: payment %d lowers the total from %d to %d", ErrMessage, s.Seq, total(p.in), s.Total)
		}
		next.in = s
		return c.commit(peer, next, c.got(p, s))
	}
	switch {
	case s.Seq != seq(p.in)+1:
		return fmt.Errorf("%w: payment %d follows payment %d", ErrMessage, s.Seq, seq(p.in))
	case s.Total != total(p.in)+s.Amount:
		return fmt.Errorf("%w: payment %d of %d raises %d to %d", ErrMessage, s.Seq, s.Amount, total(p.in), s.Total)
	}
	job := p.job(s.Memo)
	left := max(0, job.Cover-job.Got)
	switch room := c.room(peer, p); {
	case s.Amount <= left: // held for it
	case job.Open:
		return fmt.Errorf("payment %d of %d for job %v, of which %d may be paid: %w", s.Seq, s.Amount, s.Memo, left, ErrLimit)
	case s.Amount-job.held() > room:
		return fmt.Errorf("payment %d of %d, of which %d may be owed: %w", s.Seq, s.Amount, max(0, room), ErrLimit)
	}
	var err error
	if s.PayeeSig, err = c.secret.Sign(s.digest()); err != nil {
		return err
	}
	next.in = s
	return c.commit(peer, next, c.got(p, s))
}

// got is the job that s pays for, after it.
func (c *Credit) got(p *peerLines, s *state) map[JobID]creditJob {
	j, known := p.jobs[s.Memo]
	if s.Memo == (JobID{}) || !known {
		return nil
	}
	n := *j
	n.Got = min(n.Got+s.Amount, MaxAmount)
	return map[JobID]creditJob{s.Memo: n}
}

// agreed takes a state of the line on which this node pays. Needs c.mu. rebased: what was
// proposed has to be proposed again.
func (c *Credit) agreed(peer ghost.Key, s *state) (rebased bool, err error) {
	p := c.look(peer)
	if s.Seq <= seq(p.out) || !s.agreed() {
		return false, nil
	}
	if err := peer.Verify(s.digest(), s.PayeeSig); err != nil {
		return false, fmt.Errorf("%w: answer to payment %d: %w", ErrMessage, s.Seq, err)
	}
	if err := c.self.Verify(s.digest(), s.PayerSig); err != nil {
		return false, fmt.Errorf("%w: answer to payment %d: %w", ErrMessage, s.Seq, err)
	}
	next := *p
	next.out = s
	jobs := map[JobID]creditJob{}
	change := func(id JobID, f func(*creditJob)) {
		if id == (JobID{}) {
			return
		}
		j, ok := jobs[id]
		if !ok {
			j = p.job(id)
		}
		f(&j)
		jobs[id] = j
	}
	at := slices.IndexFunc(p.queue, func(q *state) bool { return q.Seq == s.Seq })
	if at >= 0 && p.queue[at].same(s) {
		next.queue = slices.Clone(p.queue[at+1:])
		for _, q := range p.queue[:at+1] {
			change(q.Memo, func(j *creditJob) { j.Sent += q.Amount })
		}
		return false, c.commit(peer, next, jobs)
	}
	// Both signed what the journal does not have: it is older than the line.
	if s.Total < total(p.out) {
		return false, fmt.Errorf("%w: the answer to payment %d lowers the total from %d to %d", ErrMessage, s.Seq, total(p.out), s.Total)
	}
	next.queue = nil
	for _, q := range p.queue {
		change(q.Memo, func(j *creditJob) { j.Promised -= q.Amount })
	}
	return len(p.queue) > 0, c.commit(peer, next, jobs)
}

// Pay opens the asker's half.
func (c *Credit) Pay(_ context.Context, o Opening) (Payer, error) {
	if err := c.checkOpening(o); err != nil {
		return nil, err
	}
	return &creditPayer{c, o}, nil
}

// Take opens the provider's half.
func (c *Credit) Take(_ context.Context, o Opening) (Payee, error) {
	if err := c.checkOpening(o); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peer(o.Peer)
	if _, ok := p.jobs[o.Job]; !ok {
		if err := c.commit(o.Peer, *p, map[JobID]creditJob{o.Job: {Open: true}}); err != nil {
			return nil, err
		}
	}
	return &creditPayee{c, o}, nil
}

func (c *Credit) checkOpening(o Opening) error {
	if o.Peer == c.self || o.Job == (JobID{}) || !o.First.Valid() || !o.Most.Valid() {
		return fmt.Errorf("open job %v with %v for %d to %d msat", o.Job, o.Peer, o.First, o.Most)
	}
	return nil
}

type creditPayer struct {
	c *Credit
	o Opening
}

func (s *creditPayer) now() creditJob {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.c.look(s.o.Peer).job(s.o.Job)
}

func (s *creditPayer) Fund(context.Context, []byte) ([]byte, error) {
	return nil, fmt.Errorf("%w: mutual credit has no offers", ErrMessage)
}

func (s *creditPayer) Pay(_ context.Context, sum MilliSat) ([]byte, error) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peer(s.o.Peer)
	job := p.job(s.o.Job)
	if !sum.Valid() || sum < job.Promised || sum > s.o.Most {
		return nil, fmt.Errorf("pay %d msat for a job for which %d are promised and %d is the most", sum, job.Promised, s.o.Most)
	}
	if more := sum - job.Promised; more > 0 {
		job.Promised = sum
		if err := c.propose(s.o.Peer, s.o.Job, more, job); err != nil {
			return nil, err
		}
	}
	return p.message(), nil
}

func (s *creditPayer) Answer(_ context.Context, answer []byte) error {
	_, err := s.c.Exchange(s.o.Peer, answer)
	if err == nil && s.Promised() > s.Paid() {
		// What the payee answered does not cover it: it knows less than was proposed.
		return ErrAgain
	}
	return err
}

func (s *creditPayer) Promised() MilliSat { return s.now().Promised }
func (s *creditPayer) Paid() MilliSat     { return s.now().Sent }

func (s *creditPayer) Close(context.Context) ([]byte, error) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peer(s.o.Peer)
	job, ok := p.jobs[s.o.Job]
	switch {
	case !ok || job.Lapsed:
		return nil, nil
	case job.Promised > job.Sent:
		return p.message(), nil
	}
	n, next := *job, *p
	n.Lapsed = true
	jobs := map[JobID]creditJob{s.o.Job: n}
	next.forget(s.o.Job, jobs)
	return nil, c.commit(s.o.Peer, next, jobs)
}

// forget puts a job that is done on the list of those that go when it is full.
func (p *peerLines) forget(id JobID, jobs map[JobID]creditJob) {
	p.closed = append(slices.Clone(p.closed), id)
	for len(p.closed) > maxClosed {
		jobs[p.closed[0]] = creditJob{}
		p.closed = p.closed[1:]
	}
}

type creditPayee struct {
	c *Credit
	o Opening
}

func (s *creditPayee) Cover(_ context.Context, sum MilliSat) ([]byte, error) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peer(s.o.Peer)
	job := p.job(s.o.Job)
	if !sum.Valid() || sum > s.o.Most {
		return nil, fmt.Errorf("hold %d msat for a job of at most %d", sum, s.o.Most)
	}
	if !job.Open {
		return nil, fmt.Errorf("hold %d msat for job %v: %w", sum, s.o.Job, ErrClosed)
	}
	room := c.room(s.o.Peer, p)
	if sum <= job.Cover {
		return nil, nil
	}
	if sum-max(job.Cover, job.Got) > room {
		return nil, fmt.Errorf("hold %v more, of which %v may be owed: %w", sum-job.Cover, max(0, room), ErrLimit)
	}
	job.Cover = sum
	return nil, c.commit(s.o.Peer, *p, map[JobID]creditJob{s.o.Job: job})
}

func (s *creditPayee) Receive(_ context.Context, message []byte) ([]byte, error) {
	return s.c.Exchange(s.o.Peer, message)
}

func (s *creditPayee) Paid() MilliSat {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.c.look(s.o.Peer).job(s.o.Job).Got
}

func (s *creditPayee) Close(_ context.Context, due MilliSat, owed bool) error {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peer(s.o.Peer)
	job, ok := p.jobs[s.o.Job]
	if !ok || !job.Open {
		return nil
	}
	n := *job
	n.Open, n.Cover, n.Lapsed = false, max(min(due, job.Cover), job.Got), !owed
	n.Lapsed = n.Lapsed || n.Got >= n.Cover
	if n.Cover == 0 {
		n = creditJob{} // nothing happened: there is nothing to remember
	}
	jobs, next := map[JobID]creditJob{s.o.Job: n}, *p
	if n.Lapsed { // remembered for a while: late payments may come, and who asks what was paid
		next.forget(s.o.Job, jobs)
	}
	return c.commit(s.o.Peer, next, jobs)
}

// Statement is one line of what a node and its peers have agreed on.
type Statement struct {
	Peer        ghost.Key
	Paid, Got   MilliSat // in all
	PaidN, GotN uint64   // numbers of the states
	Waiting     int      // proposals without an answer
	Held        MilliSat // for the peer's jobs
	StateIn     []byte   // the last state, signed by both; nil: none
	StateOut    []byte
}

// Statement of the lines with a peer.
func (c *Credit) Statement(peer ghost.Key) Statement {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.look(peer)
	s := Statement{Peer: peer, Paid: total(p.out), Got: total(p.in), PaidN: seq(p.out), GotN: seq(p.in), Waiting: len(p.queue), Held: p.held()}
	if p.in != nil {
		s.StateIn = p.in.encode()
	}
	if p.out != nil {
		s.StateOut = p.out.encode()
	}
	return s
}

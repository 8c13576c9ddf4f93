package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/geistnet/geist/internal/chat"
	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/engine"
)

const chatHelp = `/clear   forget the conversation so far
/help    this list
/bye     leave; so does Ctrl-D
Ctrl-C stops an answer. A message of several lines stands between two lines of """.
`

// conversation answers messages from standard input until it ends.
func (r *run) conversation(ctx context.Context) error {
	// An interrupt is to end an answer, not the conversation; anything else
	// that ends ctx, such as SIGTERM, has its effect through signals, too.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	return r.converse(context.WithoutCancel(ctx), signals)
}

// errLeft means that the person has left the conversation.
var errLeft = errors.New("left")

func (r *run) converse(ctx context.Context, signals <-chan os.Signal) error {
	person := isTerminal(r.stdin)
	if person {
		note := ""
		if !r.templated() {
			note = " continues each message as a text of its own; it has no chat template or --raw is given"
		}
		fmt.Fprintf(r.err.W, "%s%s. /help lists commands, Ctrl-D leaves.\n", console.Clean(r.ref), note)
	}
	lines := make(chan string)
	done := make(chan struct{})
	defer close(done)
	go readLines(r.stdin, lines, done)
	var turns []chat.Message
	for n := uint64(0); ; {
		message, err := r.next(lines, signals, person)
		switch {
		case errors.Is(err, errLeft):
			return nil
		case err != nil:
			return err
		case message == "":
			continue
		case message == "/clear":
			turns = nil
			fmt.Fprintln(r.err.W, "forgotten")
			continue
		case message == "/help":
			fmt.Fprint(r.err.W, chatHelp)
			continue
		case message == "/bye":
			return nil
		case message[0] == '/' && !strings.ContainsAny(message, " \n"):
			fmt.Fprintf(r.err.W, "%s is no command; /help lists them\n", console.Clean(message))
			continue
		}
		asked := append(turns[:len(turns):len(turns)], chat.Message{Role: "user", Content: message})
		text, err := r.turn(ctx, asked, n, signals)
		switch {
		case errors.Is(err, engine.ErrContext):
			// The conversation is as it was, and a shorter message may fit.
			r.err.Error(fmt.Errorf("%w; or /clear begins a new conversation", r.hint(err)))
		case err != nil:
			return err
		default:
			turns = append(asked, chat.Message{Role: "assistant", Content: text})
			n++
		}
	}
}

// turn answers the last of the messages.
func (r *run) turn(ctx context.Context, asked []chat.Message, n uint64, signals <-chan os.Signal) (string, error) {
	var ids []int32
	var err error
	if r.templated() {
		ids, err = r.model.Chat(r.messages(asked...), r.now())
	} else {
		ids, err = r.model.Text(asked[len(asked)-1].Content)
	}
	if err != nil {
		return "", err
	}
	q, err := r.request(ids, turnSeed(r.seed, n))
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	left := make(chan bool, 1)
	go func() {
		select {
		case s := <-signals:
			cancel()
			left <- s != os.Interrupt
		case <-ctx.Done():
			left <- false
		}
	}()
	a, err := r.answer(ctx, q, r.templated())
	cancel()
	gone := <-left
	if err != nil {
		return "", err
	}
	if r.sound != nil {
		r.sound.result().name(r.err.W)
	}
	if r.f.stats {
		a.stats(r.err.W)
		if r.sound != nil {
			r.sound.result().stats(r.err.W, len(a.prompt)+len(a.tokens))
		}
	}
	if gone {
		return "", context.Canceled
	}
	return a.text, nil
}

// turnSeed is the seed of answer n: the given one for the first, then SHA-256
// of it and n, so that no two answers draw the same numbers.
func turnSeed(seed [32]byte, n uint64) [32]byte {
	if n == 0 {
		return seed
	}
	return sha256.Sum256(binary.LittleEndian.AppendUint64(seed[:], n))
}

// next reads the next message. At its end, standard input gives errLeft.
func (r *run) next(lines <-chan string, signals <-chan os.Signal, person bool) (string, error) {
	var block []string // lines after an opening """
	open := false
	for {
		if person {
			fmt.Fprint(r.err.W, map[bool]string{false: ">>> ", true: "... "}[open])
		}
		select {
		case s := <-signals:
			if s != os.Interrupt {
				return "", context.Canceled
			}
			open, block = false, nil
			if person {
				fmt.Fprintln(r.err.W, "\n/bye or Ctrl-D leaves")
				continue
			}
			return "", context.Canceled
		case line, more := <-lines:
			switch {
			case !more:
				if person {
					fmt.Fprintln(r.err.W)
				}
				if open && len(block) > 0 {
					return strings.Join(block, "\n"), nil
				}
				return "", errLeft
			case strings.TrimSpace(line) == `"""` && open:
				return strings.Join(block, "\n"), nil
			case strings.TrimSpace(line) == `"""`:
				open = true
			case open:
				block = append(block, line)
			default:
				return strings.TrimSpace(line), nil
			}
		}
	}
}

// readLines sends the lines of in, of at most maxPrompt bytes, until in ends
// or done is closed. The goroutine stays in a read that nothing can interrupt.
func readLines(in io.Reader, lines chan<- string, done <-chan struct{}) {
	defer close(lines)
	s := bufio.NewScanner(in)
	s.Buffer(make([]byte, 0, 64<<10), maxPrompt)
	for s.Scan() {
		select {
		case lines <- s.Text():
		case <-done:
			return
		}
	}
}

package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/chat"
	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/constrain"
	"github.com/geistnet/geist/internal/engine"
	"github.com/geistnet/geist/internal/gguf"
	"github.com/geistnet/geist/internal/kernel"
	"github.com/geistnet/geist/internal/local"
	"github.com/geistnet/geist/internal/model"
	"github.com/geistnet/geist/internal/rows"
	"github.com/geistnet/geist/internal/store"
	"github.com/geistnet/geist/internal/tokenizer"
)

const (
	maxPrompt = 64 << 20 // bytes read from standard input
	ahead     = 64       // tokens computed before the first of them is written
)

// runFlags are the flags of "geist run" as they are given.
type runFlags struct {
	system, seed, schema, ids, kernel, receipt, ghost        string
	stop, rows                                               []string
	raw, chat, jsonObject, json, stream, stats, verbose      bool
	force                                                    bool
	maxTokens, topK, repeatLast, logProbs, context, threads  int
	temperature, topP, minP, repeatPen, presencePen, freqPen float32
}

// Run answers a prompt or holds a conversation.
func (v verbs) Run() *cobra.Command {
	f := &runFlags{}
	c := &cobra.Command{
		Use:   "run MODEL [PROMPT...]",
		Short: "Let a model answer a prompt, or talk with it",
		Long: `Loads a model and streams its answer to PROMPT, or to standard input if that is
a pipe or a file. Without either, at a terminal, it holds a conversation.

MODEL is a name in the store, at least 6 digits of a hash, or the path of a
.gguf file. If the file has a chat template, the prompt is a user's message;
else, or with --raw, the model continues the text. Special tokens spelt in the
text are read as such, and the token that begins a text is put where the model
wants it.

Equal token ids, flags and seed give equal answers on every machine.

With --rows the rows of the model's memory come from servers, which nobody needs to
trust: each row is checked under the roots of the model's Ghost file before it is
used, a server that gives a wrong one is dropped and named, and the answer is the
same. MODEL may then be a trunk, which has no rows: see "geist models trunk".`,
		Example: `  geist run tiny "Why is the sky blue?"
  geist run tiny --system "Answer in one word." "The capital of France?"
  git diff | geist run tiny --temperature 0 --max-tokens 100
  geist run stories260K.gguf --raw --seed 1 "Once upon a time"
  geist run tiny --schema person.json --json "Invent a person."
  geist run trunk.gguf --rows http://192.0.2.7:4378 --rows http://192.0.2.9:4378 "Tell me a story."`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: v.completeFirst,
	}
	fl := c.Flags()
	fl.StringVar(&f.system, "system", "", "a system message before the prompt")
	fl.BoolVar(&f.raw, "raw", false, "continue the text as it is, without the chat template")
	fl.BoolVar(&f.chat, "chat", false, "hold a conversation, also where standard input is no terminal: one message a line")
	fl.StringVar(&f.ids, "ids", "", "the prompt as token ids with commas between, in place of PROMPT")
	fl.IntVar(&f.maxTokens, "max-tokens", 0, "the most tokens of the answer (0: as many as the context holds)")
	fl.Float32Var(&f.temperature, "temperature", 0.8, "how freely tokens are chosen (0: always the likeliest)")
	fl.IntVar(&f.topK, "top-k", 40, "choose among this many of the likeliest tokens (0: all)")
	fl.Float32Var(&f.topP, "top-p", 0.95, "choose among the likeliest tokens that hold this share of the probability (1: all)")
	fl.Float32Var(&f.minP, "min-p", 0.05, "leave out tokens of less than this share of the likeliest one's probability (0: none)")
	fl.Float32Var(&f.repeatPen, "repeat-penalty", 1, "make tokens that occurred less likely by this factor (1: no)")
	fl.IntVar(&f.repeatLast, "repeat-last-n", 64, "how many of the last tokens the penalties look at")
	fl.Float32Var(&f.presencePen, "presence-penalty", 0, "subtracted from the logits of tokens that occurred")
	fl.Float32Var(&f.freqPen, "frequency-penalty", 0, "the same, for each time they occurred")
	fl.StringVar(&f.seed, "seed", "", "an integer or 64 hex digits (random, if not given)")
	fl.StringVar(&f.receipt, "receipt", "", "write what proves the answer to this file: see \"geist prove\" (the seed is then a nonce of which the sampler's seed is made)")
	fl.StringArrayVar(&f.rows, "rows", nil, "base URL of a server of the rows of the model's memory; may be given several times")
	fl.StringVar(&f.ghost, "ghost", "", "with --rows: the model's Ghost file (default: beside the model)")
	fl.StringArrayVar(&f.stop, "stop", nil, "end the answer before this text; may be given several times")
	fl.StringVar(&f.schema, "schema", "", "a file with a JSON schema that the answer must fit")
	fl.BoolVar(&f.jsonObject, "json-object", false, "the answer must be a JSON object")
	fl.IntVar(&f.logProbs, "logprobs", -1, "with --json: log probabilities of the tokens, and of this many alternatives")
	fl.IntVar(&f.context, "context", 0, "tokens of prompt and answer together (0: the model's most, up to 8192)")
	fl.IntVar(&f.threads, "threads", 0, "threads to compute with (0: one for each processor)")
	fl.StringVar(&f.kernel, "kernel", "", "how to compute: "+strings.Join(pathNames(), ", ")+" (default the last of these); all give the same bits")
	fl.BoolVar(&f.force, "force", false, "load the model even if memory is short")
	fl.BoolVar(&f.stats, "stats", false, "say on standard error how fast it was")
	fl.BoolVarP(&f.verbose, "verbose", "v", false, "say on standard error what is run and with which seed")
	fl.BoolVar(&f.stream, "stream", false, "with --json: one line for each token, and one for the result")
	fl.BoolVar(&f.json, "json", false, "write the result as JSON")
	completeFlag(c, "kernel", pathNames())
	c.RunE = func(cmd *cobra.Command, args []string) error {
		r, err := v.newRun(f, args)
		if err != nil {
			return err
		}
		defer r.close()
		if err := r.load(cmd.Context()); err != nil {
			return r.hint(err)
		}
		if r.talk {
			return r.hint(r.conversation(cmd.Context()))
		}
		return r.hint(r.once(cmd.Context()))
	}
	return c
}

// completeFirst offers models for the first argument and files after that.
func (e *env) completeFirst(c *cobra.Command, args []string, part string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return e.completeModels(c, args, part)
}

// pathNames are the kernel paths of this machine, the fastest last.
func pathNames() []string {
	var s []string
	for _, p := range kernel.Paths() {
		s = append(s, p.String())
	}
	return s
}

// run is one use of "geist run".
type run struct {
	verbs
	f       *runFlags
	ref     string
	prompt  string
	ids     []int32 // in place of prompt
	talk    bool
	path    kernel.Path
	seed    [32]byte
	grammar *constrain.Grammar
	file    *gguf.File
	stored  *store.Model // nil for a file outside of the store
	model   *local.Model
	loadS   float64
	seal    *seal  // nil: without --receipt
	sound   *sound // nil: without --rows
}

// newRun checks the flags, reads the prompt and opens the file: all that may
// go wrong before it takes long.
func (v verbs) newRun(f *runFlags, args []string) (*run, error) {
	r := &run{verbs: v, f: f, ref: args[0], prompt: strings.Join(args[1:], " ")}
	if err := r.flags(len(args) > 1); err != nil {
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	if err := r.compile(); err != nil {
		return nil, err
	}
	if !r.talk && len(args) == 1 && f.ids == "" {
		b, err := io.ReadAll(io.LimitReader(v.stdin, maxPrompt+1))
		if err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
		if len(b) > maxPrompt {
			return nil, fmt.Errorf("the prompt is longer than %s; cut it", console.Size(maxPrompt))
		}
		if r.prompt = string(b); strings.TrimSpace(r.prompt) == "" {
			return nil, fmt.Errorf("%w: there is no PROMPT, and nothing on standard input", errUsage)
		}
	}
	var err error
	if r.file, r.stored, err = v.openModel(r.ref); err != nil {
		return nil, err
	}
	if _, key := chat.Find(r.file.String, false); key == "" && f.system != "" {
		r.file.Close()
		return nil, fmt.Errorf("%s has no chat template, so --system has no place; put the text into the prompt", r.ref)
	}
	return r, nil
}

// flags checks the flags that can be checked without a model.
func (r *run) flags(prompt bool) error {
	f := r.f
	r.talk = f.chat || !prompt && f.ids == "" && isTerminal(r.stdin)
	switch {
	case f.chat && prompt:
		return errors.New("--chat reads its messages from standard input; leave PROMPT out")
	case f.ids != "" && (prompt || f.chat || f.system != "" || f.raw):
		return errors.New("--ids is the whole prompt; leave PROMPT, --chat, --system and --raw out")
	case f.raw && f.system != "":
		return errors.New("--raw has no place for --system")
	case f.json && r.talk:
		return errors.New("--json needs a PROMPT")
	case f.receipt != "" && r.talk:
		return errors.New("--receipt needs a PROMPT")
	case f.receipt != "" && len(f.rows) > 0:
		return errors.New("--receipt commits to a run that can be opened, which needs the tables; leave --rows out")
	case f.ghost != "" && len(f.rows) == 0:
		return errors.New("--ghost goes with --rows")
	case f.stream && !f.json:
		return errors.New("--stream goes with --json; text streams anyway")
	case f.logProbs >= 0 && !f.json:
		return errors.New("--logprobs goes with --json")
	case f.schema != "" && f.jsonObject:
		return errors.New("give --schema or --json-object, not both")
	case slices.Contains(f.stop, ""):
		return errors.New("--stop needs a text; every answer begins with none")
	case f.maxTokens < 0:
		return errors.New("--max-tokens must not be negative")
	case f.context < 0 || f.threads < 0:
		return errors.New("--context and --threads must not be negative")
	}
	r.path = kernel.Best()
	if f.kernel != "" {
		p, err := kernel.ParsePath(f.kernel)
		if err == nil && !slices.Contains(kernel.Paths(), p) {
			err = fmt.Errorf("this machine cannot run the kernels %s; it has %s", p, strings.Join(pathNames(), ", "))
		}
		if err != nil {
			return err
		}
		r.path = p
	}
	for _, s := range strings.FieldsFunc(f.ids, func(c rune) bool { return c == ',' || c == ' ' }) {
		id, err := strconv.ParseInt(s, 10, 32)
		if err != nil {
			return fmt.Errorf("--ids: %q is no token id", s)
		}
		r.ids = append(r.ids, int32(id))
	}
	if f.ids != "" && len(r.ids) == 0 {
		return errors.New("--ids holds no token id")
	}
	var err error
	if r.seed, err = parseSeed(f.seed); err != nil {
		return err
	}
	s := r.sampling(r.seed)
	if wrong := s.Valid(); wrong != "" {
		return errors.New(wrong)
	}
	return nil
}

// parseSeed reads an integer, which fills the first 8 bytes in little-endian
// order, or all 32 bytes in hex. Nothing gives a random seed.
func parseSeed(s string) (seed [32]byte, err error) {
	if s == "" {
		rand.Read(seed[:])
		return seed, nil
	}
	if b, err := hex.DecodeString(s); err == nil && len(b) == len(seed) {
		return [32]byte(b), nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return seed, fmt.Errorf("the seed %q is neither an integer from 0 to 2^64-1 nor 64 hex digits", s)
	}
	binary.LittleEndian.PutUint64(seed[:], n)
	return seed, nil
}

func (r *run) sampling(seed [32]byte) arith.Sampling {
	f := r.f
	return arith.Sampling{
		Temperature: f.temperature, TopK: f.topK, TopP: f.topP, MinP: f.minP,
		RepeatLast: f.repeatLast, RepeatPenalty: f.repeatPen, PresencePenalty: f.presencePen, FrequencyPenalty: f.freqPen,
		Seed: seed,
	}
}

// compile makes the grammar of the answer.
func (r *run) compile() error {
	switch {
	case r.f.jsonObject:
		r.grammar = constrain.JSONObject()
	case r.f.schema != "":
		b, err := os.ReadFile(r.f.schema)
		if err != nil {
			return err
		}
		if r.grammar, err = constrain.Compile(b); err != nil {
			return fmt.Errorf("schema %s: %w", r.f.schema, err)
		}
	}
	return nil
}

// isTerminal tells whether a person types into in.
func isTerminal(in io.Reader) bool {
	file, ok := in.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

// load loads the model.
func (r *run) load(ctx context.Context) error {
	begin := r.now()
	p := r.progress()
	shown := false
	opt := local.Options{
		Path: r.path, Threads: r.f.threads, Available: local.Available(),
		Engine: engine.Options{Context: r.f.context, Sessions: 1},
		Progress: func(done, total int64) {
			// A bar for what takes a moment is only noise.
			shown = shown || r.err.Terminal && r.now().Sub(begin).Seconds() > 0.5
			if shown {
				p.Update("load", done, total)
			}
		},
	}
	if r.f.force {
		opt.Available = 0
	}
	var err error
	if len(r.f.rows) > 0 {
		g, err := r.soundGhost(ctx, r.f.ghost)
		if err != nil {
			return err
		}
		if r.sound, err = newSound(ctx, r.file, g, r.f.rows, opt.Progress); err != nil {
			return err
		}
		opt.Rows = r.sound.client
	}
	if r.f.receipt != "" {
		if r.seal, err = r.prepareSeal(ctx, opt); err != nil {
			return err
		}
		opt.Engine.Trace = r.seal.model
		begin = r.now()
	}
	r.model, err = local.Open(ctx, r.file, opt)
	p.End()
	if err != nil {
		if r.sound == nil && isTrunk(r.file) {
			return fmt.Errorf("%w: it is a trunk; name servers of its rows with --rows", err)
		}
		return err
	}
	r.loadS = r.now().Sub(begin).Seconds()
	if r.f.verbose {
		c := r.model.Config()
		fmt.Fprintf(r.err.W, "%s: %s, %d layers, context %d of %d, kernels %s, threads %d, memory %s, loaded in %.2f s\nseed %x\n",
			console.Clean(r.ref), c.Arch, c.Layers, r.model.Engine.Context(), c.Context, r.path, r.model.Threads, console.Size(r.model.Memory.Total()), r.loadS, r.seed)
	}
	return nil
}

func (r *run) close() {
	if r.model != nil {
		r.model.Close()
	}
	r.file.Close()
}

// templated tells whether prompts go through the chat template.
func (r *run) templated() bool { return !r.f.raw && r.model.HasTemplate() }

// request makes a request of a prompt.
func (r *run) request(ids []int32, seed [32]byte) (engine.Request, error) {
	q := engine.Request{Prompt: ids, MaxTokens: r.f.maxTokens, Sampling: r.sampling(seed), Stop: r.f.stop, TopLogProbs: r.f.logProbs, Ahead: ahead}
	if r.grammar != nil {
		var err error
		if q.Constraint, err = r.model.Constrain(r.grammar); err != nil {
			return q, err
		}
	}
	return q, nil
}

// messages puts the system message before a conversation.
func (r *run) messages(turns ...chat.Message) []chat.Message {
	if r.f.system == "" {
		return turns
	}
	return append([]chat.Message{{Role: "system", Content: r.f.system}}, turns...)
}

// encode gives the ids of the prompt.
func (r *run) encode() ([]int32, error) {
	switch {
	case r.ids != nil:
		return r.ids, nil
	case !r.templated():
		return r.model.Text(r.prompt)
	case strings.TrimSpace(r.prompt) == "":
		return nil, errors.New("the prompt is empty; give it after the model's name or on standard input")
	}
	return r.model.Chat(r.messages(chat.Message{Role: "user", Content: r.prompt}), r.now())
}

// once answers one prompt.
func (r *run) once(ctx context.Context) error {
	ids, err := r.encode()
	if err != nil {
		return err
	}
	q, err := r.request(ids, r.seed)
	if err != nil {
		return err
	}
	if r.seal != nil {
		if err := r.sealed(&q); err != nil {
			return err
		}
	}
	a, err := r.answer(ctx, q, r.ids == nil && r.templated())
	if err != nil {
		return err
	}
	if r.seal != nil {
		if err := r.sign(a); err != nil {
			return err
		}
	}
	if r.sound != nil {
		r.sound.result().name(r.err.W)
	}
	if r.f.json {
		err = r.writeJSON(a)
	}
	if r.f.stats {
		a.stats(r.err.W)
		if r.sound != nil {
			r.sound.result().stats(r.err.W, len(a.prompt)+len(a.tokens))
		}
	}
	if err != nil {
		return err
	}
	if a.result.Finish == engine.FinishCancelled {
		return context.Canceled
	}
	if r.grammar != nil && a.result.Finish == engine.FinishLength {
		fmt.Fprintln(r.err.W, "the answer ended before its JSON was whole; give a larger --max-tokens or --context")
	}
	return nil
}

// hint adds to an error of loading or running what a person can do about it.
func (r *run) hint(err error) error {
	var short *local.MemoryError
	var gone *rows.ServersError
	switch {
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(r.err.W, "stopped")
		return errReported
	case errors.As(err, &gone):
		return fmt.Errorf("%w; name another server with --rows", err)
	case errors.Is(err, tokenizer.ErrNoVocab):
		return fmt.Errorf("%w; give the prompt as token ids with --ids, and leave --schema and --stop out", err)
	case errors.As(err, &short) && short.Fits >= 64:
		return fmt.Errorf("%w; \"--context %d\" would fit, and --force loads it all the same", err, short.Fits)
	case errors.As(err, &short):
		return fmt.Errorf("%w; end other programs, take a smaller model, or give --force to load it all the same", err)
	case errors.Is(err, engine.ErrContext) && r.model != nil && r.model.Engine.Context() < r.model.Config().Context:
		return fmt.Errorf("%w; give a larger --context (this model is made for up to %d) or ask for less", err, r.model.Config().Context)
	case errors.Is(err, engine.ErrContext):
		return fmt.Errorf("%w; that is the most this model is made for: shorten the prompt or lower --max-tokens", err)
	case errors.Is(err, model.ErrVoid):
		return fmt.Errorf("%w; \"geist models verify\" tells whether the file is damaged", err)
	}
	return err
}

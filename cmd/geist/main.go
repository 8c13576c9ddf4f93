// Command geist runs open models so that equal runs give equal bits, and keeps
// the models it runs.
//
// Exit codes: 0 done; 1 it did not work, and standard error says why; 2 the
// command line was not understood. Results go to standard output, progress and
// errors to standard error.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/store"
)

const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends what does not heed the first, such as a read of
	// standard input that nobody writes to.
	context.AfterFunc(ctx, stop)
	e := &env{
		stdin:  os.Stdin,
		out:    console.New(os.Stdout, os.Getenv),
		err:    console.New(os.Stderr, os.Getenv),
		getenv: os.Getenv,
		now:    time.Now,
	}
	code := e.run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// env is what a verb may use of the world.
type env struct {
	stdin    io.Reader
	out, err console.Out
	getenv   func(string) string
	now      func() time.Time
}

// verbs has one exported method for each verb of the command line, of type
// func() *cobra.Command, in a file of its own: a new verb is a new file
// verb_NAME.go and nothing else. newRoot finds the methods by reflection.
type verbs struct{ *env }

func newRoot(e *env) *cobra.Command {
	root := &cobra.Command{
		Use:   "geist",
		Short: "Run open models with the same bits on every machine",
		Long: `geist runs open models (GGUF files) so that equal runs give equal bits on every
machine, and keeps the models it runs.

Exit codes: 0 done, 1 it did not work, 2 the command line was not understood.
Models are kept under $GEIST_HOME, or else geist in the XDG data directory.`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(e.stdin)
	root.SetOut(e.out.W)
	root.SetErr(e.err.W)
	v := reflect.ValueOf(verbs{e})
	for i := range v.NumMethod() {
		root.AddCommand(v.Method(i).Interface().(func() *cobra.Command)())
	}
	sayArgs(root)
	return root
}

// sayArgs makes a wrong number of arguments an error that says what the command takes.
func sayArgs(c *cobra.Command) {
	for _, sub := range c.Commands() {
		sayArgs(sub)
	}
	check := c.Args
	if check == nil || c.HasSubCommands() {
		return
	}
	c.Args = func(c *cobra.Command, args []string) error {
		if check(c, args) == nil {
			return nil
		}
		_, takes, _ := strings.Cut(c.Use, " ")
		if takes == "" {
			return fmt.Errorf("%q takes no argument, and there is %q", c.CommandPath(), args[0])
		}
		return fmt.Errorf("%q takes %s; arguments given: %d", c.CommandPath(), takes, len(args))
	}
}

// onBegin has f called when a verb begins, with all its flags given and in range.
func onBegin(c *cobra.Command, f func()) {
	for _, sub := range c.Commands() {
		onBegin(sub, f)
	}
	do := c.RunE
	if do == nil {
		return
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := inRange(c.Flags()); err != nil {
			return err
		}
		f()
		return do(c, args)
	}
}

const rangeNote = "geist_range"

// within makes the value of a flag, if it is given, a usage error unless it is
// between least and most, in seconds if it is a duration.
func within(c *cobra.Command, least, most float64, names ...string) {
	for _, name := range names {
		if err := c.Flags().SetAnnotation(name, rangeNote, []string{strconv.FormatFloat(least, 'g', -1, 64), strconv.FormatFloat(most, 'g', -1, 64)}); err != nil {
			panic("internal error: --" + name + ": " + err.Error())
		}
	}
}

// inRange looks at the flags that within was told of.
func inRange(flags *pflag.FlagSet) (err error) {
	flags.Visit(func(f *pflag.Flag) {
		note := f.Annotations[rangeNote]
		if note == nil {
			return
		}
		var bounds [2]float64
		for i, s := range note {
			bounds[i], _ = strconv.ParseFloat(s, 64) // as within wrote it
		}
		values, seconds := []string{f.Value.String()}, f.Value.Type() == "duration"
		if list, ok := f.Value.(pflag.SliceValue); ok {
			values = list.GetSlice()
		}
		bad := slices.IndexFunc(values, func(text string) bool {
			x, err := strconv.ParseFloat(text, 64)
			if seconds {
				var d time.Duration
				d, err = time.ParseDuration(text)
				x = d.Seconds()
			}
			return err != nil || !(x >= bounds[0] && x <= bounds[1])
		})
		if bad < 0 {
			return
		}
		say := func(x float64) string {
			if seconds {
				return time.Duration(x * float64(time.Second)).String()
			}
			return strconv.FormatFloat(x, 'f', -1, 64)
		}
		err = fmt.Errorf("--%s %s; %s to %s are possible", f.Name, values[bad], say(bounds[0]), say(bounds[1]))
	})
	return err
}

// run executes one command line and returns the exit code.
func (e *env) run(ctx context.Context, args []string) int {
	root := newRoot(e)
	began := false // flags and arguments were understood
	onBegin(root, func() { began = true })
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errReported):
		return exitFailure
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		text := "stopped before it was done"
		if errors.Is(err, errResumes) {
			text += "; give the same command again to continue"
		}
		e.err.Error(errors.New(text))
		return exitFailure
	case !began || errors.Is(err, errUsage):
		text := strings.TrimPrefix(err.Error(), errUsage.Error()+": ")
		e.err.Error(fmt.Errorf("%s; see: %s --help", text, cmd.CommandPath()))
		return exitUsage
	}
	e.err.Error(e.hintHome(err))
	return exitFailure
}

// hintHome says of a home that cannot be written what to do about it.
func (e *env) hintHome(err error) error {
	var file *fs.PathError
	if !errors.As(err, &file) || strings.Contains(err.Error(), "GEIST_HOME") {
		return err
	}
	models, derr := store.DefaultDir(e.getenv)
	if derr != nil {
		return err
	}
	home := filepath.Dir(models)
	inside := file.Path == home || strings.HasPrefix(file.Path, home+string(filepath.Separator))
	above := file.Op == "mkdir" && strings.HasPrefix(home, strings.TrimSuffix(file.Path, string(filepath.Separator))+string(filepath.Separator))
	readable := errors.Is(err, fs.ErrNotExist) && file.Op != "mkdir"
	if !inside && !above || readable {
		return err
	}
	return fmt.Errorf("%w; geist keeps its files in %s: make that a directory you can write to, or set GEIST_HOME to another", err, home)
}

var (
	// errReported makes the exit code 1 without another line on standard
	// error: the output has said what failed.
	errReported = errors.New("reported")
	// errResumes says of an interrupted verb that it can go on where it stopped; wrap it.
	errResumes = errors.New("resumes")
	// errUsage makes the exit code 2 where only the verb itself can see that
	// its arguments do not fit together; wrap it.
	errUsage = errors.New("usage")
)

// group gives a command that only holds others: alone it prints its help, and
// an unknown sub-command is a usage error.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(subs...)
	return c
}

// jsonFlag adds the flag --json, which every verb with a result has.
func jsonFlag(c *cobra.Command) *bool {
	return c.Flags().Bool("json", false, "write the result as JSON")
}

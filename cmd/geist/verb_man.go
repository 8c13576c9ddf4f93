package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Man writes the manual pages.
func (v verbs) Man() *cobra.Command {
	c := &cobra.Command{
		Use:   "man DIR",
		Short: "Write the manual pages of all verbs into a directory",
		Long: `Writes a page of section 1 for geist and each of its verbs, such as
geist-models-add.1, into DIR, which is made if it does not exist.`,
		Example: `  geist man ~/.local/share/man/man1
  man geist-up`,
		Args: cobra.ExactArgs(1),
	}
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := os.MkdirAll(args[0], 0o777); err != nil {
			return err
		}
		files := []string{}
		err := eachCommand(cmd.Root(), func(c *cobra.Command) error {
			file := filepath.Join(args[0], manName(c)+".1")
			files = append(files, file)
			return os.WriteFile(file, []byte(manPage(c, buildVersion().Version)), 0o666)
		})
		if err != nil {
			return err
		}
		if *asJSON {
			return v.out.JSON(files)
		}
		_, err = fmt.Fprintf(v.out.W, "%d pages in %s\n", len(files), args[0])
		return err
	}
	return c
}

// eachCommand calls f for c and all below it that people use.
func eachCommand(c *cobra.Command, f func(*cobra.Command) error) error {
	if err := f(c); err != nil {
		return err
	}
	for _, s := range c.Commands() {
		if s.Hidden || s.Name() == "help" {
			continue
		}
		if err := eachCommand(s, f); err != nil {
			return err
		}
	}
	return nil
}

func manName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// roff writes text so that troff shows it as it is: man(7).
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l // else it would be a request
		}
	}
	return strings.Join(lines, "\n")
}

// manPage is the page of one command.
func manPage(c *cobra.Command, version string) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p(`.TH "%s" 1 "" "geist %s" "geist"`, strings.ToUpper(roff(manName(c))), roff(version))
	p(".SH NAME\n%s \\- %s", roff(manName(c)), roff(c.Short))
	p(".SH SYNOPSIS\n.B %s", roff(c.UseLine()))
	long := c.Long
	if long == "" {
		long = c.Short + "."
	}
	p(".SH DESCRIPTION\n.nf\n%s\n.fi", roff(strings.TrimSpace(long)))
	flags := func(title string, set *pflag.FlagSet) {
		if !set.HasAvailableFlags() {
			return
		}
		p(".SH %s", title)
		set.VisitAll(func(f *pflag.Flag) {
			if f.Hidden {
				return
			}
			name, usage := pflag.UnquoteUsage(f)
			text := "--" + f.Name
			if f.Shorthand != "" {
				text = "-" + f.Shorthand + ", " + text
			}
			p(".TP\n\\fB%s\\fR %s", roff(text), roff(name))
			if f.DefValue != "" && !slices.Contains([]string{"false", "0", "[]", "0s"}, f.DefValue) {
				usage += " (default " + f.DefValue + ")"
			}
			p("%s", roff(usage))
		})
	}
	flags("OPTIONS", c.LocalFlags())
	flags("OPTIONS OF ALL", c.InheritedFlags())
	if c.Example != "" {
		p(".SH EXAMPLES\n.nf\n%s\n.fi", roff(strings.Trim(c.Example, "\n")))
	}
	p(".SH EXIT STATUS\n0 done, 1 it did not work, 2 the command line was not understood.")
	var also []string
	if c.HasParent() {
		also = append(also, manName(c.Parent())+"(1)")
	}
	for _, s := range c.Commands() {
		if !s.Hidden && s.Name() != "help" {
			also = append(also, manName(s)+"(1)")
		}
	}
	if len(also) > 0 {
		p(".SH SEE ALSO\n%s", roff(strings.Join(also, ", ")))
	}
	return b.String()
}

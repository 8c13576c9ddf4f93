package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/geistnet/geist/internal/node"
)

// Config shows and checks what a node is told.
func (v verbs) Config() *cobra.Command {
	c := group("config", "Show and check the configuration of a node", v.configShow(), v.configPath(), v.configCheck())
	c.Long = `A node is told what to do by flags, by the environment, and by a file. A flag is
heard before a variable, a variable before the file, and the file before the default.

The file is JSON that may have comments from // to the end of the line and commas
after the last element. It is config.json in $GEIST_HOME, or else geist/config.json in
the XDG configuration directory; $GEIST_CONFIG or --config name another. A member
that geist does not know is an error. For example:

  {
    // what others ask of this node
    "models": [{"model": "tiny", "price_prompt": 5000000, "price_answer": 20000000}],
    "relays": ["wss://relay.example"],
    "verify": "audit",
  }

"geist config show" lists all members with their values, where each comes from, and
the variable that can hold it. Prices are in millisatoshi for a million tokens.`
	return c
}

// configured is what "config show --json" says.
type configured struct {
	File     string         `json:"file"`
	Settings []node.Setting `json:"settings"`
	Problem  string         `json:"problem,omitempty"`
}

func (v verbs) configShow() *cobra.Command {
	f := &nodeFlags{}
	c := &cobra.Command{
		Use:   "show",
		Short: "Show every value, where it comes from, and what is wrong with it",
		Long: `Shows every value that a node would have with these flags, this environment and
this file. Keys are masked. If the values contradict each other the exit code is 1.`,
		Args: cobra.NoArgs,
	}
	f.add(c)
	asJSON := jsonFlag(c)
	c.RunE = func(*cobra.Command, []string) error {
		cfg, err := v.config(f)
		if err != nil {
			return err
		}
		path, err := v.configFile(f)
		if err != nil {
			return err
		}
		out := configured{File: path, Settings: cfg.Settings(f.from)}
		if err := cfg.Check(); err != nil {
			out.Problem = err.Error()
		}
		if *asJSON {
			err = v.out.JSON(out)
		} else {
			err = v.showConfig(&out)
		}
		if err == nil && out.Problem != "" {
			err = errReported
		}
		return err
	}
	return c
}

func (e *env) showConfig(c *configured) error {
	var rows [][]string
	for _, s := range c.Settings {
		text, ok := s.Value.(string)
		if !ok || text == "" {
			b, err := json.Marshal(s.Value)
			if err != nil {
				return err
			}
			text = string(b)
		}
		env := s.Env
		if env == "" {
			env = "–"
		}
		rows = append(rows, []string{s.Name, text, s.Origin, env})
	}
	if err := e.out.Table([]string{"NAME", "VALUE", "FROM", "VARIABLE"}, rows); err != nil {
		return err
	}
	if c.Problem != "" {
		fmt.Fprintln(e.out.W)
		e.err.Error(fmt.Errorf("a node does not start so: %s", c.Problem))
	}
	return nil
}

// configFile is where the configuration is read from, if it is there.
func (e *env) configFile(f *nodeFlags) (string, error) {
	if f.file != "" {
		return f.file, nil
	}
	path, _, err := node.ConfigPath(e.getenv)
	return path, err
}

func (v verbs) configPath() *cobra.Command {
	c := &cobra.Command{Use: "path", Short: "Say where the configuration file is or would be", Args: cobra.NoArgs}
	asJSON := jsonFlag(c)
	c.RunE = func(*cobra.Command, []string) error {
		path, _, err := node.ConfigPath(v.getenv)
		if err != nil {
			return err
		}
		if *asJSON {
			return v.out.JSON(map[string]string{"file": path})
		}
		_, err = fmt.Fprintln(v.out.W, path)
		return err
	}
	return c
}

func (v verbs) configCheck() *cobra.Command {
	c := &cobra.Command{
		Use:   "check FILE",
		Short: "Check a configuration file without starting anything",
		Long: `Reads a configuration file over the defaults, and neither the environment nor other
files: what is not known, of the wrong kind, contradictory or unsafe is an error.`,
		Args: cobra.ExactArgs(1),
	}
	asJSON := jsonFlag(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		dir, err := node.DefaultDir()
		if err != nil {
			return err
		}
		cfg, from := node.Default(dir), node.Origins{}
		err = cfg.ReadFile(args[0], from)
		if err == nil {
			if err = cfg.Check(); err != nil {
				err = fmt.Errorf("the configuration %s: %w", args[0], err)
			}
		}
		if *asJSON {
			r := struct {
				File    string `json:"file"`
				OK      bool   `json:"ok"`
				Members int    `json:"members"`
				Problem string `json:"problem,omitempty"`
			}{args[0], err == nil, len(from), ""}
			if err != nil {
				r.Problem = err.Error()
			}
			if jerr := v.out.JSON(r); jerr != nil {
				return jerr
			}
			if err != nil {
				return errReported
			}
			return nil
		}
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(v.out.W, "%s: good; it sets %d of %d values\n", args[0], len(from), len(cfg.Settings(from)))
		return err
	}
	return c
}

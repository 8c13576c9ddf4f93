package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/geistnet/geist/internal/node"
)

// Doctor says what this machine and configuration lack.
func (v verbs) Doctor() *cobra.Command {
	f := &nodeFlags{}
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check this machine, the configuration and the running node",
		Long: `Checks the configuration, the processor, memory, disk, clock, key and models, the ports, the
relays and the journals of money, and asks the node that is running here, if one is.
Each line is a plain sentence; below it is what to do. The exit code is 1 if
something fails, and 0 if there are only warnings.

It changes nothing. Give it the flags that the node has.`,
		Args: cobra.NoArgs,
	}
	f.add(c)
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := v.config(f)
		if err != nil {
			return err
		}
		s, err := v.store()
		if err != nil {
			return err
		}
		d := node.Doctor{Config: cfg, Store: s, Passphrase: v.getenv(passphraseVar), BuiltIn: builtIn, Now: v.now}
		if d.ConfigFile, err = v.configFile(f); err != nil {
			return err
		}
		if d.KeyPath, err = v.keyPath(); err != nil {
			return err
		}
		list := d.Run(cmd.Context())
		if err := cmd.Context().Err(); err != nil {
			return err
		}
		fails := 0
		for _, x := range list {
			if x.Status == node.Bad {
				fails++
			}
		}
		if *asJSON {
			err = v.out.JSON(map[string]any{"findings": list, "fails": fails})
		} else {
			err = v.findings(list)
		}
		if err == nil && fails > 0 {
			err = errReported
		}
		return err
	}
	return c
}

func (e *env) findings(list []node.Finding) error {
	var rows [][]string
	for _, x := range list {
		rows = append(rows, []string{x.Status, x.Check, x.Text})
		if x.Next != "" {
			rows = append(rows, []string{"", "", "  → " + x.Next})
		}
	}
	if err := e.out.Table([]string{"", "CHECK", "WHAT WAS FOUND"}, rows); err != nil {
		return fmt.Errorf("write the findings: %w", err)
	}
	return nil
}

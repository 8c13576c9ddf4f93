package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/geistnet/geist/arith"
)

// Version prints what this binary is.
func (v verbs) Version() *cobra.Command {
	c := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this binary",
		Args:  cobra.NoArgs,
	}
	asJSON := jsonFlag(c)
	c.RunE = func(*cobra.Command, []string) error {
		b := buildVersion()
		if *asJSON {
			return v.out.JSON(b)
		}
		_, err := fmt.Fprintf(v.out.W, "geist %s, arithmetic %d, %s, %s\n", b.Version, b.Arithmetic, b.Go, b.Platform)
		return err
	}
	return c
}

type build struct {
	Version    string `json:"version"`
	Arithmetic int    `json:"arithmetic"` // version of the canonical arithmetic
	Go         string `json:"go"`
	Platform   string `json:"platform"`
}

// buildVersion reads what the go command recorded; without a tag, that is the commit.
func buildVersion() build {
	b := build{Version: "devel", Arithmetic: arith.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if info.Main.Version != "" && info.Main.Version != "(devel)" {
		b.Version = info.Main.Version
	}
	return b
}

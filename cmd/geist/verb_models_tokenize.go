package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/tokenizer"
)

const maxText = 512<<20 - 1 // bytes that a tokenizer takes

func (v verbs) modelsTokenize() *cobra.Command {
	c := &cobra.Command{
		Use:   "tokenize MODEL [TEXT] | tokenize --vectors INP OUT MODEL",
		Short: "Print the token ids of a text, or check a tokenizer against test vectors",
		Long: `Prints the token ids of TEXT, or of standard input if there is none.

With --vectors, checks the model's tokenizer against a pair of files as
llama.cpp has them: INP holds texts that end in lines __ggml_vocab_test__, OUT a
line of ids for each. The last line is "N passed, M failed".`,
		Args:              cobra.RangeArgs(1, 3),
		ValidArgsFunction: v.completeModels,
	}
	vectors := c.Flags().Bool("vectors", false, "check against test vectors")
	special := c.Flags().Bool("special", false, "put the model's special tokens around the text and read those spelt in it")
	asJSON := jsonFlag(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		switch {
		case *vectors && len(args) != 3:
			return fmt.Errorf("%w: --vectors takes INP OUT MODEL", errUsage)
		case *vectors:
			return v.checkVectors(args[0], args[1], args[2], *asJSON)
		case len(args) > 2:
			return fmt.Errorf("%w: tokenize takes MODEL and at most one TEXT; put the text into quotes", errUsage)
		}
		t, err := v.openTokenizer(args[0])
		if err != nil {
			return err
		}
		var text string
		if len(args) == 2 {
			text = args[1]
		} else {
			b, err := io.ReadAll(io.LimitReader(v.stdin, maxText+1))
			if err != nil {
				return fmt.Errorf("read standard input: %w", err)
			}
			text = string(b)
		}
		if len(text) > maxText {
			return fmt.Errorf("the text is longer than %s; cut it into parts", console.Size(maxText))
		}
		ids := t.Encode(text, tokenizer.Options{AddSpecial: *special, ParseSpecial: *special})
		if *asJSON {
			return v.out.JSON(struct {
				IDs []int32 `json:"ids"`
			}{append([]int32{}, ids...)})
		}
		words := make([]string, len(ids))
		for i, id := range ids {
			words[i] = strconv.Itoa(int(id))
		}
		_, err = fmt.Fprintln(v.out.W, strings.Join(words, " "))
		return err
	}
	return c
}

func (v verbs) openTokenizer(ref string) (*tokenizer.Tokenizer, error) {
	f, _, err := v.openModel(ref)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	t, err := tokenizer.New(f)
	if err == nil {
		err = t.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("tokenizer of %s: %w", ref, err)
	}
	return t, nil
}

func (v verbs) checkVectors(inpPath, outPath, ref string, asJSON bool) error {
	t, err := v.openTokenizer(ref)
	if err != nil {
		return err
	}
	inp, err := os.Open(inpPath)
	if err != nil {
		return err
	}
	defer inp.Close()
	out, err := os.Open(outPath)
	if err != nil {
		return err
	}
	defer out.Close()
	passed, failed, failures, err := tokenizer.Vectors(inp, out, t)
	if err != nil {
		return err
	}
	if passed+failed == 0 {
		return errors.New("there is no vector in " + inpPath)
	}
	if asJSON {
		err = v.out.JSON(struct {
			Passed   int      `json:"passed"`
			Failed   int      `json:"failed"`
			Failures []string `json:"failures"`
		}{passed, failed, append([]string{}, failures...)})
	} else {
		for _, f := range failures {
			fmt.Fprintln(v.out.W, console.Clean(f))
		}
		_, err = fmt.Fprintf(v.out.W, "%d passed, %d failed\n", passed, failed)
	}
	if err == nil && failed > 0 {
		err = errReported
	}
	return err
}

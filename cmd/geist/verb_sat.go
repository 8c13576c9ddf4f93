package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/geistnet/geist/arith"
	"github.com/geistnet/geist/internal/console"
	"github.com/geistnet/geist/internal/rowstore"
	"github.com/geistnet/geist/sat"
)

// Sat keeps tables of rows: tensors larger than memory.
func (v verbs) Sat() *cobra.Command {
	c := group("sat", "Keep tables of rows on disk, larger than memory, with a root that follows every commit",
		v.satNew(), v.satInfo(), v.satRead(), v.satUpdate(), v.satFsck(), v.satImport(), v.satExport(), v.satBench())
	c.Long = `A table is a directory that holds a tensor of up to 4294967296 rows. A few rows at a
time are read and changed; a Merkle root follows every commit, and each commit
leaves a transition that others can verify. No crash tears a table: it opens at the
root of a commit. The format is docs/spec/sat.md.`
	return c
}

// tableHint adds to an error about a table what a person can do about it.
func tableHint(err error) error {
	switch {
	case errors.Is(err, rowstore.ErrNoTable):
		return fmt.Errorf("%w; \"geist sat new\" and \"geist sat import\" make one", err)
	case errors.Is(err, rowstore.ErrCorrupt):
		return fmt.Errorf("%w; \"geist sat fsck\" says where", err)
	}
	return err
}

// openTable opens the table in dir.
func openTable(dir string, readOnly bool) (*rowstore.Table, error) {
	t, err := rowstore.Open(rowstore.Dir{Path: dir, ReadOnly: readOnly}, rowstore.Options{ReadOnly: readOnly})
	return t, tableHint(err)
}

// satState is what the verb says of a table.
type satState struct {
	Rows         uint64 `json:"rows"`
	Dim          int    `json:"dim"`
	Type         string `json:"type"`
	Moments      bool   `json:"moments"`
	RecordBytes  int    `json:"record_bytes"`
	LogicalBytes int64  `json:"logical_bytes"`
	Commit       uint64 `json:"commit"`
	Root         string `json:"root"`
	JournalBytes int64  `json:"journal_bytes"`
}

func stateOf(s sat.State, journal int64) satState {
	size := s.Shape.RecordBytes()
	return satState{
		Rows: s.Shape.Rows, Dim: s.Shape.Dim, Type: s.Shape.Format.String(), Moments: s.Shape.Moments, RecordBytes: size,
		LogicalBytes: int64(s.Shape.Rows) * int64(size), Commit: s.Commit, Root: s.Root.String(), JournalBytes: journal,
	}
}

// say writes a state as JSON or for people.
func (s satState) say(o console.Out, asJSON bool) error {
	if asJSON {
		return o.JSON(s)
	}
	moments := ""
	if s.Moments {
		moments = " and the moments of Adam"
	}
	_, err := fmt.Fprintf(o.W, "rows     %d of %d values in %s%s\nsize     %s, %d bytes a row\ncommit   %d\nroot     %s\n",
		s.Rows, s.Dim, s.Type, moments, console.Size(s.LogicalBytes), s.RecordBytes, s.Commit, s.Root)
	if err == nil && s.JournalBytes > 0 {
		_, err = fmt.Fprintf(o.W, "journal  %s wait for the next writer\n", console.Size(s.JournalBytes))
	}
	return err
}

func formatNames() []string {
	var names []string
	for _, f := range arith.Formats() {
		names = append(names, strings.ToLower(f.String()))
	}
	return names
}

func parseFormat(name string) (arith.Format, error) {
	for _, f := range arith.Formats() {
		if strings.EqualFold(f.String(), name) {
			return f, nil
		}
	}
	return 0, fmt.Errorf("%w: no type %q, there are %s", errUsage, name, strings.Join(formatNames(), ", "))
}

func (v verbs) satNew() *cobra.Command {
	c := &cobra.Command{
		Use:     "new DIRECTORY",
		Short:   "Make a table of zeros",
		Long:    "Makes a table of zeros. Rows that were never written take no room on the disk.",
		Example: "  geist sat new memory --rows 1048576 --dim 128 --moments",
		Args:    cobra.ExactArgs(1),
	}
	f := c.Flags()
	rows := f.Uint64("rows", 0, "rows of the table, up to 4294967296")
	dim := f.Int("dim", 0, "values in a row")
	kind := f.String("type", "f32", "type of the values: "+strings.Join(formatNames(), ", "))
	moments := f.Bool("moments", false, "keep the moments of Adam beside the values, for training")
	asJSON := jsonFlag(c)
	completeFlag(c, "type", formatNames())
	c.RunE = func(cmd *cobra.Command, args []string) error {
		format, err := parseFormat(*kind)
		if err != nil {
			return err
		}
		shape := sat.Shape{Rows: *rows, Format: format, Dim: *dim, Moments: *moments}
		if err := shape.Valid(); err != nil {
			return fmt.Errorf("%w: %w", errUsage, err)
		}
		s, err := v.makeTable(cmd.Context(), args[0], shape, nil)
		if err != nil {
			return err
		}
		return stateOf(s, 0).say(v.out, *asJSON)
	}
	return c
}

// makeTable makes a table in a directory, which it makes too.
func (v verbs) makeTable(ctx context.Context, dir string, shape sat.Shape, values io.Reader) (sat.State, error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return sat.State{}, err
	}
	p := v.progress()
	defer p.End()
	return rowstore.Create(ctx, rowstore.Dir{Path: dir}, shape, values, p.Update)
}

func (v verbs) satInfo() *cobra.Command {
	c := &cobra.Command{
		Use:   "info DIRECTORY",
		Short: "Show the shape, the commit and the root of a table",
		Args:  cobra.ExactArgs(1),
	}
	asJSON := jsonFlag(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		t, err := openTable(args[0], true)
		if err != nil {
			return err
		}
		s := stateOf(t.State(), t.Journal())
		if err := t.Close(); err != nil {
			return err
		}
		return s.say(v.out, *asJSON)
	}
	return c
}

// satRow is a record as people read and write it.
type satRow struct {
	ID       uint64    `json:"id"`
	Values   []float32 `json:"values,omitempty"`
	M        []float32 `json:"m,omitempty"`
	V        []float32 `json:"v,omitempty"`
	Steps    uint32    `json:"steps,omitempty"`
	Record   string    `json:"record,omitempty"`   // hexadecimal, instead of the above
	Gradient []float32 `json:"gradient,omitempty"` // of an update
}

func (v verbs) satRead() *cobra.Command {
	c := &cobra.Command{
		Use:     "read DIRECTORY ROW...",
		Short:   "Read rows",
		Example: "  geist sat read memory 0 17 1048575 --json",
		Args:    cobra.MinimumNArgs(2),
	}
	raw := c.Flags().Bool("raw", false, "show the bytes of the records and not their values")
	proof := c.Flags().Bool("proof", false, "with --json: add the multiproof of the rows under the root; rows are then in ascending order")
	asJSON := jsonFlag(c)
	c.RunE = func(_ *cobra.Command, args []string) (err error) {
		if *proof && !*asJSON {
			return fmt.Errorf("%w: --proof goes with --json", errUsage)
		}
		var ids []uint64
		for _, a := range args[1:] {
			id, err := strconv.ParseUint(a, 10, 64)
			if err != nil {
				return fmt.Errorf("%w: %q is no number of a row", errUsage, a)
			}
			if *proof && len(ids) > 0 && id <= ids[len(ids)-1] {
				return fmt.Errorf("%w: with --proof rows must ascend, and %d follows %d", errUsage, id, ids[len(ids)-1])
			}
			ids = append(ids, id)
		}
		t, err := openTable(args[0], true)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, t.Close()) }()
		shape := t.Shape()
		size := shape.RecordBytes()
		b := make([]byte, len(ids)*size)
		s := t.Snapshot()
		defer func() { err = errors.Join(err, s.Close()) }()
		if err := s.Read(ids, b); err != nil {
			return err
		}
		out := struct {
			Commit uint64   `json:"commit"`
			Root   string   `json:"root"`
			Of     uint64   `json:"rows_in_table"`
			Rows   []satRow `json:"rows"`
			Proof  []string `json:"proof,omitempty"`
		}{Commit: s.State().Commit, Root: s.State().Root.String(), Of: shape.Rows}
		for i, id := range ids {
			out.Rows = append(out.Rows, rowOf(shape, id, b[i*size:(i+1)*size], *raw))
		}
		if *proof {
			hashes, err := s.Prove(ids)
			if err != nil {
				return err
			}
			for _, h := range hashes {
				out.Proof = append(out.Proof, h.String())
			}
		}
		if *asJSON {
			return v.out.JSON(out)
		}
		for _, r := range out.Rows {
			if *raw {
				_, err = fmt.Fprintf(v.out.W, "%d  %s\n", r.ID, r.Record)
			} else {
				_, err = fmt.Fprintf(v.out.W, "%d  %v\n", r.ID, r.Values)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	return c
}

func rowOf(shape sat.Shape, id uint64, record []byte, raw bool) satRow {
	r := satRow{ID: id}
	values := make([]float32, shape.Dim)
	arith.Dequantize(values, shape.Format, record[:shape.ValueBytes()])
	for _, x := range values { // JSON has no numbers for what is not finite
		raw = raw || x-x != 0
	}
	if shape.Moments && !raw {
		r.M, r.V = make([]float32, shape.Dim), make([]float32, shape.Dim)
		arith.Dequantize(r.M, arith.F32, record[4*shape.Dim:8*shape.Dim])
		arith.Dequantize(r.V, arith.F32, record[8*shape.Dim:12*shape.Dim])
		for i := range r.M {
			raw = raw || r.M[i]-r.M[i] != 0 || r.V[i]-r.V[i] != 0
		}
		end := record[12*shape.Dim:]
		r.Steps = uint32(end[0]) | uint32(end[1])<<8 | uint32(end[2])<<16 | uint32(end[3])<<24
	}
	if raw {
		return satRow{ID: id, Record: hex.EncodeToString(record)}
	}
	r.Values = values
	return r
}

func (v verbs) satUpdate() *cobra.Command {
	c := &cobra.Command{
		Use:   "update DIRECTORY [FILE]",
		Short: "Change rows in one commit",
		Long: `Reads one JSON object a line from FILE or else from standard input, for each row
one, and makes one durable commit of all:

  {"id": 17, "values": [0.5, -1, ...]}     new values, for tables of f32
  {"id": 17, "record": "0000003f..."}      the new record, all its bytes
  {"id": 17, "gradient": [0.01, 0, ...]}   a step of Adam, for tables with moments

New values leave the moments as they are. Gradients do not mix with the others.`,
		Args: cobra.RangeArgs(1, 2),
	}
	f := c.Flags()
	a := sat.Adam{}
	f.Float32Var(&a.LR, "lr", 0.001, "learning rate of Adam")
	f.Float32Var(&a.Beta1, "beta1", 0.9, "decay of the first moment")
	f.Float32Var(&a.Beta2, "beta2", 0.999, "decay of the second moment")
	f.Float32Var(&a.Eps, "eps", 1e-8, "what is added to the root of the second moment")
	f.Float32Var(&a.WeightDecay, "decay", 0, "decoupled weight decay")
	within(c, 0, math.MaxFloat32, "lr", "eps", "decay")
	within(c, 0, 1, "beta1", "beta2")
	transition := f.String("transition", "", "write the transition, which others can verify, to this file")
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) (err error) {
		in := v.stdin
		if len(args) == 2 {
			file, err := os.Open(args[1])
			if err != nil {
				return err
			}
			defer file.Close()
			in = file
		}
		rows, err := readUpdates(in)
		if err != nil {
			return err
		}
		t, err := openTable(args[0], false)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, t.Close()) }()
		ids, rule, updates, err := updatesOf(t, rows, a)
		if err != nil {
			return err
		}
		tr, err := t.Commit(ids, rule, updates, true)
		if err != nil {
			return tableHint(err)
		}
		encoded, err := tr.Encode()
		if err != nil {
			return err
		}
		if *transition != "" {
			if err := os.WriteFile(*transition, encoded, 0o666); err != nil {
				return fmt.Errorf("commit %d is made, but its transition could not be kept: %w", tr.Commit, err)
			}
		}
		if *asJSON {
			return v.out.JSON(struct {
				Commit     uint64 `json:"commit"`
				Rows       int    `json:"rows"`
				Before     string `json:"before"`
				After      string `json:"after"`
				ProofBytes int    `json:"proof_bytes"`
				Bytes      int    `json:"transition_bytes"`
			}{tr.Commit, len(ids), tr.Before.String(), tr.After.String(), 32 * len(tr.Proof), len(encoded)})
		}
		_, err = fmt.Fprintf(v.out.W, "commit   %d, %d rows\nbefore   %v\nroot     %v\n", tr.Commit, len(ids), tr.Before, tr.After)
		return err
	}
	return c
}

const maxUpdateLine = 16 << 20

// readUpdates reads one row a line.
func readUpdates(in io.Reader) ([]satRow, error) {
	var rows []satRow
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 64<<10), maxUpdateLine)
	for n := 1; lines.Scan(); n++ {
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		if len(rows) == sat.MaxChanged {
			return nil, fmt.Errorf("line %d: a commit has at most %d rows", n, sat.MaxChanged)
		}
		r := satRow{}
		d := json.NewDecoder(strings.NewReader(lines.Text()))
		d.DisallowUnknownFields()
		if err := d.Decode(&r); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		given := 0
		for _, has := range []bool{r.Values != nil, r.Record != "", r.Gradient != nil} {
			if has {
				given++
			}
		}
		if given != 1 || r.M != nil || r.V != nil || r.Steps != 0 {
			return nil, fmt.Errorf("line %d: want \"id\" and one of \"values\", \"record\" and \"gradient\"", n)
		}
		if (r.Gradient != nil) != (len(rows) > 0 && rows[0].Gradient != nil) && len(rows) > 0 {
			return nil, fmt.Errorf("line %d: gradients do not mix with values and records", n)
		}
		rows = append(rows, r)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("%w: no rows to change were given", errUsage)
	}
	return rows, nil
}

func (v verbs) satFsck() *cobra.Command {
	c := &cobra.Command{
		Use:   "fsck DIRECTORY",
		Short: "Prove every row of a table against its root",
		Long: `Reads all rows, hashes them and compares with the root of the last commit and
with the stored tree. Changes nothing. The exit code is 1 if anything differs.`,
		Args: cobra.ExactArgs(1),
	}
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) (err error) {
		t, err := rowstore.Open(rowstore.Dir{Path: args[0], ReadOnly: true}, rowstore.Options{ReadOnly: true, Damaged: true})
		if err != nil {
			return tableHint(err)
		}
		defer func() { err = errors.Join(err, t.Close()) }()
		p := v.progress()
		r, err := t.Check(cmd.Context(), p.Update)
		p.End()
		if err != nil {
			return err
		}
		if *asJSON {
			err = v.out.JSON(struct {
				satState
				Whole    bool     `json:"whole"`
				Found    string   `json:"root_of_rows"`
				BadRows  []uint64 `json:"bad_rows"`
				Unproven []uint64 `json:"unproven_rows"`
				Differ   uint64   `json:"rows_that_differ"`
				BadNodes uint64   `json:"bad_nodes"`
				Damage   string   `json:"damage,omitempty"`
			}{stateOf(r.State, t.Journal()), r.Whole, r.Root.String(), append([]uint64{}, r.BadRows...), append([]uint64{}, r.Unproven...), r.Rows, r.BadNodes, r.Damage})
		} else {
			err = v.fsckText(r)
		}
		if err == nil && !r.Whole {
			err = errReported
		}
		return err
	}
	return c
}

func (v verbs) fsckText(r *rowstore.Report) error {
	var b strings.Builder
	fmt.Fprintf(&b, "commit   %d\nroot     %v\n", r.State.Commit, r.State.Root)
	switch {
	case r.Whole:
		fmt.Fprintf(&b, "all %d rows are proven\n", r.State.Shape.Rows)
	case r.Root == r.State.Root:
		fmt.Fprintf(&b, "all %d rows are right, but %d stored hashes are not: export the table and import it again\n", r.State.Shape.Rows, r.BadNodes)
	default:
		fmt.Fprintf(&b, "the rows lead to another root, %v; %d differ from their hashes\n", r.Root, r.Rows)
		for _, id := range r.BadRows {
			fmt.Fprintf(&b, "row %d is damaged\n", id)
		}
		for _, id := range r.Unproven {
			fmt.Fprintf(&b, "row %d or the hashes over it are damaged\n", id)
		}
		if r.BadNodes > 0 {
			fmt.Fprintf(&b, "%d stored hashes are damaged\n", r.BadNodes)
		}
		if r.Damage != "" {
			fmt.Fprintln(&b, r.Damage)
		}
	}
	_, err := io.WriteString(v.out.W, b.String())
	return err
}

func (v verbs) satBench() *cobra.Command {
	c := &cobra.Command{
		Use:   "bench [DIRECTORY]",
		Short: "Measure commits, proofs and reads on tables of several sizes",
		Long: `Makes a table of zeros for each number of rows, in DIRECTORY or else the system's
directory for temporary files, writes some of its rows, times batches of random
rows among those, and removes the table. Reads are cold after the system was
asked to drop the file from memory before each batch.`,
		Example: "  geist sat bench --rows 65536,1048576,134217728 --json",
		Args:    cobra.MaximumNArgs(1),
	}
	m := rowstore.Measurement{Now: time.Now}
	f := c.Flags()
	rows := f.StringSlice("rows", []string{"65536", "1048576"}, "rows of the tables, one after another")
	f.IntVar(&m.Dim, "dim", 128, "float32 values in a row")
	f.BoolVar(&m.Moments, "moments", false, "with moments; commits are steps of Adam")
	f.IntVar(&m.K, "k", 384, "rows in a batch")
	f.IntVar(&m.Rounds, "rounds", 100, "batches of each kind")
	f.IntVar(&m.Written, "written", 0, "rows written before; 0: 262144")
	within(c, 1, 1<<18, "dim")
	within(c, 1, 1<<20, "k")
	within(c, 1, 1<<24, "rounds")
	within(c, 0, 1<<32, "written")
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		m.Dir = os.TempDir()
		if len(args) == 1 {
			m.Dir = args[0]
		}
		p := v.progress()
		defer p.End()
		p.Amount = func(n int64) string { return strconv.FormatInt(n, 10) }
		m.Progress = p.Update
		var all []*rowstore.Measured
		for _, text := range *rows {
			n, err := strconv.ParseUint(text, 10, 64)
			if err != nil {
				return fmt.Errorf("%w: --rows: %q is no number", errUsage, text)
			}
			m.Rows = n
			r, err := rowstore.Measure(cmd.Context(), m)
			if err != nil {
				return err
			}
			all = append(all, r)
		}
		p.End()
		if *asJSON {
			return v.out.JSON(all)
		}
		both := func(t rowstore.Times) string { return fmt.Sprintf("%.2f / %.2f", t.P50, t.P99) }
		var lines [][]string
		for _, r := range all {
			cold := "-"
			if r.Cold != nil {
				cold = both(*r.Cold)
			}
			lines = append(lines, []string{
				fmt.Sprint(r.Rows), console.Size(r.LogicalBytes), both(r.Commit), fmt.Sprintf("%.2f", r.CommitCPU), both(r.Durable), fmt.Sprint(r.ProofBytes), both(r.Verify),
				both(r.Warm), fmt.Sprintf("%.0f", r.WarmRate), cold, console.Size(r.PeakRSS),
			})
		}
		if _, err := fmt.Fprintf(v.out.W, "Batches of %d rows; p50 / p99 in milliseconds.\n\n", m.K); err != nil {
			return err
		}
		return v.out.Table([]string{"ROWS", "SIZE", "COMMIT", "CPU", "SYNCED", "PROOF B", "VERIFY", "READ WARM", "ROWS/S", "READ COLD", "PEAK"}, lines)
	}
	return c
}

// updatesOf turns rows into what a commit takes.
func updatesOf(t *rowstore.Table, rows []satRow, a sat.Adam) (ids []uint64, rule sat.UpdateRule, updates []byte, err error) {
	rows, err = ascending(rows)
	if err != nil {
		return nil, rule, nil, err
	}
	shape := t.Shape()
	size := shape.RecordBytes()
	for _, r := range rows {
		ids = append(ids, r.ID)
	}
	if rows[0].Gradient != nil {
		if !shape.Moments {
			return nil, rule, nil, errors.New("gradients are for tables with moments: make one with --moments")
		}
		for _, r := range rows {
			if len(r.Gradient) != shape.Dim {
				return nil, rule, nil, fmt.Errorf("row %d: %d gradients, want %d", r.ID, len(r.Gradient), shape.Dim)
			}
			updates = appendFloats(updates, r.Gradient)
		}
		return ids, sat.UpdateRule{Kind: sat.AdamStep, Adam: a}, updates, nil
	}
	old := make([]byte, len(ids)*size)
	if err := t.Read(ids, old); err != nil {
		return nil, rule, nil, err
	}
	for i, r := range rows {
		record := old[i*size : (i+1)*size]
		switch {
		case r.Record != "":
			b, err := hex.DecodeString(r.Record)
			if err != nil || len(b) != size {
				return nil, rule, nil, fmt.Errorf("row %d: the record is not %d bytes in hexadecimal digits", r.ID, size)
			}
			updates = append(updates, b...)
		case shape.Format != arith.F32:
			return nil, rule, nil, fmt.Errorf("row %d: values can be set in tables of F32 only; give the record of this one, of %v", r.ID, shape.Format)
		case len(r.Values) != shape.Dim:
			return nil, rule, nil, fmt.Errorf("row %d: %d values, want %d", r.ID, len(r.Values), shape.Dim)
		default:
			updates = append(appendFloats(updates, r.Values), record[4*shape.Dim:]...)
		}
	}
	return ids, rule, updates, nil
}

// ascending sorts rows by id and refuses two of one.
func ascending(rows []satRow) ([]satRow, error) {
	rows = slices.SortedFunc(slices.Values(rows), func(a, b satRow) int { return cmp.Compare(a.ID, b.ID) })
	for i := 1; i < len(rows); i++ {
		if rows[i].ID == rows[i-1].ID {
			return nil, fmt.Errorf("row %d is given twice", rows[i].ID)
		}
	}
	return rows, nil
}

func appendFloats(b []byte, values []float32) []byte {
	for _, x := range values {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return b
}

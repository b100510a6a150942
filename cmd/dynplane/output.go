package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/dynplane/dynplane/discovery/backend"
)

// streamsJSON reports whether ls, watch, snapshot and sub print JSON: by default a
// table on a terminal, and JSON lines otherwise.
func (a *app) streamsJSON() bool {
	return a.output == "json" || a.output == "" && !a.terminal
}

// writeJSON writes v as one line, in one write.
func (a *app) writeJSON(v any) error {
	enc := json.NewEncoder(a.stdout)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// printNone prints on stderr, in the place of an empty table, that nothing has been
// found, and where.
func (a *app) printNone(what string) error {
	name, err := backend.Name(a.env)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stderr, "dynplane: %s (%s is %s)\n", printable(what), backend.Variable, name)
	return err
}

// table writes rows of aligned columns. Columns never become narrower, so that the
// rows of commands that stream, which flush after each of them, align as well.
type table struct {
	w      io.Writer
	rows   [][]string // not flushed yet
	widths []int      // in characters
}

func newTable(w io.Writer) *table { return &table{w: w} }

// row adds a row.
func (t *table) row(cells ...string) {
	for i, cell := range cells {
		cells[i] = printable(cell)
		if i == len(t.widths) {
			t.widths = append(t.widths, 6)
		}
		t.widths[i] = max(t.widths[i], utf8.RuneCountInString(cells[i]))
	}
	t.rows = append(t.rows, cells)
}

// Flush writes the rows that were added since the last call, in one write.
func (t *table) Flush() error {
	var out strings.Builder
	for _, cells := range t.rows {
		for i, cell := range cells {
			out.WriteString(cell)
			if i < len(cells)-1 {
				out.WriteString(strings.Repeat(" ", t.widths[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		out.WriteByte('\n')
	}
	t.rows = nil
	_, err := io.WriteString(t.w, out.String())
	return err
}

// printable quotes s if it has characters that could control a terminal or break
// a table: names come from the network.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

// clearReadyFile removes the ready file of an earlier run, which would announce
// this one too early. An empty name means none.
func clearReadyFile(name string) error {
	if name == "" {
		return nil
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("--ready-file: %w", err)
	}
	return nil
}

// writeReadyFile creates a file with one line, atomically, since other programs
// wait for it. An empty name means none.
func writeReadyFile(name, line string) (err error) {
	if name == "" {
		return nil
	}
	temp, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if err != nil {
		return fmt.Errorf("--ready-file %s: %w", name, err)
	}
	_, err = temp.WriteString(line + "\n")
	if cerr := temp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(temp.Name(), name)
	}
	if err != nil {
		_ = os.Remove(temp.Name())
		return fmt.Errorf("--ready-file %s: %w", name, err)
	}
	return nil
}

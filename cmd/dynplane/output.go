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
	"text/tabwriter"
	"unicode"
)

// streamsJSON is the format of the verbs that print what they find: a table for
// a person, JSON lines for a program.
func (a *app) streamsJSON() bool {
	return a.output == "json" || a.output == "" && !a.terminal
}

// writeJSON writes v as one line, in one write.
func (a *app) writeJSON(v any) error {
	enc := json.NewEncoder(a.stdout)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// table writes rows of aligned columns. A stream flushes after each row, and
// its columns are then aligned as far as they are narrow.
type table struct{ *tabwriter.Writer }

func newTable(w io.Writer) table {
	return table{tabwriter.NewWriter(w, 8, 8, 2, ' ', 0)}
}

// row adds a row; Flush reports errors.
func (t table) row(cells ...string) {
	for i := range cells {
		cells[i] = printable(cells[i])
	}
	_, _ = fmt.Fprintln(t, strings.Join(cells, "\t"))
}

// printable quotes what could command a terminal or break a table: names come
// from the network.
func printable(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

// clearReadyFile removes what an earlier run has left, so that nobody takes it
// for ours.
func clearReadyFile(name string) error {
	if name == "" {
		return nil
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("--ready-file: %w", err)
	}
	return nil
}

// writeReadyFile writes a line to a file that appears all at once, for programs
// that wait for it. An empty name is none.
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

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

// table writes rows of aligned columns. Commands that stream flush after each row,
// which aligns only columns that are narrow.
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

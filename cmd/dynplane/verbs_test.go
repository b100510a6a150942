package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestIDFlag(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]uint64{
		"0": 0, "42": 42, "0x2a": 42, "0X2A": 42, "010": 10,
		"18446744073709551615": 1<<64 - 1, "0xffffffffffffffff": 1<<64 - 1,
	} {
		var f idFlag
		if err := f.Set(text); err != nil || f.value != want || !f.given {
			t.Errorf("%s: %+v, %v, want %d", text, f, err, want)
		}
	}
	for _, text := range []string{"", "0x", "2a", "-1", "+1", "1_0", "1.0", "18446744073709551616", "0x10000000000000000"} {
		if err := new(idFlag).Set(text); err == nil {
			t.Errorf("%q is an id, want an error", text)
		}
	}
}

func TestPaceKeepsTheRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		wait := func(p *pace, n int) time.Duration {
			for range n {
				if err := p.wait(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			return time.Since(start)
		}
		if got := wait(newPace(0), 1000); got != 0 {
			t.Errorf("without a rate it took %v", got)
		}
		p := newPace(10)
		if got := wait(p, 11); got != time.Second {
			t.Errorf("11 events at 10 a second took %v, want 1s", got)
		}
		// A pause is not caught up with.
		<-time.After(time.Minute)
		start = time.Now()
		if got := wait(p, 11); got != time.Second {
			t.Errorf("after a pause they took %v, want 1s", got)
		}
		start = time.Now()
		if got := wait(newPace(1e-300), 1); got != 0 {
			t.Errorf("the first of a slow pace took %v", got)
		}
	})
}

func TestReadyFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name := filepath.Join(dir, "ready")
	for _, line := range []string{"one", "two"} {
		if err := writeReadyFile(name, line); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(name); err != nil || string(got) != line+"\n" {
			t.Errorf("%q, %v, want %q", got, err, line)
		}
	}
	if err := writeReadyFile(dir, "x"); err == nil {
		t.Error("wrote over a directory")
	}
	if err := writeReadyFile("", "x"); err != nil {
		t.Error(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("%v, %v, want the one file", files, err)
	}
}

func TestUnanswered(t *testing.T) {
	t.Parallel()
	late := unanswered(fmt.Errorf("list: %w", context.DeadlineExceeded))
	if !errors.Is(late, context.DeadlineExceeded) || !strings.Contains(late.Error(), "not answered within 15s") {
		t.Errorf("got %v", late)
	}
	if got := unanswered(errors.New("refused")); got.Error() != "refused" {
		t.Errorf("got %v, want it unchanged", got)
	}
}

func TestPrintable(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"ns/comp": "ns/comp", "é ü": "é ü", "a\tb": `"a\tb"`, "\x1b[2J": `"\x1b[2J"`,
	} {
		if got := printable(text); got != want {
			t.Errorf("%q is shown as %s, want %s", text, got, want)
		}
	}
}

func TestStreamedRowsAlign(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	rows := newTable(&out)
	rows.row("EVENT", "PATH", "ADDRESS")
	for _, cells := range [][]string{
		{"added", "ns/é/a", "tcp://h:1"}, {"synced"}, {"removed", "ns/component/endpoint", "x"}, {"added", "ns", "y"},
	} {
		rows.row(cells...)
		if err := rows.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	const want = `EVENT   PATH    ADDRESS
added   ns/é/a  tcp://h:1
synced
removed  ns/component/endpoint  x
added    ns                     y
`
	if out.String() != want {
		t.Errorf("\n%s\nwant\n%s", out.String(), want)
	}
}

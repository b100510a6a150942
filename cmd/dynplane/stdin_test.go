package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestReadLines(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 5<<20)
	var numbers []int
	var texts []string
	for l, err := range readLines(t.Context(), strings.NewReader("a\r\n\n \t\n"+long+"\nlast")) {
		if err != nil {
			t.Fatal(err)
		}
		numbers, texts = append(numbers, l.number), append(texts, string(l.text))
	}
	if !slices.Equal(numbers, []int{1, 4, 5}) || !slices.Equal(texts, []string{"a", long, "last"}) {
		t.Errorf("lines %v, want 1, 4 and 5 as they are", numbers)
	}
}

type brokenReader struct{ err error }

func (r brokenReader) Read([]byte) (int, error) { return 0, r.err }

func TestReadLinesError(t *testing.T) {
	t.Parallel()
	var got error
	for _, err := range readLines(t.Context(), brokenReader{io.ErrUnexpectedEOF}) {
		got = err
	}
	if !errors.Is(got, io.ErrUnexpectedEOF) {
		t.Errorf("%v, want %v", got, io.ErrUnexpectedEOF)
	}
}

func TestReadingEndsWithContext(t *testing.T) {
	t.Parallel()
	r, w := io.Pipe()
	t.Cleanup(func() { _ = w.Close() }) // lets go of the readers
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range readLines(ctx, r) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("lines: %v, want %v", err, context.Canceled)
		}
	}
	if _, err := readAll(ctx, r); !errors.Is(err, context.Canceled) {
		t.Errorf("all: %v, want %v", err, context.Canceled)
	}
}

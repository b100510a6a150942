package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
)

// A read from a terminal or a pipe cannot be interrupted. Therefore a goroutine
// reads stdin, and is left behind in its read when ctx is done: the process is
// about to exit.

// readAll reads all of r.
func readAll(ctx context.Context, r io.Reader) (data []byte, err error) {
	done := make(chan struct{})
	var all []byte
	var readErr error
	go func() {
		defer close(done)
		all, readErr = io.ReadAll(r)
	}()
	select {
	case <-done:
		return all, readErr
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// line is one line of stdin, numbered from 1, without surrounding blanks. The last
// line has the error that ended the input.
type line struct {
	number int
	text   []byte
	err    error
}

// readLines yields the lines of r, of any length, except blank ones. Its last
// element is an error unless r ended with io.EOF.
func readLines(ctx context.Context, r io.Reader) iter.Seq2[line, error] {
	return func(yield func(line, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		lines := make(chan line)
		go sendLines(ctx, bufio.NewReaderSize(r, 1<<16), lines)
		for {
			select {
			case <-ctx.Done():
				yield(line{}, ctx.Err())
				return
			case l := <-lines:
				if len(l.text) > 0 && !yield(l, nil) {
					return
				}
				if l.err != nil {
					if !errors.Is(l.err, io.EOF) {
						yield(l, l.err)
					}
					return
				}
			}
		}
	}
}

func sendLines(ctx context.Context, r *bufio.Reader, to chan<- line) {
	for n := 1; ; n++ {
		text, err := r.ReadBytes('\n')
		select {
		case to <- line{n, bytes.Trim(text, " \t\r\n"), err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

package requestplane

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestProgressExtendsTheTimeout transfers bytes one at a time, for much longer than
// the timeout, which ends only the silence after them.
func TestProgressExtendsTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const idle = time.Second
		far, near := net.Pipe()
		defer func() { _ = far.Close() }()
		s := newStream(t.Context(), near, idle)
		defer func() { _ = s.Close() }()
		go func() {
			for range 100 {
				<-time.After(idle * 9 / 10)
				_, _ = far.Write([]byte("x"))
			}
		}()
		begin := time.Now()
		data, err := io.ReadAll(s)
		expectError(t, err, os.ErrDeadlineExceeded)
		if want := 90*time.Second + idle; len(data) != 100 || time.Since(begin) != want {
			t.Errorf("%d bytes in %v, want 100 in %v", len(data), time.Since(begin), want)
		}
		go func() { // takes a chunk at a time
			buf := make([]byte, 64<<10)
			for range 3 {
				<-time.After(idle * 9 / 10)
				_, _ = io.ReadFull(far, buf)
			}
		}()
		n, err := s.Write(bytes.Repeat([]byte("x"), 256<<10))
		expectError(t, err, os.ErrDeadlineExceeded)
		if n != 192<<10 {
			t.Errorf("%d bytes written, want those that were taken", n)
		}
	})
}

func TestContextEndsReadsAndWrites(t *testing.T) {
	t.Parallel()
	for name, step := range map[string]func(*stream) error{
		"read":  func(s *stream) error { _, err := s.Read(make([]byte, 1)); return err },
		"write": func(s *stream) error { _, err := s.Write([]byte("x")); return err },
	} {
		far, near := net.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		s := newStream(ctx, near, 0)
		time.AfterFunc(moment, cancel)
		if err := step(s); err == nil {
			t.Errorf("%s: no error", name)
		}
		expectError(t, step(s), context.Canceled)
		_ = s.Close()
		_ = s.Close()
		_ = far.Close()
	}
}

func TestCrowd(t *testing.T) {
	t.Parallel()
	var evicted atomic.Uint64
	c := crowd{max: 2, evicted: &evicted}
	var ended []int
	add := func(n int) func() { return c.add(func() { ended = append(ended, n) }) }
	leave := add(1)
	add(2)
	leave()
	leave()
	add(3)
	add(4) // replaces 2
	c.close()
	leave = add(5)
	leave()
	c.close()
	if want := []int{2, 3, 4, 5}; !slices.Equal(ended, want) || evicted.Load() != 1 || c.members.Len() != 0 {
		t.Errorf("ended %v, %d evicted, want %v and 1", ended, evicted.Load(), want)
	}
}

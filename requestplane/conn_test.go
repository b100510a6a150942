package requestplane

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
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
	c := crowd{max: 4, evicted: &evicted}
	var ended []int
	add := func(n int, host string) func() {
		return c.add(netip.MustParseAddr(host), func() { ended = append(ended, n) })
	}
	add(1, "10.0.0.1")
	leave := add(2, "10.0.0.2")
	add(3, "10.0.0.2")
	leave()
	leave()
	add(4, "::ffff:10.0.0.2")
	add(5, "2001:db8::1")
	add(6, "10.0.0.2")    // replaces 3
	add(7, "2001:db8::2") // replaces 4
	add(8, "2001:db8::3") // replaces 5
	c.close()
	leave = add(9, "10.0.0.1")
	leave()
	c.close()
	if want := []int{3, 4, 5, 1, 6, 7, 8, 9}; !slices.Equal(ended, want) || evicted.Load() != 3 || c.members.Len()+len(c.hosts) != 0 {
		t.Errorf("ended %v, %d evicted, want %v and 3", ended, evicted.Load(), want)
	}
}

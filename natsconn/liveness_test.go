package natsconn

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// A connection lives for as long as it receives something.
func TestLiveConn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		local, remote := net.Pipe()
		defer func() { _, _ = local.Close(), remote.Close() }()
		c := &liveConn{Conn: local}
		go func() {
			for range 3 {
				<-time.After(silence - time.Second)
				_, _ = io.WriteString(remote, "x")
			}
		}()
		b := make([]byte, 10)
		for range 3 {
			if n, err := c.Read(b); n != 1 || err != nil {
				t.Fatalf("read %d bytes, %v", n, err)
			}
		}
		began := time.Now()
		if _, err := c.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != silence+grace {
			t.Errorf("a silent connection ends after %v with %v", time.Since(began), err)
		}
		// An earlier deadline, as during a handshake, counts until it is removed.
		if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		began = time.Now()
		if _, err := c.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("a handshake ends after %v with %v", time.Since(began), err)
		}
		if err := c.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.WriteString(remote, "x") }()
		if n, err := c.Read(b); n != 1 || err != nil {
			t.Errorf("read %d bytes, %v after the handshake", n, err)
		}
	})
}

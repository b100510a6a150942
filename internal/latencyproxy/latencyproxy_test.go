package latencyproxy_test

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dynplane/dynplane/internal/latencyproxy"
	"github.com/dynplane/dynplane/internal/waittest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo runs a server that returns all bytes until the end, and then ends.
func echo(t *testing.T) (addr string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		running.Wait()
	})
	return listener.Addr().String()
}

func start(t *testing.T, target string, delay time.Duration) *latencyproxy.Proxy {
	t.Helper()
	p, err := latencyproxy.Start(target, delay)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(waittest.Patience)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

func TestRoundTripTakesTwiceTheDelay(t *testing.T) {
	t.Parallel()
	const delay = 50 * time.Millisecond
	conn := dial(t, start(t, echo(t), delay).Addr())
	for range 3 {
		begun := time.Now()
		if _, err := conn.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 4)
		if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "ping" {
			t.Fatalf("%q, %v", answer, err)
		}
		if took := time.Since(begun); took < 2*delay {
			t.Errorf("a round trip took %v, want at least %v", took, 2*delay)
		}
	}
}

// Bytes are under way at once: a proxy that sent one chunk in a delay would take
// minutes for these.
func TestThroughputIsNotLimitedByTheDelay(t *testing.T) {
	t.Parallel()
	conn := dial(t, start(t, echo(t), 500*time.Millisecond).Addr())
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<20) // 16 MB
	var writing sync.WaitGroup
	writing.Go(func() {
		if _, err := conn.Write(sent); err != nil {
			t.Error(err)
		}
		if err := conn.CloseWrite(); err != nil {
			t.Error(err)
		}
	})
	got, err := io.ReadAll(conn) // up to the end, which the proxy forwards
	writing.Wait()
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes returned, %v, want %d", len(got), err, len(sent))
	}
}

func TestCloseEndsConnections(t *testing.T) {
	t.Parallel()
	p, err := latencyproxy.Start(echo(t), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	conn := dial(t, p.Addr())
	if _, err := conn.Write([]byte("never arrives")); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read %d bytes, %v, want an error", n, err)
	}
	if _, err := net.Dial("tcp", p.Addr()); err == nil {
		t.Error("the proxy still accepts connections")
	}
}

func TestTargetThatRefusesEndsTheConnection(t *testing.T) {
	t.Parallel()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	conn := dial(t, start(t, gone.Addr().String(), 0).Addr())
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read %d bytes, %v, want an error", n, err)
	}
}

package latencyproxy_test

import (
	"io"
	"testing"
	"time"

	"github.com/dynplane/dynplane/internal/latencyproxy"
)

func TestStallHoldsBytesBack(t *testing.T) {
	p := start(t, echo(t), 0)
	conn := dial(t, p.Addr())
	p.Stall()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1)
	_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := conn.Read(buf); err == nil {
		t.Fatalf("%d bytes arrive through a stalled proxy", n)
	}
	p.Resume()
	_ = conn.SetReadDeadline(time.Time{})
	if _, err := io.ReadFull(conn, buf); err != nil || buf[0] != 'x' {
		t.Errorf("after Resume: %q, %v, want the byte that was held back", buf, err)
	}
	p.Stall() // Close must not wait for Resume
}

func TestCutEndsConnections(t *testing.T) {
	p := start(t, echo(t), 0)
	before := dial(t, p.Addr())
	p.Cut()
	expectEnd(t, p, before)
	expectEnd(t, p, dial(t, p.Addr()))
	p.Resume()
	conn := dial(t, p.Addr())
	buf := make([]byte, 1)
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, buf); err != nil || buf[0] != 'x' {
		t.Errorf("after Resume: %q, %v, want an echo", buf, err)
	}
}

func expectEnd(t *testing.T, p *latencyproxy.Proxy, conn io.Reader) {
	t.Helper()
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes arrive from %s, which is cut", n, p.Addr())
	}
}

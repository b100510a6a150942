package natsconn

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"
)

const (
	// The client sends a PING every pingInterval, so that a server that works
	// sends at least one PONG in that time.
	pingInterval = time.Second

	// silence is how long a connection may receive nothing before it counts as
	// dead. nats.go counts unanswered PINGs instead, and would cut connections on
	// which the PONG waits behind megabytes of messages that a slow client is
	// still reading; every reconnect makes such a client read them again.
	silence = 5 * time.Second

	// neverStale turns the count of nats.go off.
	neverStale = 1 << 30

	// grace is for data that has arrived while the process did not run.
	grace = 50 * time.Millisecond
)

// liveConn is a connection whose reads fail once it has received nothing for
// silence, or at a deadline that was set and is earlier, as during the handshake.
type liveConn struct {
	net.Conn
	deadline atomic.Pointer[time.Time] // nil if none was set
}

// Read implements net.Conn.
func (c *liveConn) Read(b []byte) (int, error) {
	until := time.Now().Add(silence)
	if set := c.deadline.Load(); set != nil && set.Before(until) {
		return c.read(b, *set)
	}
	n, err := c.read(b, until)
	if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		return c.read(b, time.Now().Add(grace))
	}
	return n, err
}

func (c *liveConn) read(b []byte, until time.Time) (int, error) {
	if err := c.Conn.SetReadDeadline(until); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

// SetReadDeadline implements net.Conn. It applies from the next Read.
func (c *liveConn) SetReadDeadline(t time.Time) error {
	if t.IsZero() {
		c.deadline.Store(nil)
	} else {
		c.deadline.Store(&t)
	}
	return nil
}

// SetDeadline implements net.Conn.
func (c *liveConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

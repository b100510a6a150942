//go:build cgo && !nozmq

package zmq

import (
	"errors"
	"fmt"
	"time"

	zmq "github.com/pebbe/zmq4"

	"github.com/dynplane/dynplane/eventplane/driver"
)

const (
	sendLinger = 200 * time.Millisecond // 0 can abort the process while a peer leaves: libzmq issue 3442
	// receiveHWM is 100,000 at Dynamo's subscribers, which have no other
	// queue. Ours is behind this one and bounded in bytes, as libzmq's is not:
	// what we are slow to take stays with the publisher, behind its own mark.
	// More is not faster.
	receiveHWM = 1000
	// A subscription is all that a publisher hears. libzmq keeps a node of a
	// tree for each of its bytes and walks it recursively: one of a megabyte
	// overflows the stack.
	maxSubscription = 4 << 10
	// subscriptionHWM is how many subscriptions of each peer wait before libzmq
	// moves them to an XPUB's list of unread ones. It does that once in 100 that
	// are read: with less than 100 the list gets shorter by reading.
	subscriptionHWM = 64
	// reconnectMax is where the wait for the next attempt to connect, from 10 ms
	// on, is doubled no more. It is how late we can be when a peer that was away
	// for long is back; an attempt a second costs nothing.
	reconnectMax = time.Second
)

// socket opens a PUB, XPUB or SUB socket with the options that all of them share.
// The caller holds c.mu.
func (c *Context) socket(kind zmq.Type) (*zmq.Socket, error) {
	if c.closed {
		return nil, driver.ErrClosed
	}
	s, err := c.zctx.NewSocket(kind)
	if err != nil {
		return nil, err
	}
	linger, maxFrame, rcvhwm := time.Duration(0), c.opts.MaxMessage, receiveHWM
	if kind != zmq.SUB {
		linger, maxFrame = sendLinger, maxSubscription
	}
	if kind == zmq.XPUB {
		rcvhwm = subscriptionHWM
	}
	err = errors.Join(
		s.SetLinger(linger),
		s.SetSndhwm(c.opts.HWM),
		s.SetRcvhwm(rcvhwm),
		s.SetMaxmsgsize(maxFrame),
		s.SetReconnectIvl(10*time.Millisecond),
		s.SetReconnectIvlMax(reconnectMax),
		s.SetTcpKeepalive(1),
		s.SetHeartbeatIvl(time.Second),
		s.SetHeartbeatTimeout(3*time.Second),
	)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Version is that of libzmq, such as 4.3.5; empty in a program without it.
func Version() string {
	major, minor, patch := zmq.Version()
	return fmt.Sprintf("%d.%d.%d", major, minor, patch)
}

// pair opens one end of a pair inside of this process. It has no high-water
// mark: a monitor would block libzmq's threads there.
func (c *Context) pair(attach func(*zmq.Socket) error) (*zmq.Socket, error) {
	s, err := c.zctx.NewSocket(zmq.PAIR)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(s.SetLinger(0), s.SetRcvhwm(0), s.SetSndhwm(0), attach(s)); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// inproc returns an endpoint inside of this process that no other has. The
// caller holds c.mu.
func (c *Context) inproc() string {
	c.serial++
	return fmt.Sprintf("inproc://%d", c.serial)
}

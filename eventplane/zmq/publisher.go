//go:build cgo && !nozmq

package zmq

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/internal/rawzmq"
)

// Publisher sends messages to all connected peers. It implements
// driver.Publisher and, if BrokerPublisher opened it, driver.Connector. All
// methods are safe for concurrent use.
type Publisher struct {
	zc          *Context
	endpoint    string       // empty for brokers
	connections *connections // nil unless for brokers
	loop        *socketLoop

	// The lock of the loop protects the following.
	subscriptions subscriptions
	matched       []int         // reused: connections of the matching subscriptions that are being read
	head          []byte        // reused: all of a message but its body
	control       []byte        // reused: the body of a control message
	replay        *replayServer // nil unless ServeReplay was called
	id, next, at  uint64        // publisher id, sequence of the next event, and time of the last one
	backlog       backlog
}

var errListens = errors.New("the publisher listens: want one that BrokerPublisher opened")

// newPublisher takes ownership of the socket, also when it fails.
func newPublisher(c *Context, socket *rawzmq.Socket, subject string, p peers, monitored rawzmq.EventKind) (*Publisher, error) {
	loop, err := newSocketLoop(socket, p, monitored)
	if err != nil {
		return nil, err
	}
	loop.senders = true
	pub := &Publisher{zc: c, loop: loop, subscriptions: subscriptions{subject: subject, probes: map[string]int{}}}
	if err := socket.Set(rawzmq.XPubVerboser, 1); err != nil {
		return nil, errors.Join(err, loop.close())
	}
	return pub, nil
}

// Endpoint returns the endpoint that a publisher of DirectPublisher listens on,
// with the port that the system chose. A wildcard host stays as it is. It is
// empty for a publisher of BrokerPublisher.
func (p *Publisher) Endpoint() string { return p.endpoint }

// Check implements driver.Publisher.
func (p *Publisher) Check(size int) error {
	if limit := p.zc.opts.MaxMessage - headerSize; int64(size) > limit {
		return fmt.Errorf("body of %d bytes: want %d at most", size, limit)
	}
	return nil
}

// Publish sends m. It never blocks: subscribers that are too slow miss m. While
// Options.MaxQueued bytes wait for some, no subscriber receives large events.
func (p *Publisher) Publish(ctx context.Context, m *driver.Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := p.Check(len(m.Body)); err != nil {
		return fmt.Errorf("zmq: publish to %q: %w", m.Subject, err)
	}
	p.loop.mu.Lock()
	defer p.loop.mu.Unlock()
	if p.loop.stopped.Load() {
		return driver.ErrClosed
	}
	var err error
	if m.Kind == driver.Event {
		p.id, p.next, p.at = m.PublisherID, m.Sequence+1, m.PublishedAt
		if !p.admit(len(m.Body)) {
			return nil
		}
		err = p.send(m.Subject, m.PublisherID, m.Sequence, m.Body)
	} else {
		err = p.send(tickTopic+m.Subject, m.PublisherID, m.Sequence, p.controlBody(m.PublisherID, m.Sequence, m.PublishedAt))
	}
	p.loop.sent()
	if err != nil {
		return fmt.Errorf("zmq: publish to %q: %w", m.Subject, err)
	}
	return nil
}

func (p *Publisher) controlBody(id, sequence, at uint64) []byte {
	p.control = p.zc.opts.ControlBody(p.control[:0], id, sequence, at)
	return p.control
}

// send sends a message. The caller holds the lock of the loop.
func (p *Publisher) send(topic string, publisher, sequence uint64, body []byte) error {
	head := p.head[:0]
	head = append(head, topic...)
	head = binary.BigEndian.AppendUint64(head, publisher)
	head = binary.BigEndian.AppendUint64(head, sequence)
	head = appendHeader(head, len(body))
	p.head = head
	id := len(topic)
	seq, last := id+idSize, id+2*idSize
	return p.loop.socket.Send(&[frameCount][]byte{head[:id], head[id:seq], head[seq:last], head[last:]}, body)
}

// Connect adds the XSUB endpoint of a broker. It only blocks to look up a name, for
// a second at most: libzmq connects, and reconnects when the connection breaks, in
// the background.
func (p *Publisher) Connect(endpoint string) error {
	if p.connections == nil {
		return fmt.Errorf("zmq: connect to %q: %w", endpoint, errListens)
	}
	return p.loop.connect(p.connections, endpoint, false)
}

// Disconnect removes the XSUB endpoint of a broker.
func (p *Publisher) Disconnect(endpoint string) error {
	if p.connections == nil {
		return fmt.Errorf("zmq: disconnect from %q: %w", endpoint, errListens)
	}
	err := p.loop.use(func() error { return p.connections.disconnect(endpoint) })
	if err != nil {
		return fmt.Errorf("zmq: disconnect from %q: %w", endpoint, err)
	}
	return nil
}

// Ready blocks until all peers that are connected have subscribed to the subject of
// the publisher, or ctx is done. Messages that are published before are not sent
// to those that have not.
//
// The peers of a publisher of DirectPublisher are its subscribers. One that does
// not subscribe to the subject within a second counts no more. The peers of a
// publisher of BrokerPublisher are the brokers that it is connected to, also those
// that cannot be reached. A broker of this module subscribes as soon as it is
// connected. A broker that forwards the subscriptions of its subscribers does so
// once there is one to the subject; Ready blocks until then.
func (p *Publisher) Ready(ctx context.Context) error {
	return p.loop.await(ctx, func() bool {
		p.loop.readMonitor()
		p.readSubscriptions()
		return p.loop.peers.settled()
	})
}

// WaitSubscribers blocks until at least n subscribers of a publisher of
// DirectPublisher have subscribed to its subject, or ctx is done. A subscriber of
// this module counts once. Of other subscribers, each subscription that matches the
// subject counts. Subscribers of brokers cannot be counted: for a publisher of
// BrokerPublisher, the error wraps errors.ErrUnsupported.
func (p *Publisher) WaitSubscribers(ctx context.Context, n int) error {
	if p.connections != nil {
		return fmt.Errorf("zmq: wait for %d subscribers: brokers do not report theirs: %w", n, errors.ErrUnsupported)
	}
	return p.loop.await(ctx, func() bool {
		p.readSubscriptions()
		return p.subscriptions.subscribers() >= n
	})
}

// readTime limits how long subscriptions that do not cease delay a message.
const readTime = time.Millisecond

// readSubscriptions reads subscriptions without waiting, and reports whether there
// may be more. The caller holds the lock of the loop.
//
// Subscriptions must also be read while nothing is published. libzmq keeps 11 KiB
// for each subscriber that has gone until the socket is used. And once
// SubscriptionHWM of them are unread on a connection to a broker, libzmq stops
// reading from it, answers to heartbeats included. It then closes and reopens the
// connection every few seconds, and aborts the process when the subscriptions are
// read at last: libzmq issue 3937.
func (p *Publisher) readSubscriptions() (more bool) {
	for began := time.Now(); ; {
		if more = p.loop.receiver.Each(p.handleSubscription); !more || time.Since(began) > readTime {
			break
		}
	}
	p.loop.prove(p.matched...)
	p.matched = p.matched[:0]
	if more {
		p.loop.checkNow()
	}
	return more
}

// handleSubscription handles a subscription: 1 and a prefix. 0 and a prefix ends one.
func (p *Publisher) handleSubscription(m *rawzmq.Message) {
	f := m.Frames[0]
	if len(f) == 0 || f[0] > 1 {
		return
	}
	begins := f[0] == 1
	n := 1
	if !begins {
		n = -1
	}
	matches, probe := p.subscriptions.add(f[1:], n)
	switch {
	case begins && matches:
		p.matched = append(p.matched, m.Source())
	case begins && probe && p.connections == nil:
		// libzmq drops it if the subscriber has no room, which then assumes the answer.
		_ = p.send(string(f[1:]), p.id, p.next, p.controlBody(p.id, p.next, p.at))
	}
	p.loop.broadcast()
}

// Close closes the publisher. libzmq still sends queued messages for 200 ms.
func (p *Publisher) Close() error {
	p.zc.remove(p)
	if err := errors.Join(p.loop.close(), p.closeReplay()); err != nil {
		return fmt.Errorf("zmq: close the publisher: %w", err)
	}
	return nil
}

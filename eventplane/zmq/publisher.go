//go:build cgo && !nozmq

package zmq

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/internal/rawzmq"
)

// Publisher sends messages to all connected peers. It implements
// driver.Publisher and, if BrokerPublisher opened it, driver.Connector. All
// methods are safe for concurrent use.
type Publisher struct {
	zc            *Context
	endpoint      string              // empty for brokers
	loop          *socketLoop         // nil unless for brokers
	idle          *idleReader         // nil for brokers
	subscriptions *subscriptionReader // nil unless for brokers

	mu     sync.Mutex
	socket *rawzmq.Socket
	closed bool
	head   []byte // memory for all of a message but its body
}

var errListens = errors.New("the publisher listens: want one that BrokerPublisher opened")

// Endpoint returns the endpoint that a publisher of DirectPublisher listens on,
// with the port that the system chose. A wildcard host stays as it is. It is
// empty for a publisher of BrokerPublisher.
func (p *Publisher) Endpoint() string { return p.endpoint }

// MaxBody implements driver.Publisher.
func (p *Publisher) MaxBody() int { return int(p.zc.opts.MaxMessage - headerSize) }

// Publish sends m. It never blocks: subscribers that are too slow miss m.
func (p *Publisher) Publish(ctx context.Context, m *driver.Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if limit := p.MaxBody(); len(m.Body) > limit {
		return fmt.Errorf("zmq: publish to %q: body of %d bytes: want %d at most", m.Subject, len(m.Body), limit)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return driver.ErrClosed
	}
	if p.subscriptions != nil {
		p.subscriptions.beforeSend()
	}
	if err := p.send(m); err != nil {
		return fmt.Errorf("zmq: publish to %q: %w", m.Subject, err)
	}
	return nil
}

func (p *Publisher) send(m *driver.Message) error {
	head := p.head[:0]
	head = append(head, m.Subject...)
	id := len(head)
	head = binary.BigEndian.AppendUint64(head, m.PublisherID)
	sequence := len(head)
	head = binary.BigEndian.AppendUint64(head, m.Sequence)
	last := len(head)
	head = appendHeader(head, len(m.Body))
	p.head = head
	return p.socket.Send(&[frameCount][]byte{head[:id], head[id:sequence], head[sequence:last], head[last:]}, m.Body)
}

// Connect adds the XSUB endpoint of a broker. It only blocks to look up a name, for
// a second at most: libzmq connects, and reconnects when the connection breaks, in
// the background.
func (p *Publisher) Connect(endpoint string) error {
	if p.loop == nil {
		return fmt.Errorf("zmq: connect to %q: %w", endpoint, errListens)
	}
	return p.loop.connect(endpoint)
}

// Disconnect removes the XSUB endpoint of a broker.
func (p *Publisher) Disconnect(endpoint string) error {
	if p.loop == nil {
		return fmt.Errorf("zmq: disconnect from %q: %w", endpoint, errListens)
	}
	return p.loop.disconnect(endpoint)
}

// Ready blocks until all brokers that the publisher is connected to have
// subscribed to its subject, or ctx is done. Messages that are published before
// are dropped. A publisher of DirectPublisher is ready at once.
//
// A broker of this module subscribes as soon as it is connected. A broker that
// forwards the subscriptions of its subscribers does so once there is one to
// the subject; Ready blocks until then. Subscriptions are counted, since libzmq
// does not report which broker sent them: among several brokers, one that
// forwards two matching subscriptions counts as two.
func (p *Publisher) Ready(ctx context.Context) error {
	if p.loop == nil {
		return ctx.Err()
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if err := p.loop.ready(ctx); err != nil {
			return err
		}
		if ok, err := p.subscribed(); err != nil || ok {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// subscribed reports whether every handshake was followed by a subscription.
func (p *Publisher) subscribed() (ok bool, err error) {
	err = p.loop.do(func() error {
		p.readSubscriptions()
		ok = p.loop.connections.subscribed()
		return nil
	})
	return ok, err
}

// readSubscriptions reads subscriptions without waiting, and reports whether
// there may be more. Only the socketLoop calls it. The monitor is read after
// the subscriptions: libzmq reports a handshake before the first of them
// arrives.
//
// Subscriptions must also be read while nothing is published. Once
// SubscriptionHWM of them are unread, libzmq stops reading from the connection,
// answers to heartbeats included. It then closes and reopens the connection
// every few seconds, and aborts the process when the subscriptions are read at
// last: libzmq issue 3937.
func (p *Publisher) readSubscriptions() (more bool) {
	p.mu.Lock()
	more = !p.subscriptions.read()
	n := p.subscriptions.takeMatched()
	p.mu.Unlock()
	p.loop.readMonitor()
	p.loop.connections.addSubscriptions(n)
	return more
}

// Close closes the publisher. libzmq still sends queued messages for 200 ms.
func (p *Publisher) Close() error {
	p.zc.remove(p)
	if p.loop != nil {
		p.loop.stop()
	}
	if p.idle != nil {
		p.idle.stop()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	if p.subscriptions != nil {
		p.subscriptions.receiver.Close()
	}
	if err := p.socket.Close(); err != nil {
		return fmt.Errorf("zmq: close the publisher: %w", err)
	}
	return nil
}

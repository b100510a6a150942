//go:build cgo && !nozmq

package zmq

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	zmq "github.com/pebbe/zmq4"

	"github.com/dynplane/dynplane/eventplane/driver"
)

// Publisher sends messages to whoever is connected. It implements
// driver.Publisher and, when it was opened with BrokerPublisher, driver.Connector. All
// methods are safe for concurrent use.
type Publisher struct {
	zc       *Context
	endpoint string
	owner    *owner // of the connections; nil when bound
	audience audience

	mu      sync.Mutex
	socket  *zmq.Socket
	closed  bool
	scratch []byte
}

func newPublisher(c *Context, socket *zmq.Socket, endpoint, subject string) *Publisher {
	return &Publisher{zc: c, socket: socket, endpoint: endpoint, audience: audience{subject: subject}}
}

var errBound = errors.New("the publisher is bound: others connect to it")

// Endpoint is where a publisher opened with DirectPublisher listens, with the port that
// was chosen; empty for one opened with BrokerPublisher. A wildcard host stays one.
func (p *Publisher) Endpoint() string { return p.endpoint }

// Publish sends m. It never blocks: subscribers that are too slow miss it.
func (p *Publisher) Publish(ctx context.Context, m *driver.Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if limit := p.zc.opts.MaxMessage - headerSize; int64(len(m.Body)) > limit {
		return fmt.Errorf("zmq: publish to %q: body of %d bytes: want %d at most", m.Subject, len(m.Body), limit)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return driver.ErrClosed
	}
	if p.owner != nil {
		p.audience.tend(p.socket)
	}
	if err := p.send(m); err != nil {
		return fmt.Errorf("zmq: publish to %q: %w", m.Subject, err)
	}
	return nil
}

const maxScratch = 1 << 20 // bytes kept for the next message

func (p *Publisher) send(m *driver.Message) error {
	buf := p.scratch[:0]
	buf = append(buf, m.Subject...)
	topic := len(buf)
	buf = binary.BigEndian.AppendUint64(buf, m.PublisherID)
	buf = binary.BigEndian.AppendUint64(buf, m.Sequence)
	body := len(buf)
	buf = append(appendHeader(buf, len(m.Body)), m.Body...)
	if cap(buf) <= maxScratch {
		p.scratch = buf
	}
	return p.sendFrames([frameCount][]byte{buf[:topic], buf[topic : topic+idSize], buf[topic+idSize : body], buf[body:]})
}

func (p *Publisher) sendFrames(parts [frameCount][]byte) error {
	flags := zmq.SNDMORE | zmq.DONTWAIT
	for i, part := range parts {
		if i == len(parts)-1 {
			flags = zmq.DONTWAIT
		}
		if _, err := p.socket.SendBytes(part, flags); err != nil {
			if i > 0 {
				// Ends the message, or the next one would become its rest.
				_, _ = p.socket.SendBytes(nil, zmq.DONTWAIT)
			}
			return err
		}
	}
	return nil
}

// Connect adds a broker's XSUB endpoint. It returns at once; the connection is
// made, and made again whenever it breaks, in the background.
func (p *Publisher) Connect(endpoint string) error {
	if p.owner == nil {
		return fmt.Errorf("zmq: connect to %s: %w", endpoint, errBound)
	}
	return p.owner.connect(endpoint)
}

// Disconnect removes a broker's XSUB endpoint.
func (p *Publisher) Disconnect(endpoint string) error {
	if p.owner == nil {
		return fmt.Errorf("zmq: disconnect from %s: %w", endpoint, errBound)
	}
	return p.owner.disconnect(endpoint)
}

// Ready blocks until all the brokers that the publisher is connected to have
// subscribed to its subject, or ctx is done: what is published before is
// dropped. A bound publisher is live.
//
// A broker of this module subscribes as soon as it is connected. One that
// passes on the subscriptions of others does so when there is one of the
// subject, and keeps Ready waiting until then. Subscriptions are counted, since
// libzmq does not tell whose they are: among several brokers, one that passes
// on two that match counts as two.
func (p *Publisher) Ready(ctx context.Context) error {
	if p.owner == nil {
		return ctx.Err()
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if err := p.owner.live(ctx); err != nil {
			return err
		}
		if ok, err := p.heard(); err != nil || ok {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// heard tells whether no subscription is missing. The monitor is read after the
// subscriptions: libzmq tells it of a handshake before the first of them comes.
func (p *Publisher) heard() (ok bool, err error) {
	err = p.owner.do(func() error {
		p.mu.Lock()
		n := p.audience.take(p.socket)
		p.mu.Unlock()
		p.owner.readMonitor()
		ok = p.owner.links.subscribed(n)
		return nil
	})
	return ok, err
}

// Close closes the socket. What was published is still sent, for 200 ms.
func (p *Publisher) Close() error {
	p.zc.forget(p)
	if p.owner != nil {
		p.owner.stop()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	if err := p.socket.Close(); err != nil {
		return fmt.Errorf("zmq: close the publisher: %w", err)
	}
	return nil
}

//go:build cgo && !nozmq

package zmq

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	zmq "github.com/pebbe/zmq4"

	"github.com/dynplane/dynplane/eventplane/driver"
)

// Publisher sends messages to whoever is connected. It implements
// driver.Publisher and, when it was opened with Dial, driver.Connector. All
// methods are safe for concurrent use.
type Publisher struct {
	zc       *Context
	endpoint string
	owner    *owner // of the connections; nil when bound

	mu      sync.Mutex
	socket  *zmq.Socket
	closed  bool
	scratch []byte
}

func newPublisher(c *Context, socket *zmq.Socket, endpoint string) *Publisher {
	return &Publisher{zc: c, socket: socket, endpoint: endpoint}
}

var errBound = errors.New("the publisher is bound: others connect to it")

// Endpoint is where a publisher opened with Bind listens, with the port that
// was chosen; empty for one opened with Dial. A wildcard host stays one.
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

// Live blocks until the handshakes with all the brokers that the publisher is
// connected to are done, or ctx is. A bound publisher is live. The broker's
// subscription arrives a moment later: what is published in between can still
// be missed.
func (p *Publisher) Live(ctx context.Context) error {
	if p.owner == nil {
		return ctx.Err()
	}
	return p.owner.live(ctx)
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

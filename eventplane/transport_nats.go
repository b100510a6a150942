package eventplane

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane/driver"
	natsdriver "github.com/dynplane/dynplane/eventplane/nats"
	"github.com/dynplane/dynplane/natsconn"
)

// natsTransport uses NATS core subjects, over a connection of the caller or one
// that it dials when it is first used.
type natsTransport struct {
	config  natsconn.Config
	dialing chan struct{} // a mutex around nc that a context can interrupt
	nc      *nats.Conn
	dialled bool // nc is closed by close
}

// newNATSTransport does not dial: New has no context that could bound it.
func newNATSTransport(c Config) *natsTransport {
	conf := c.NATS
	if conf.Logger == nil {
		conf.Logger = c.Logger
	}
	if conf.Name == "" {
		conf.Name = "dynplane eventplane"
	}
	return &natsTransport{config: conf, dialing: make(chan struct{}, 1), nc: c.NATSConn}
}

// checkNATS checks the settings of the connection; c is resolved to NATS.
func (c Config) checkNATS() error {
	switch {
	case c.NATSConn == nil:
		return nil
	case c.NATS != natsconn.Config{}:
		return errors.New("NATSConn and NATS are both set: want NATSConn to use that connection, or NATS to dial one")
	case c.NATSConn.IsClosed():
		return fmt.Errorf("NATSConn: want an open connection: %w", nats.ErrConnectionClosed)
	case c.NATSConn.IsDraining():
		return fmt.Errorf("NATSConn: want an open connection: %w", nats.ErrConnectionDraining)
	}
	return nil
}

// conn returns the connection, which it dials if there is none yet, or if nats.go
// has closed the one that it dialled, as it does after most errors that a server
// reports. Publishers and subscribers on that one have failed.
func (n *natsTransport) conn(ctx context.Context) (*nats.Conn, error) {
	select {
	case n.dialing <- struct{}{}:
		defer func() { <-n.dialing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	switch {
	case n.nc == nil:
	case !n.nc.IsClosed():
		return n.nc, nil
	case !n.dialled:
		return nil, nats.ErrConnectionClosed
	default:
		n.config.Logger.Warn("eventplane: connection is closed, dialling again", "error", n.nc.LastError())
	}
	// Without this option, a subscription that the server refuses would receive
	// nothing and never fail.
	nc, err := natsconn.Connect(ctx, n.config, nats.PermissionErrOnSubscribe(true))
	if err != nil {
		return nil, err
	}
	n.nc, n.dialled = nc, true
	return nc, nil
}

func (n *natsTransport) publisher(ctx context.Context, r route, _ uint64) (*pubConn, error) {
	prefix, subject, err := r.natsSubject()
	if err != nil {
		return nil, err
	}
	nc, err := n.conn(ctx)
	if err != nil {
		return nil, err
	}
	return &pubConn{
		Publisher: natsdriver.NewPublisherWith(nc, natsdriver.Options{Logger: n.config.Logger}), subject: subject,
		advertised: discovery.NATS{SubjectPrefix: prefix},
		blocks:     true,
	}, nil
}

func (n *natsTransport) subscriber(ctx context.Context, r route, queue driver.QueueOptions) (*subConn, error) {
	_, subject, err := r.natsSubject()
	if err != nil {
		return nil, err
	}
	nc, err := n.conn(ctx)
	if err != nil {
		return nil, err
	}
	sub, err := natsdriver.SubscribeWith(nc, subject, natsdriver.Options{Queue: queue, Identity: identityOf(r.topic), Logger: n.config.Logger})
	if err != nil {
		return nil, err
	}
	return &subConn{Subscriber: sub, subject: subject}, nil
}

// identityOf returns a function that decodes the publisher and the sequence of an
// event of a topic.
func identityOf(topic string) func(body []byte) (publisher, sequence uint64, ok bool) {
	return func(body []byte) (publisher, sequence uint64, ok bool) {
		env := codec.Envelope{Topic: topic} // Decode allocates only for another topic
		err := env.Decode(body)
		return env.PublisherID, env.Sequence, err == nil && env.Topic == topic
	}
}

// close leaves a connection of the caller open. Its subscriptions have been removed
// by the drivers.
func (n *natsTransport) close() error {
	if n.dialled {
		n.nc.Close()
	}
	return nil
}

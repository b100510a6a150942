package eventplane

import (
	"context"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/discovery"
	natsdriver "github.com/dynplane/dynplane/eventplane/nats"
	"github.com/dynplane/dynplane/natsconn"
)

// natsTransport is NATS core. It dials when it is first used.
type natsTransport struct {
	config  natsconn.Config
	dialing chan struct{} // holds a token while somebody looks at nc
	nc      *nats.Conn
}

func newNATSTransport(c Config) *natsTransport {
	conf := c.NATS
	if conf.Logger == nil {
		conf.Logger = c.Logger
	}
	if conf.Name == "" {
		conf.Name = "dynplane eventplane"
	}
	return &natsTransport{config: conf, dialing: make(chan struct{}, 1)}
}

// conn is no mutex around the dialling, so that ctx ends the wait for another.
func (n *natsTransport) conn(ctx context.Context) (*nats.Conn, error) {
	select {
	case n.dialing <- struct{}{}:
		defer func() { <-n.dialing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if n.nc != nil {
		return n.nc, nil
	}
	// A subscription that the server refuses should fail, not stay silent.
	nc, err := natsconn.Connect(ctx, n.config, nats.PermissionErrOnSubscribe(true))
	n.nc = nc
	return nc, err
}

func (n *natsTransport) publisher(ctx context.Context, r route) (*pubConn, error) {
	prefix, subject, err := r.natsSubject()
	if err != nil {
		return nil, err
	}
	nc, err := n.conn(ctx)
	if err != nil {
		return nil, err
	}
	return &pubConn{
		Publisher: natsdriver.NewPublisher(nc), subject: subject,
		advertised: discovery.NATS{SubjectPrefix: prefix},
	}, nil
}

func (n *natsTransport) subscriber(ctx context.Context, r route) (*subConn, error) {
	_, subject, err := r.natsSubject()
	if err != nil {
		return nil, err
	}
	nc, err := n.conn(ctx)
	if err != nil {
		return nil, err
	}
	sub, err := natsdriver.Subscribe(nc, subject)
	if err != nil {
		return nil, err
	}
	return &subConn{receiver: sub, subject: subject}, nil
}

func (n *natsTransport) close() error {
	if n.nc != nil {
		n.nc.Close()
	}
	return nil
}

package eventplane

import (
	"context"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/discovery"
	natsdriver "github.com/dynplane/dynplane/eventplane/nats"
	"github.com/dynplane/dynplane/natsconn"
)

// natsPlane is NATS core. It dials when it is first used.
type natsPlane struct {
	config  natsconn.Config
	dialing chan struct{} // holds a token while somebody looks at nc
	nc      *nats.Conn
}

func newNATSPlane(c Config) *natsPlane {
	conf := c.NATS
	if conf.Logger == nil {
		conf.Logger = c.Logger
	}
	if conf.Name == "" {
		conf.Name = "dynplane eventplane"
	}
	return &natsPlane{config: conf, dialing: make(chan struct{}, 1)}
}

// conn is no mutex around the dialling, so that ctx ends the wait for another.
func (n *natsPlane) conn(ctx context.Context) (*nats.Conn, error) {
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

func (n *natsPlane) publisher(ctx context.Context, r route) (*outlet, error) {
	prefix, subject, err := r.natsSubject()
	if err != nil {
		return nil, err
	}
	nc, err := n.conn(ctx)
	if err != nil {
		return nil, err
	}
	return &outlet{
		Publisher: natsdriver.NewPublisher(nc), subject: subject,
		transport: discovery.NATS{SubjectPrefix: prefix},
	}, nil
}

func (n *natsPlane) subscriber(ctx context.Context, r route) (*inlet, error) {
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
	return &inlet{receiver: sub, subject: subject}, nil
}

func (n *natsPlane) close() error {
	if n.nc != nil {
		n.nc.Close()
	}
	return nil
}

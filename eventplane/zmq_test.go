//go:build cgo && !nozmq

package eventplane_test

import (
	"testing"

	"github.com/pebbe/zmq4"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane"
)

func zmqTransports() map[string]func(testing.TB) eventplane.Config {
	return map[string]func(testing.TB) eventplane.Config{
		"zmq": func(testing.TB) eventplane.Config { return directConfig() },
		"broker": func(tb testing.TB) eventplane.Config {
			return brokerConfig(startProxy(tb))
		},
		"brokers": func(tb testing.TB) eventplane.Config {
			return brokerConfig(startProxy(tb), startProxy(tb))
		},
	}
}

func directConfig() eventplane.Config {
	return eventplane.Config{Transport: discovery.TransportZMQ, Host: "127.0.0.1"}
}

func brokerConfig(proxies ...*proxy) eventplane.Config {
	cfg := directConfig()
	for _, p := range proxies {
		cfg.Broker.XSub = append(cfg.Broker.XSub, p.xsub)
		cfg.Broker.XPub = append(cfg.Broker.XPub, p.xpub)
	}
	return cfg
}

// proxy is a plain broker: libzmq's own proxy, with an XSUB side that wants
// everything.
type proxy struct {
	xsub, xpub string
	ctx        *zmq4.Context
	done       chan struct{}
}

func startProxy(tb testing.TB) *proxy {
	tb.Helper()
	ctx, err := zmq4.NewContext()
	must(tb, err)
	xsub, xpub := bindProxy(tb, ctx, zmq4.XSUB), bindProxy(tb, ctx, zmq4.XPUB)
	_, err = xsub.SendBytes([]byte{1}, 0)
	must(tb, err)
	p := &proxy{ctx: ctx, done: make(chan struct{})}
	p.xsub, err = xsub.GetLastEndpoint()
	must(tb, err)
	p.xpub, err = xpub.GetLastEndpoint()
	must(tb, err)
	go func() {
		defer close(p.done)
		_ = zmq4.Proxy(xsub, xpub, nil) // ends with the context
		_ = xsub.Close()
		_ = xpub.Close()
	}()
	tb.Cleanup(p.stop)
	return p
}

func bindProxy(tb testing.TB, ctx *zmq4.Context, kind zmq4.Type) *zmq4.Socket {
	tb.Helper()
	s, err := ctx.NewSocket(kind)
	must(tb, err)
	must(tb, s.SetLinger(0))
	must(tb, s.SetSndhwm(100_000))
	must(tb, s.SetRcvhwm(100_000))
	must(tb, s.Bind("tcp://127.0.0.1:*"))
	return s
}

// stop is idempotent.
func (p *proxy) stop() {
	_ = p.ctx.Term()
	<-p.done
}

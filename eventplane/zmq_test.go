//go:build cgo && !nozmq

package eventplane_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pebbe/zmq4"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/internal/waittest"
)

func zmqTransports() map[string]func(testing.TB) eventplane.Config {
	return map[string]func(testing.TB) eventplane.Config{
		"zmq": func(testing.TB) eventplane.Config { return directConfig() },
		"broker": func(tb testing.TB) eventplane.Config {
			tb.Helper()
			return brokerConfig(startProxy(tb))
		},
		"brokers": func(tb testing.TB) eventplane.Config {
			tb.Helper()
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

// proxy is a plain broker: the proxy of libzmq, with an XSUB side that
// subscribes to everything.
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

func BenchmarkRawZMQ(b *testing.B) {
	ctx, err := zmq4.NewContext()
	must(b, err)
	pub, err := ctx.NewSocket(zmq4.XPUB) // receives subscriptions
	must(b, err)
	sub, err := ctx.NewSocket(zmq4.SUB)
	must(b, err)
	b.Cleanup(func() {
		must(b, errors.Join(sub.Close(), pub.Close(), ctx.Term()))
	})
	must(b, errors.Join(pub.SetSndhwm(100_000), sub.SetRcvhwm(100_000))) // as the driver, else bursts are dropped
	must(b, errors.Join(pub.Bind("tcp://127.0.0.1:*"), sub.SetSubscribe("")))
	endpoint, err := pub.GetLastEndpoint()
	must(b, err)
	must(b, sub.Connect(endpoint))
	_, err = pub.RecvBytes(0)
	must(b, err)

	frames := [][]byte{[]byte("kv-events"), make([]byte, 8), make([]byte, 8), make([]byte, payloadSize)}
	b.ReportAllocs()
	for b.Loop() {
		for range burst {
			for i, frame := range frames {
				flags := zmq4.SNDMORE
				if i == len(frames)-1 {
					flags = 0
				}
				_, err := pub.SendBytes(frame, flags)
				must(b, err)
			}
		}
		for range burst * len(frames) {
			_, err := sub.RecvBytes(0)
			must(b, err)
		}
	}
	perEvent(b)
}

// TestTwoNamesOfOneBroker covers a publisher that is connected twice to a broker, so
// that each event arrives twice on the one path that its subscriber has.
func TestTwoNamesOfOneBroker(t *testing.T) {
	t.Parallel()
	cfg := brokerConfig(startProxy(t))
	cfg.Broker.XSub = append(cfg.Broker.XSub, strings.Replace(cfg.Broker.XSub[0], "127.0.0.1", "localhost", 1))
	p, ctx := connect(t, cfg), patient(t)
	const count = 100
	for range count {
		must(t, p.pub.Publish(ctx, "event"))
	}
	for i := range uint64(count) {
		ev, err := p.sub.Next(ctx)
		must(t, err)
		if ev.Sequence != p.next+i || ev.Missed != 0 {
			t.Fatalf("event %d with %d missed: want %d with none", ev.Sequence, ev.Missed, p.next+i)
		}
	}
	waittest.Eventually(t, "the duplicates are counted", func() bool {
		short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		defer cancel()
		if ev, err := p.sub.Next(short); err == nil {
			t.Fatalf("event %d is delivered twice", ev.Sequence)
		}
		return p.sub.Stats().Duplicates >= count
	})
	if got := p.sub.Stats(); got.Gaps != 0 || got.Missed != 0 {
		t.Errorf("%+v: want no gaps", got)
	}
}

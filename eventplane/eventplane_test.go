package eventplane_test

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/natsconn"
)

type kvEvent struct {
	Block  uint64   `json:"block"`
	Tokens []uint32 `json:"tokens"`
}

// pair is a publisher of one topic and a subscriber that receives its events.
type pair struct {
	pub *eventplane.Publisher
	sub *eventplane.Subscriber

	next uint64 // sequence of the next event
}

// configs returns the settings of every transport with every codec.
func configs() map[string]func(testing.TB) eventplane.Config {
	all := map[string]func(testing.TB) eventplane.Config{}
	for name, setup := range transports() {
		for _, c := range []codec.Codec{codec.JSON, codec.Msgpack} {
			all[name+"/"+c.Name()] = func(tb testing.TB) eventplane.Config {
				tb.Helper()
				cfg := setup(tb)
				cfg.Codec = c
				return cfg
			}
		}
	}
	return all
}

// transports returns the settings of every transport with its default codec.
func transports() map[string]func(testing.TB) eventplane.Config {
	all := map[string]func(testing.TB) eventplane.Config{
		"nats": func(tb testing.TB) eventplane.Config {
			tb.Helper()
			return eventplane.Config{NATS: natsconn.Config{URL: natstest.Run(tb).URL()}}
		},
	}
	maps.Copy(all, zmqTransports())
	return all
}

// connect returns a pair that is connected.
func connect(tb testing.TB, cfg eventplane.Config) *pair {
	tb.Helper()
	return connectWith(tb, cfg, eventplane.SubscriberOptions{})
}

func connectWith(tb testing.TB, cfg eventplane.Config, o eventplane.SubscriberOptions) *pair {
	tb.Helper()
	ctx, m := patient(tb), memory.New()
	pub, err := newPlane(tb, cfg, newDiscovery(tb, m)).Publisher(ctx, backend, "kv-events")
	must(tb, err)
	must(tb, pub.Ready(ctx))
	sub, err := newPlane(tb, cfg, newDiscovery(tb, m)).SubscriberWithOptions(ctx, backend, "kv-events", o)
	must(tb, err)
	must(tb, sub.Ready(ctx))
	p := &pair{pub: pub, sub: sub}
	p.probe(tb)
	return p
}

// probe publishes until an event is received, and then receives the rest.
func (p *pair) probe(tb testing.TB) {
	tb.Helper()
	for received := false; !received; {
		must(tb, p.pub.Publish(patient(tb), "probe"))
		p.next++
		ctx, cancel := context.WithTimeout(tb.Context(), 20*time.Millisecond)
		ev, err := p.sub.Next(ctx)
		cancel()
		received = err == nil
		for received && ev.Sequence+1 < p.next {
			ev, err = p.sub.Next(patient(tb))
			must(tb, err)
		}
	}
}

func TestEventsArriveTyped(t *testing.T) {
	t.Parallel()
	for name, setup := range configs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := setup(t)
			p, ctx := connect(t, cfg), patient(t)
			const count = 100
			for i := range uint64(count) {
				must(t, p.pub.Publish(ctx, kvEvent{Block: i, Tokens: []uint32{1, 2, 3}}))
			}
			next := uint64(0)
			for ev, err := range eventplane.Events[kvEvent](ctx, p.sub) {
				must(t, err)
				if ev.Sequence != p.next+next || ev.Value.Block != next || ev.PublisherID != p.pub.ID() || ev.Missed != 0 {
					t.Fatalf("event %+v: want sequence and block %d of publisher %d", ev, next, p.pub.ID())
				}
				if ev.Codec != cfg.Codec {
					t.Fatalf("codec %v: want %v", ev.Codec.Name(), cfg.Codec.Name())
				}
				if next++; next == count {
					break
				}
			}
			if got := p.sub.Stats(); got.Received < count || got.Publishers[p.pub.ID()] != p.next+count-1 {
				t.Errorf("stats %+v: want %d received", got, count)
			}
		})
	}
}

func TestBytesArriveAsTheyAre(t *testing.T) {
	t.Parallel()
	for name, setup := range configs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := setup(t)
			p, ctx := connect(t, cfg), patient(t)
			must(t, p.pub.PublishBytes(ctx, []byte{0xff, 0, '"'}))
			ev, err := p.sub.Next(ctx)
			must(t, err)
			if string(ev.Payload) != "\xff\x00\"" {
				t.Errorf("payload %q", ev.Payload)
			}
		})
	}
}

func TestConcurrentPublishKeepsTheOrder(t *testing.T) {
	t.Parallel()
	for name, setup := range configs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := setup(t)
			p, ctx := connect(t, cfg), patient(t)
			const publishers, each = 8, 200
			var wg sync.WaitGroup
			for range publishers {
				wg.Go(func() {
					for i := range each {
						if err := p.pub.Publish(ctx, i); err != nil {
							t.Error(err)
						}
					}
				})
			}
			for i := range uint64(publishers * each) {
				ev, err := p.sub.Next(ctx)
				must(t, err)
				if ev.Sequence != p.next+i || ev.Missed != 0 {
					t.Fatalf("sequence %d, missed %d: want %d, 0", ev.Sequence, ev.Missed, i)
				}
			}
			wg.Wait()
		})
	}
}

func TestCanceledPublishUsesNoSequence(t *testing.T) {
	t.Parallel()
	for name, setup := range configs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := setup(t)
			p, ctx := connect(t, cfg), patient(t)
			canceled, cancel := context.WithCancel(ctx)
			cancel()
			if err := p.pub.Publish(canceled, 1); !errors.Is(err, context.Canceled) {
				t.Errorf("publish: %v", err)
			}
			if _, err := p.sub.Next(canceled); !errors.Is(err, context.Canceled) {
				t.Errorf("next: %v", err)
			}
			must(t, p.pub.Publish(ctx, 2))
			ev, err := p.sub.Next(ctx)
			must(t, err)
			if ev.Sequence != p.next {
				t.Errorf("sequence %d: want %d", ev.Sequence, p.next)
			}
		})
	}
}

func TestPayloadOfAnotherTypeIsADecodeError(t *testing.T) {
	t.Parallel()
	for name, setup := range configs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := setup(t)
			p, ctx := connect(t, cfg), patient(t)
			must(t, p.pub.Publish(ctx, "no struct"))
			must(t, p.pub.Publish(ctx, kvEvent{Block: 7}))
			bad := 0
			for ev, err := range eventplane.Events[kvEvent](ctx, p.sub) {
				if _, ok := errors.AsType[*eventplane.DecodeError](err); ok {
					bad++
					continue
				}
				must(t, err)
				if ev.Value.Block != 7 {
					t.Errorf("value %+v", ev.Value)
				}
				break
			}
			if got := p.sub.Stats().DecodeErrors; bad != 1 || got != 1 {
				t.Errorf("%d decode errors, %d counted: want 1", bad, got)
			}
		})
	}
}

func TestShutdownWakesNext(t *testing.T) {
	t.Parallel()
	for name, setup := range configs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := setup(t)
			p, ctx := connect(t, cfg), patient(t)
			ended := make(chan error)
			go func() {
				var last error
				for _, err := range eventplane.Events[kvEvent](ctx, p.sub) {
					last = err
				}
				ended <- last
			}()
			must(t, p.sub.Shutdown(ctx))
			must(t, p.sub.Shutdown(ctx))
			if err := <-ended; !errors.Is(err, eventplane.ErrClosed) {
				t.Errorf("the stream ended with %v: want ErrClosed", err)
			}
		})
	}
}

func TestShutdownOfThePublisher(t *testing.T) {
	t.Parallel()
	for name, setup := range configs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := setup(t)
			ctx, d := patient(t), newDiscovery(t, memory.New())
			plane := newPlane(t, cfg, d)
			pub, err := plane.Publisher(ctx, backend, "kv-events")
			must(t, err)
			all := discovery.Query{Kind: discovery.KindEventChannel}
			found, err := d.List(ctx, all)
			must(t, err)
			if len(found) != 1 || found[0].InstanceID != pub.ID() || found[0].ID() != pub.Registration().Instance().ID() {
				t.Fatalf("registered %+v: want the channel of %d", found, pub.ID())
			}
			must(t, pub.Shutdown(ctx))
			must(t, pub.Shutdown(ctx))
			if found, err = d.List(ctx, all); err != nil || len(found) != 0 {
				t.Errorf("after shutdown %+v, %v: want none", found, err)
			}
			if err := pub.Publish(ctx, 1); !errors.Is(err, eventplane.ErrClosed) {
				t.Errorf("publish after shutdown: %v", err)
			}
			if err := pub.Ready(ctx); err != nil && !errors.Is(err, eventplane.ErrClosed) {
				t.Errorf("ready after shutdown: %v", err)
			}
			must(t, plane.Shutdown(ctx))
			if _, err := plane.Publisher(ctx, backend, "kv-events"); !errors.Is(err, eventplane.ErrClosed) {
				t.Errorf("publisher after shutdown: %v", err)
			}
		})
	}
}

func TestEventsOfGen1(t *testing.T) {
	t.Parallel()
	for name, setup := range configs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := setup(t)
			cfg.Wire = eventplane.WireGen1
			connect(t, cfg)
			endpoint := discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"}
			plane := newPlane(t, cfg, newDiscovery(t, memory.New()))
			if _, err := plane.Publisher(patient(t), endpoint, "kv-events"); err == nil || !strings.Contains(err.Error(), "gen1") {
				t.Errorf("publisher of an endpoint: %v: want an error with gen1", err)
			}
		})
	}
}

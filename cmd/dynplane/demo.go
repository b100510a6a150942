package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/dynplane/dynplane/broker"
	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane"
)

const (
	demoTTL        = 2 * time.Second
	demoMaxWorkers = 50
)

type demoOptions struct {
	transport string
	count     int // number of workers
	duration  time.Duration
}

func newDemoCommand(a *app) *cobra.Command {
	var o demoOptions
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run the whole system and kill a worker",
		Long: `Run the whole system on this machine and kill a worker.

The demo starts a NATS server with JetStream on a free port, and workers as separate
processes. The workers register and publish events of their KV caches; a subscriber
discovers them and connects. Halfway through, one worker is killed with SIGKILL, and
the demo waits until discovery reports it as removed.

It has no prerequisites and leaves nothing behind. It fails if an event was missed or
the killed worker was not removed. With -o json, stdout is the summary as one object,
and stderr the transcript.`,
		Example: `  dynplane demo
  dynplane demo --transport zmq --workers 5
  dynplane demo --transport broker --duration 30s -o json`,
		Args: argCount(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			if a.server != "" {
				return usagef("--server: the demo starts its own server")
			}
			if !cmd.Flags().Changed("ttl") {
				a.ttl = demoTTL
			}
			return a.demo(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.transport, "transport", "nats", "transport of events: nats, zmq (direct) or broker (ZMQ through a broker)")
	cmd.Flags().IntVar(&o.count, "workers", 3, "number of workers")
	cmd.Flags().DurationVar(&o.duration, "duration", 8*time.Second, "time to receive events")
	return cmd
}

func (o demoOptions) check() error {
	if o.env() == nil {
		return usagef("--transport %q: want nats, zmq or broker", o.transport)
	}
	if o.count < 1 || o.count > demoMaxWorkers {
		return usagef("--workers %d: want 1 to %d", o.count, demoMaxWorkers)
	}
	if o.duration <= 0 {
		return usagef("--duration %v: want more than 0", o.duration)
	}
	return nil
}

// env returns the environment that selects the transport, or nil if the transport
// is unknown.
func (o demoOptions) env() []string {
	switch o.transport {
	case "nats":
		return []string{"DYN_EVENT_PLANE=nats"}
	case "zmq":
		return []string{"DYN_EVENT_PLANE=zmq"}
	case "broker":
		return []string{"DYN_EVENT_PLANE=zmq", "DYN_ZMQ_BROKER_ENABLED=1"}
	}
	return nil
}

// demo runs the demo, prints the summary and returns an error if the demo failed.
func (a *app) demo(ctx context.Context, o demoOptions) error {
	to := a.stdout
	if a.output == "json" {
		to = a.stderr
	}
	d := &demo{
		demoOptions: o, ttl: a.ttl, transcript: &transcript{w: to, start: time.Now()}, tally: &tally{},
		updates: make(chan any), channels: map[discovery.ID]discovery.Instance{}, firsts: map[uint64]uint64{},
	}
	s, err := d.run(ctx, a)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = nil // interrupted before the start of the measurement
	}
	if err != nil || d.started.IsZero() {
		return err
	}
	if a.output == "json" {
		err = a.writeJSON(s)
	} else {
		_, err = io.WriteString(a.stdout, s.String())
	}
	return errors.Join(err, d.verdict(s))
}

// run starts the server, the broker, the clients and the workers, runs the loop,
// and stops everything in the reverse order.
func (d *demo) run(ctx context.Context, a *app) (s summary, err error) {
	h, err := startHub(hubOptions{host: "127.0.0.1", log: a.logger()})
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	url := h.url("127.0.0.1")
	d.transcript.add("hub", "NATS server with JetStream at %s", url)

	// No variable of the real environment may point to another system.
	env := append(d.env(), "NATS_SERVER="+url, "DYN_EVENT_PLANE_HOST=127.0.0.1")
	inner := *a
	inner.lookup = lookupIn(env)

	// This client watches, and registers the broker. The subscriber has a client of
	// its own, as it would in another process.
	client, err := inner.discover(ctx)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, inner.shutdown(ctx, client)) }()
	if d.transport == "broker" {
		stop, err := d.startBroker(ctx, client)
		if err != nil {
			return s, err
		}
		defer stop()
	}
	err = inner.withPlane(ctx, always, func(plane *eventplane.Client, _ *discovery.Client) error {
		sub, err := plane.Subscriber(ctx, demoScope(), demoTopic)
		if err != nil {
			return err
		}
		s, err = d.runWorkers(ctx, &inner, env, client, sub)
		return err
	})
	return s, err
}

// runWorkers starts the workers and the goroutines that observe them, runs the
// loop, and stops them.
func (d *demo) runWorkers(ctx context.Context, a *app, env []string, client *discovery.Client, sub *eventplane.Subscriber) (summary, error) {
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer d.running.Wait()
	defer cancel()
	d.running.Go(func() { d.watch(life, client) })
	d.running.Go(func() { d.receive(life, sub) })
	for i := range d.count {
		w, err := a.startWorker(life, env, i+1)
		if err != nil {
			return summary{}, err
		}
		d.workers = append(d.workers, w)
		d.running.Go(func() { d.follow(life, w) })
	}
	err := d.loop(ctx)
	return d.summary(), err // before the workers are stopped
}

// startBroker runs and registers a broker until stop is called.
func (d *demo) startBroker(ctx context.Context, client *discovery.Client) (stop func(), err error) {
	b, err := broker.New(broker.Options{XSubBind: "tcp://127.0.0.1:0", XPubBind: "tcp://127.0.0.1:0"})
	if err != nil {
		return nil, err
	}
	var running sync.WaitGroup
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	running.Go(func() {
		if err := b.Run(life); err != nil {
			d.send(life, failed{err})
		}
	})
	stop = func() {
		cancel()
		running.Wait()
		_ = b.Close() // the demo is over: no event is waiting
	}
	_, err = client.Register(ctx, eventplane.BrokerChannel(demoScope().Namespace, eventplane.BrokerConfig{
		XSub: []string{b.XSubEndpoint()}, XPub: []string{b.XPubEndpoint()},
	}))
	if err != nil {
		stop()
		return nil, err
	}
	d.transcript.add("broker", "relays %s to %s, registered in discovery", b.XSubEndpoint(), b.XPubEndpoint())
	return stop, nil
}

// lookupIn returns a lookup function for a list of NAME=VALUE.
func lookupIn(env []string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for _, entry := range env {
			if value, ok := strings.CutPrefix(entry, name+"="); ok {
				return value, true
			}
		}
		return "", false
	}
}

// transcript is the log of the demo: one line for each event, with its time and
// its source.
type transcript struct {
	w     io.Writer
	start time.Time
}

func (t *transcript) add(source, format string, args ...any) {
	_, _ = fmt.Fprintf(t.w, "%7.2fs  %-10s  %s\n", time.Since(t.start).Seconds(), source, fmt.Sprintf(format, args...))
}

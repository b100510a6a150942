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
	count     int // of workers
	duration  time.Duration
}

func newDemoCommand(a *app) *cobra.Command {
	var o demoOptions
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Watch workers come, publish, die and disappear",
		Long: `Watch workers come, publish, die and disappear.

The demo starts a NATS server with JetStream on a free port and workers as
processes of their own. They register in discovery and publish the events of
their KV caches; a subscriber finds them and connects by itself. Midway one
worker is killed with SIGKILL, and the demo waits until discovery says so.

It needs nothing, leaves nothing behind, and fails if an event was missed or
the dead worker was not removed. With -o json the summary goes to stdout as one
object, the story to stderr.`,
		Example: `  dynplane demo
  dynplane demo --transport zmq --workers 5
  dynplane demo --transport broker --duration 30s -o json`,
		Args: argCount(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			if a.server != "" {
				return usagef("--server: the demo brings its own server")
			}
			if !cmd.Flags().Changed("ttl") {
				a.ttl = demoTTL
			}
			return a.demo(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.transport, "transport", "nats", "how events travel: nats, zmq (direct) or broker (zmq through a broker)")
	cmd.Flags().IntVar(&o.count, "workers", 3, "number of workers")
	cmd.Flags().DurationVar(&o.duration, "duration", 8*time.Second, "how long to listen")
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

// env is the environment that makes the transport, nil if there is none such.
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

// demo runs the demo, prints the summary and says what was wrong with it.
func (a *app) demo(ctx context.Context, o demoOptions) error {
	to := a.stdout
	if a.output == "json" {
		to = a.stderr
	}
	d := &demo{
		demoOptions: o, ttl: a.ttl, story: &story{w: to, start: time.Now()}, tally: &tally{},
		notes: make(chan any), channels: map[discovery.ID]discovery.Instance{}, firsts: map[uint64]uint64{},
	}
	s, err := d.run(ctx, a)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = nil // interrupted before the play began
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

// run sets the stage, plays, and takes everything down in the opposite order.
func (d *demo) run(ctx context.Context, a *app) (s summary, err error) {
	h, err := startHub(hubOptions{host: "127.0.0.1", log: a.logger()})
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	url := h.url("127.0.0.1")
	d.story.tell("hub", "NATS server with JetStream at %s", url)

	// Nothing of the surroundings may point elsewhere.
	env := append(d.env(), "NATS_SERVER="+url, "DYN_EVENT_PLANE_HOST=127.0.0.1")
	inner := *a
	inner.lookup = lookupIn(env)

	// This client looks on, and announces the broker. The subscriber has one of
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
	err = inner.withPlane(ctx, func(eventplane.Config) bool { return true }, func(plane *eventplane.Client) error {
		sub, err := plane.Subscriber(ctx, demoScope(), demoTopic)
		if err != nil {
			return err
		}
		s, err = d.perform(ctx, &inner, env, client, sub)
		return err
	})
	return s, err
}

// perform starts the workers and those who report of them, plays, and ends them.
func (d *demo) perform(ctx context.Context, a *app, env []string, client *discovery.Client, sub *eventplane.Subscriber) (summary, error) {
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
	err := d.play(ctx)
	return d.summary(), err // of what was heard before the workers are told to end
}

// startBroker runs a broker and announces it in discovery, until stop.
func (d *demo) startBroker(ctx context.Context, client *discovery.Client) (stop func(), err error) {
	b, err := broker.New(broker.Options{XSubBind: "tcp://127.0.0.1:0", XPubBind: "tcp://127.0.0.1:0"})
	if err != nil {
		return nil, err
	}
	var running sync.WaitGroup // of one goroutine, which stop waits for
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	running.Go(func() {
		if err := b.Run(life); err != nil {
			d.note(life, failed{err})
		}
	})
	stop = func() {
		cancel()
		running.Wait()
		_ = b.Close() // what it relays has been heard
	}
	_, err = client.Register(ctx, eventplane.BrokerChannel(demoScope().Namespace, eventplane.BrokerConfig{
		XSub: []string{b.XSubEndpoint()}, XPub: []string{b.XPubEndpoint()},
	}))
	if err != nil {
		stop()
		return nil, err
	}
	d.story.tell("broker", "relays %s to %s, registered in discovery", b.XSubEndpoint(), b.XPubEndpoint())
	return stop, nil
}

// lookupIn looks variables up in a list of NAME=VALUE.
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

// story tells what happens, line by line.
type story struct {
	w     io.Writer
	start time.Time
}

func (s *story) tell(who, format string, args ...any) {
	_, _ = fmt.Fprintf(s.w, "%7.2fs  %-10s  %s\n", time.Since(s.start).Seconds(), who, fmt.Sprintf(format, args...))
}

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/spf13/cobra"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/internal/wait"
)

// pubOptions are the flags of pub.
type pubOptions struct {
	raw    bool
	count  uint64
	rate   float64
	linger time.Duration
	ready  string

	waitSubscribers int
	history         int
}

func newPubCommand(a *app) *cobra.Command {
	var o pubOptions
	cmd := &cobra.Command{
		Use:   "pub NS[/COMP[/EP]] TOPIC",
		Short: "Publish events from stdin",
		Long: `Register an event channel and publish the lines of stdin, each of which is one event
in JSON; with --raw, publish all of stdin as one payload of bytes. Blank lines are
skipped. A line that is not JSON ends the command with an error.

A subscriber that is not connected yet misses the event, unless it requests the
history (sub --from-start). Over ZMQ without brokers, --wait-subscribers delays the
first event until so many subscribers receive it; over NATS and brokers, subscribers
cannot be counted, and the command fails. While a NATS server cannot be reached,
events wait in the history. At the end of stdin, or after --count events, queued events are sent,
and the channel stays registered for another --linger.`,
		Example: `  echo '{"n":1}' | dynplane pub dynamo/backend/generate kv-events
  seq 1000 | dynplane pub dynamo/backend/generate counter --rate 100 --linger 1s
  seq 1000 | dynplane pub dynamo/backend/generate counter --wait-subscribers 2
  dynplane pub dynamo/backend/generate blobs --raw < blob.bin`,
		Args: argCount(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			scope, topic, err := parseChannel(args)
			if err == nil {
				err = o.validate()
			}
			if err != nil {
				return err
			}
			return a.pub(cmd.Context(), scope, topic, o)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.raw, "raw", false, "publish all of stdin as one payload of bytes")
	flags.Uint64Var(&o.count, "count", 0, "number of events after which to exit before the end of stdin; 0 means no limit")
	flags.Float64Var(&o.rate, "rate", 0, "events per second; 0 means no limit")
	flags.DurationVar(&o.linger, "linger", 0, "time to keep the channel registered after the last event")
	flags.IntVar(&o.waitSubscribers, "wait-subscribers", 0, "number of subscribers to wait for before the first event")
	flags.IntVar(&o.history, "history", eventplane.DefaultHistory, "number of events to keep for subscribers that missed them; 0 keeps none")
	flags.StringVar(&o.ready, "ready-file", "", "`FILE` to create when the channel is registered")
	a.pprofFlag(cmd)
	return cmd
}

func (o pubOptions) validate() error {
	if o.rate < 0 || math.IsNaN(o.rate) || math.IsInf(o.rate, 0) {
		return usagef("--rate %v: want events per second, 0 or more", o.rate)
	}
	if o.linger < 0 {
		return usagef("--linger %v: want 0 or more", o.linger)
	}
	if o.waitSubscribers < 0 {
		return usagef("--wait-subscribers %d: want 0 or more", o.waitSubscribers)
	}
	if o.history < 0 {
		return usagef("--history %d: want 0 or more", o.history)
	}
	if o.raw && o.count > 1 {
		return usagef("--count %d: want at most 1 with --raw, which publishes one payload", o.count)
	}
	return nil
}

func always(eventplane.Config) bool { return true }

func (a *app) pub(ctx context.Context, scope discovery.Scope, topic string, o pubOptions) error {
	if err := clearReadyFile(o.ready); err != nil {
		return err
	}
	return a.withPlane(ctx, always, func(plane *eventplane.Client, _ *discovery.Client) error {
		opening, cancel := context.WithTimeout(ctx, opTimeout)
		defer cancel()
		options := eventplane.PublisherOptions{History: o.history}
		if o.history == 0 {
			options.History = -1
		}
		p, err := plane.PublisherWithOptions(opening, scope, topic, options)
		if err != nil {
			return err
		}
		a.waitForBrokers(ctx, p)
		if err := writeReadyFile(o.ready, p.Registration().Instance().ID().Path()); err != nil {
			return err
		}
		err = a.waitForSubscribers(ctx, p, o.waitSubscribers)
		switch {
		case err != nil:
		case o.raw:
			err = a.pubRaw(ctx, p)
		default:
			err = a.pubLines(ctx, p, o)
		}
		if err == nil {
			err = wait.Sleep(ctx, o.linger)
		}
		return errors.Join(err, a.endPub(ctx, p))
	})
}

// waitForSubscribers waits for the first n subscribers.
func (a *app) waitForSubscribers(ctx context.Context, p *eventplane.Publisher, n int) error {
	if n == 0 {
		return nil
	}
	if a.stderrTerminal {
		_, _ = fmt.Fprintf(a.stderr, "dynplane: waiting for %d subscribers\n", n)
	}
	return p.WaitSubscribers(ctx, n)
}

// endPub shuts p down, so that no event is pending, and prints how many were sent.
func (a *app) endPub(ctx context.Context, p *eventplane.Publisher) error {
	err := a.shutdown(ctx, p)
	s := p.Stats()
	if lost := s.Lost + s.Failed; lost > 0 {
		_, _ = fmt.Fprintf(a.stderr, "dynplane: sent %d events, lost %d before they could be sent\n", s.Sent, lost)
	} else if a.stderrTerminal {
		_, _ = fmt.Fprintf(a.stderr, "dynplane: sent %d events\n", s.Sent)
	}
	return err
}

// readyPublisher is a publisher of the event plane or of KV-cache events.
type readyPublisher interface {
	Ready(context.Context) error
	Registration() *discovery.Registration
}

// waitForBrokers waits until the brokers, if there are any, are connected: events
// published before are lost. It gives up after endTimeout, since a broker that is
// down must not stop the events that go through the others.
func (a *app) waitForBrokers(ctx context.Context, p readyPublisher) {
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	if err := p.Ready(ctx); err != nil {
		a.logger().Warn("dynplane: some brokers are not ready, publishing anyway", "waited", endTimeout, "brokers", brokersOf(p), "error", err)
	}
}

// brokersOf returns the brokers that a publisher has registered.
func brokersOf(p readyPublisher) string {
	ch, ok := p.Registration().Instance().Spec.(discovery.EventChannel)
	if !ok {
		return ""
	}
	return ch.Transport.Address()
}

func (a *app) pubRaw(ctx context.Context, p *eventplane.Publisher) error {
	payload, err := readAll(ctx, a.stdin)
	if err != nil {
		return err
	}
	return p.PublishBytes(ctx, payload)
}

func (a *app) pubLines(ctx context.Context, p *eventplane.Publisher, o pubOptions) error {
	pace := newPace(o.rate)
	sent := uint64(0)
	for l, err := range readLines(ctx, a.stdin) {
		if err != nil {
			return err
		}
		if err := jsonEvent(l.text).validate(); err != nil {
			return fmt.Errorf("stdin line %d: %w: want one JSON value per line, or --raw", l.number, err)
		}
		if err := pace.wait(ctx); err != nil {
			return err
		}
		if err := p.Publish(ctx, jsonEvent(l.text)); err != nil {
			return fmt.Errorf("stdin line %d: %w", l.number, err)
		}
		if sent++; sent == o.count {
			return nil
		}
	}
	return nil
}

// pace limits the rate of events.
type pace struct {
	interval time.Duration
	next     time.Time
}

func newPace(rate float64) *pace {
	if rate == 0 {
		return &pace{}
	}
	return &pace{interval: time.Duration(min(float64(time.Second)/rate, math.MaxInt64/2))}
}

// wait blocks until the next event is due. It makes up for the delays of timers,
// but not for those of stdin.
func (p *pace) wait(ctx context.Context) error {
	if p.interval == 0 {
		return ctx.Err()
	}
	now := time.Now()
	if earliest := now.Add(-100 * time.Millisecond); p.next.Before(earliest) {
		p.next = now
	}
	due := p.next
	p.next = due.Add(p.interval)
	return wait.Sleep(ctx, due.Sub(now))
}

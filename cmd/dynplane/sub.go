package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane"
)

// subOptions are the flags of sub.
type subOptions struct {
	count   uint64
	timeout time.Duration
	ready   string
}

func newSubCommand(a *app) *cobra.Command {
	var o subOptions
	cmd := &cobra.Command{
		Use:   "sub NS[/COMP[/EP]] TOPIC",
		Short: "Hear events and print them",
		Long: `Hear the events of exactly this scope and topic and print them, until interrupted.
As JSON, each line is

  {"topic","publisher_id","sequence","published_at","missed","payload"}

published_at is in Unix milliseconds; missed is how many events of the publisher
were lost just before this one. In place of payload there is payload_base64 where
the payload is neither JSON nor msgpack; one that was sent as bytes is JSON only
if it is an object or an array. A msgpack payload is shown as JSON, its integers
exact; one byte below 80 is a msgpack integer. What is no event is told on stderr
and counted.`,
		Example: `  dynplane sub dynamo/backend/generate kv-events
  dynplane sub dynamo/backend/generate kv-events --count 10 --timeout 5s -o json`,
		Args: argCount(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			scope, topic, err := parseChannel(args)
			if err == nil && o.timeout < 0 {
				err = usagef("--timeout %v: want 0 or more", o.timeout)
			}
			if err != nil {
				return err
			}
			return a.sub(cmd.Context(), scope, topic, o)
		},
	}
	flags := cmd.Flags()
	flags.Uint64Var(&o.count, "count", 0, "end after so many events; 0 is never")
	flags.DurationVar(&o.timeout, "timeout", 0, "end with exit code 124 after so long, whatever was heard; 0 is never")
	flags.StringVar(&o.ready, "ready-file", "", "file to write once events are heard")
	a.pprofFlag(cmd)
	return cmd
}

var errTimeout = errors.New("--timeout has passed")

func (a *app) sub(ctx context.Context, scope discovery.Scope, topic string, o subOptions) error {
	if err := clearReadyFile(o.ready); err != nil {
		return err
	}
	if o.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, o.timeout, errTimeout)
		defer cancel()
	}
	err := a.withPlane(ctx, findsPublishers, func(plane *eventplane.Client) error {
		opening, cancel := context.WithTimeout(ctx, opTimeout)
		defer cancel()
		s, err := plane.Subscriber(opening, scope, topic)
		if err != nil {
			return err
		}
		defer a.summarize(s)
		return a.hear(ctx, s, o)
	})
	if err != nil && errors.Is(context.Cause(ctx), errTimeout) {
		return &exitError{exitTimeout, fmt.Errorf("sub of %s in %s: --timeout %v has passed", topic, scope, o.timeout)}
	}
	return err
}

// findsPublishers reports whether a subscriber looks for whom to connect to.
func findsPublishers(cfg eventplane.Config) bool {
	return cfg.Transport == discovery.TransportZMQ && len(cfg.Broker.XPub) == 0
}

func (a *app) hear(ctx context.Context, s *eventplane.Subscriber, o subOptions) error {
	ctx, fail := context.WithCancelCause(ctx)
	announced := make(chan struct{})
	go func() {
		defer close(announced)
		if err := announceLive(ctx, s, o.ready); err != nil {
			fail(err)
		}
	}()
	defer func() {
		fail(nil)
		<-announced
	}()
	show := a.showJSON
	if !a.streamsJSON() {
		show = a.showTable()
	}
	warn := a.warner()
	for heard := uint64(0); o.count == 0 || heard < o.count; {
		ev, err := s.Next(ctx)
		var bad *eventplane.DecodeError
		switch {
		case errors.As(err, &bad):
			warn(err)
			continue
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return err
		}
		heard++
		if err := show(ev); err != nil {
			return err
		}
	}
	return nil
}

// announceLive writes the ready file once s is live. Events are heard
// meanwhile: a publisher that is not there any more can keep it waiting.
func announceLive(ctx context.Context, s *eventplane.Subscriber, file string) error {
	if file == "" {
		return nil
	}
	if err := s.Ready(ctx); err != nil {
		return err
	}
	return writeReadyFile(file, "live")
}

// warner tells the first few errors.
func (a *app) warner() func(error) {
	const most = 5
	told := 0
	return func(err error) {
		if told++; told < most {
			a.complain(err)
		} else if told == most {
			a.complain(fmt.Errorf("%w; more of these are only counted", err))
		}
	}
}

// summarize tells what went wrong, if anything did.
func (a *app) summarize(s *eventplane.Subscriber) {
	st := s.Stats()
	if st.Missed+st.Dropped+st.DecodeErrors == 0 {
		return
	}
	_, _ = fmt.Fprintf(a.stderr, "dynplane: heard %d events, missed %d in %d gaps (%d dropped here), %d messages were no events\n",
		st.Received, st.Missed, st.Gaps, st.Dropped, st.DecodeErrors)
}

func (a *app) showJSON(ev eventplane.Event) error { return a.writeJSON(newEventLine(ev)) }

// showTable shows ids in hex, as paths do.
func (a *app) showTable() func(eventplane.Event) error {
	t := newTable(a.stdout)
	t.row("PUBLISHED", "PUBLISHER", "SEQUENCE", "MISSED", "PAYLOAD")
	return func(ev eventplane.Event) error {
		l := newEventLine(ev)
		payload := string(l.Payload)
		if l.Payload == nil {
			payload = "base64:" + base64.StdEncoding.EncodeToString(l.PayloadBase64)
		}
		t.row(
			time.UnixMilli(int64(l.PublishedAt)).Format("15:04:05.000"),
			strconv.FormatUint(l.PublisherID, 16),
			strconv.FormatUint(l.Sequence, 10),
			strconv.FormatUint(l.Missed, 10),
			payload,
		)
		return t.Flush()
	}
}

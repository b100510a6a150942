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
	"github.com/dynplane/dynplane/internal/wait"
)

// subOptions are the flags of sub.
type subOptions struct {
	count   uint64
	timeout time.Duration
	ready   string
	events  eventplane.SubscriberOptions
	full    string // --overflow
}

func newSubCommand(a *app) *cobra.Command {
	var o subOptions
	cmd := &cobra.Command{
		Use:   "sub NS[/COMP[/EP]] TOPIC",
		Short: "Receive events and print them",
		Long: `Receive the events of exactly this scope and topic and print them, until interrupted.
In JSON, each line is

  {"topic","publisher_id","sequence","published_at","missed","payload"}

published_at is in Unix milliseconds. missed is the number of events of the publisher
that were lost just before this one. A msgpack payload is printed as JSON, with exact
integers; note that a single byte below 0x80 is a msgpack integer. A payload that was
sent as bytes is printed as JSON only if it is a JSON object or array. Any other
payload is printed as payload_base64 instead. Messages that are not events are
reported on stderr and counted. With --gaps, lost events are also a line of their own;
first and last are sequences:

  {"gap":{"publisher_id","first","last","recovered"}}

With --recover, missing events are requested from their publishers, which keep the last
ones. Recovered events are printed in their place, and then the line of their gap. With
--from-start, the events that publishers keep are printed first.

If nothing arrives for two seconds and no publisher is connected, sub prints on stderr what it waits for and what is announced nearby.`,
		Example: `  dynplane sub dynamo/backend/generate kv-events
  dynplane sub dynamo/backend/generate kv-events --count 10 --timeout 5s -o json
  dynplane sub dynamo/backend/generate kv-events --from-start --gaps`,
		Args: argCount(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			scope, topic, err := parseChannel(args)
			if err == nil && o.timeout < 0 {
				err = usagef("--timeout %v: want 0 or more", o.timeout)
			}
			if err == nil && o.events.QueueSize < 0 {
				err = usagef("--queue %d: want 0 or more", o.events.QueueSize)
			}
			if err == nil {
				if o.events.Overflow, err = eventplane.ParseOverflow(o.full); err != nil {
					err = usagef("--overflow %s: want drop-oldest, drop-newest or block", o.full)
				}
			}
			if err != nil {
				return err
			}
			return a.sub(cmd.Context(), scope, topic, o)
		},
	}
	flags := cmd.Flags()
	flags.Uint64Var(&o.count, "count", 0, "number of events after which to exit; 0 means no limit")
	flags.BoolVar(&o.events.Gaps, "gaps", false, "print a line for each gap in the sequences of a publisher")
	flags.BoolVar(&o.events.Recover, "recover", false, "request missing events from their publishers")
	flags.BoolVar(&o.events.FromStart, "from-start", false, "begin with the events that publishers keep; implies --recover")
	flags.IntVar(&o.events.QueueSize, "queue", 0, "number of `EVENTS` that wait to be printed; 0 means 65536")
	flags.StringVar(&o.full, "overflow", eventplane.DropOldest.String(), "drop-oldest, drop-newest or block, when that many wait")
	flags.DurationVar(&o.timeout, "timeout", 0, "time after which to exit with code 124; 0 means no limit")
	flags.StringVar(&o.ready, "ready-file", "", "`FILE` to create when the subscription is ready")
	a.pprofFlag(cmd)
	return cmd
}

// statusInterval is how often sub looks for changes that it reports on a terminal.
const statusInterval = time.Second

var errTimeout = errors.New("--timeout expired")

func (a *app) sub(ctx context.Context, scope discovery.Scope, topic string, o subOptions) error {
	if err := clearReadyFile(o.ready); err != nil {
		return err
	}
	if o.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, o.timeout, errTimeout)
		defer cancel()
	}
	err := a.withPlane(ctx, o.needsDiscovery, func(plane *eventplane.Client, _ *discovery.Client) error {
		opening, cancel := context.WithTimeout(ctx, opTimeout)
		defer cancel()
		s, err := plane.SubscriberWithOptions(opening, scope, topic, o.events)
		if err != nil {
			return err
		}
		defer a.summarize(s)
		defer a.reportPublishers(ctx, s)()
		quiet, stop := context.WithCancel(ctx)
		explained := make(chan struct{})
		go func() {
			defer close(explained)
			if wait.Sleep(quiet, silence) == nil {
				a.explainSilence(quiet, s, scope, topic)
			}
		}()
		defer func() { stop(); <-explained }()
		return a.receive(ctx, s, o, stop)
	})
	if err != nil && errors.Is(context.Cause(ctx), errTimeout) {
		expired := fmt.Errorf("sub of %s in %s: --timeout %v expired", topic, scope, o.timeout)
		if !errors.Is(err, errTimeout) {
			expired = fmt.Errorf("%w: %w", expired, err) // such as a store that does not answer
		}
		return &exitError{exitTimeout, expired}
	}
	return err
}

// findsPublishers reports whether subscribers find their peers by discovery.
func findsPublishers(cfg eventplane.Config) bool {
	return cfg.Transport == discovery.TransportZMQ && len(cfg.Broker.XPub) == 0
}

// needsDiscovery reports whether publishers, or the addresses at which they replay
// events, are found by discovery.
func (o subOptions) needsDiscovery(cfg eventplane.Config) bool {
	return findsPublishers(cfg) || o.events.FromStart || o.events.Recover && cfg.Transport == discovery.TransportZMQ
}

// reportPublishers prints on a terminal from how many publishers s receives, each time
// that it has changed, until the function that it returns is called.
func (a *app) reportPublishers(ctx context.Context, s *eventplane.Subscriber) (stop func()) {
	if !a.stderrTerminal {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for before := 0; wait.Sleep(ctx, statusInterval) == nil; {
			if n := len(s.Stats().LastProof); n != before {
				before = n
				_, _ = fmt.Fprintf(a.stderr, "dynplane: receiving from %d publishers\n", n)
			}
		}
	}()
	return func() { cancel(); <-done }
}

// receive prints events until --count, the end of ctx, or an error. It calls first
// when an event arrives.
func (a *app) receive(ctx context.Context, s *eventplane.Subscriber, o subOptions, first func()) error {
	ctx, fail := context.WithCancelCause(ctx)
	announced := make(chan struct{})
	go func() {
		defer close(announced)
		if err := announceReady(ctx, s, o.ready); err != nil {
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
	for received := uint64(0); o.count == 0 || received < o.count; {
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
		first()
		if ev.Gap == nil {
			received++
		}
		if err := show(ev); err != nil {
			return err
		}
	}
	return nil
}

// announceReady creates the ready file when s is ready. Events are received in the
// meantime, since a publisher that no longer runs can delay readiness.
func announceReady(ctx context.Context, s *eventplane.Subscriber, file string) error {
	if file == "" {
		return nil
	}
	if err := s.Ready(ctx); err != nil {
		return err
	}
	return writeReadyFile(file, "ready")
}

// warner returns a function that prints the first few errors that it is called
// with.
func (a *app) warner() func(error) {
	const most = 5
	printed := 0
	return func(err error) {
		if printed++; printed < most {
			a.printError(err)
		} else if printed == most {
			a.printError(fmt.Errorf("%w; further ones are only counted", err))
		}
	}
}

// summarize prints the counters if events were lost or recovered, or messages were
// malformed, and always on a terminal.
func (a *app) summarize(s *eventplane.Subscriber) {
	st := s.Stats()
	if st.Missed+st.Dropped+st.DecodeErrors+st.Recovered == 0 && !a.stderrTerminal {
		return
	}
	recovered := ""
	if st.Recovered > 0 {
		recovered = fmt.Sprintf(", recovered %d", st.Recovered)
	}
	_, _ = fmt.Fprintf(a.stderr, "dynplane: received %d events%s, missed %d in %d gaps (%d dropped here), rejected %d messages\n",
		st.Received, recovered, st.Missed, st.Gaps, st.Dropped, st.DecodeErrors)
}

func (a *app) showJSON(ev eventplane.Event) error {
	if ev.Gap != nil {
		return a.writeJSON(gapLine{gapFields(*ev.Gap)})
	}
	return a.writeJSON(newEventLine(ev))
}

// gapName is shown in place of a payload.
func gapName(g eventplane.Gap) string {
	if g.Recovered {
		return "recovered"
	}
	return "gap"
}

// showTable returns a function that prints events as rows, with ids in hex, as in
// paths.
func (a *app) showTable() func(eventplane.Event) error {
	t := newTable(a.stdout)
	t.row("PUBLISHED", "PUBLISHER", "SEQUENCE", "MISSED", "PAYLOAD")
	return func(ev eventplane.Event) error {
		if g := ev.Gap; g != nil {
			t.row("-", strconv.FormatUint(g.PublisherID, 16), fmt.Sprintf("%d-%d", g.First, g.Last), strconv.FormatUint(g.Last-g.First+1, 10), gapName(*g))
			return t.Flush()
		}
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

package soak

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/goleak"

	"github.com/dynplane/dynplane/discovery"
	filestore "github.com/dynplane/dynplane/discovery/file"
	"github.com/dynplane/dynplane/eventplane"
	"github.com/dynplane/dynplane/internal/wait"
)

// childVar makes the test binary act as a publisher or subscriber. Its value is a
// childConfig.
const childVar = "DYNPLANE_TEST_SOAK_CHILD"

const eventTopic = "kv-events"

var eventScope = discovery.Scope{Namespace: "soak", Component: "worker"}

// eventTTL is that of zmq-broker, and must be the same for all.
const eventTTL = 10 * time.Second

// childConfig is what a child does. It writes records in lines to its stdout, and reads
// commands from its stdin, whose end ends it.
type childConfig struct {
	Life       uint64 // of a publisher, which its events carry; 0 for a subscriber
	Store      string // directory of the registrations
	Env        map[string]string
	Rate       int // events a second
	History    int
	Subscriber eventplane.SubscriberOptions
}

// event is what publishers publish.
type event struct{ Life, N uint64 }

// serveChild runs a publisher or subscriber if this process is the child of a test.
func serveChild() (child bool, err error) {
	text, child := os.LookupEnv(childVar) //nolint:forbidigo // TestMain calls it
	if !child {
		return false, nil
	}
	var config childConfig
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		return true, err
	}
	c := &soaker{childConfig: config, out: bufio.NewWriter(os.Stdout)}
	return true, errors.Join(c.run(), goleak.Find())
}

type soaker struct {
	childConfig

	mu  sync.Mutex
	out *bufio.Writer
}

// record writes a line.
func (c *soaker) record(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = fmt.Fprintf(c.out, format+"\n", args...)
	_ = c.out.Flush()
}

func (c *soaker) run() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	store, err := filestore.New(filestore.Options{Root: c.Store, TTL: eventTTL})
	if err != nil {
		return err
	}
	lookup := func(name string) (string, bool) { v, ok := c.Env[name]; return v, ok }
	cfg, err := eventplane.ConfigFromEnv(lookup)
	if err != nil {
		return err
	}
	registrations := discovery.NewClient(store, discovery.Options{})
	plane, err := eventplane.New(cfg, registrations)
	if err != nil {
		return err
	}
	act := c.subscribe
	if c.Life > 0 {
		act = c.publish
	}
	err = act(ctx, plane)
	end, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return errors.Join(err, plane.Shutdown(end), registrations.Shutdown(end))
}

// commands calls f for each command until stop. It ends the process if the parent has
// ended.
func commands(f func(command string)) {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		if in.Text() == "stop" {
			return
		}
		f(in.Text())
	}
	os.Exit(3)
}

// opened opens a publisher or subscriber. A server may be down.
func opened[T any](ctx context.Context, open func() (T, error)) (T, error) {
	for {
		opened, err := open()
		if err == nil || wait.Sleep(ctx, 100*time.Millisecond) != nil {
			return opened, err
		}
	}
}

// publish publishes at the rate until stop. All events before a recorded sequence have
// been published at the recorded time, and none from it on.
func (c *soaker) publish(ctx context.Context, plane *eventplane.Client) error {
	pub, err := opened(ctx, func() (*eventplane.Publisher, error) {
		return plane.PublisherWithOptions(ctx, eventScope, eventTopic, eventplane.PublisherOptions{History: c.History})
	})
	if err != nil {
		return err
	}
	c.record("open %d", pub.ID())
	var resting atomic.Bool
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		commands(func(command string) { resting.Store(command == "rest") })
	}()
	e := event{Life: c.Life}
	tick := time.NewTicker(time.Second / 50)
	defer tick.Stop()
	for stop := false; !stop; {
		select {
		case <-tick.C:
		case <-stopped:
			stop = true
		}
		if resting.Load() && !stop {
			c.record("rests %d", e.N)
			continue
		}
		c.record("next %d %d", e.N, time.Now().UnixMilli())
		for range c.Rate / 50 {
			if err := pub.Publish(context.Background(), e); err != nil {
				c.record("wrong error of Publish: %s", oneLine(err))
				return fmt.Errorf("publish: %w", err)
			}
			e.N++
		}
	}
	// More at once than before, right before the end.
	for range c.Rate {
		if err := pub.Publish(context.Background(), e); err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		e.N++
	}
	end, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := pub.Shutdown(end); err != nil {
		return err
	}
	c.record("ended %d", e.N)
	return nil
}

// span is a number of events in succession that were delivered.
type span struct{ life, first, last, lost uint64 }

// subscribe records what a subscriber delivers until stop.
func (c *soaker) subscribe(ctx context.Context, plane *eventplane.Client) error {
	sub, err := opened(ctx, func() (*eventplane.Subscriber, error) {
		return plane.SubscriberWithOptions(ctx, eventScope, eventTopic, c.Subscriber)
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { commands(func(string) {}); cancel() })
	running.Go(func() {
		if sub.Ready(ctx) == nil {
			c.record("ready %d", time.Now().UnixMilli())
		}
	})
	r := reader{soaker: c, runs: map[uint64]*span{}}
	for {
		quiet, stop := context.WithTimeout(ctx, 50*time.Millisecond)
		ev, err := sub.Next(quiet)
		stop()
		switch {
		case err == nil:
			r.take(&ev)
		case ctx.Err() != nil:
			r.flush()
			if s := sub.Stats(); s.Restarts+s.DecodeErrors > 0 {
				c.record("wrong stats %+v", s)
			}
			return nil
		case !errors.Is(err, context.DeadlineExceeded):
			c.record("wrong error of Next: %s", oneLine(err))
			return fmt.Errorf("next: %w", err)
		}
		if err != nil || time.Since(r.flushed) > 100*time.Millisecond {
			r.flush()
		}
	}
}

// reader merges events into runs, and checks what needs no other process.
type reader struct {
	*soaker
	runs    map[uint64]*span // by publisher
	flushed time.Time
}

func (r *reader) take(ev *eventplane.Event) {
	u := r.runs[ev.PublisherID]
	if u == nil {
		u = &span{}
		r.runs[ev.PublisherID] = u
	}
	if g := ev.Gap; g != nil {
		r.flushRun(ev.PublisherID, u)
		what := "recovered"
		if !g.Recovered {
			what = "lost"
			u.lost += g.Last - g.First + 1
		}
		r.record("%s %d %d %d", what, g.PublisherID, g.First, g.Last)
		return
	}
	var e event
	if err := ev.Decode(&e); err != nil || e.N != ev.Sequence {
		r.record("wrong event %d of %d: %+v, %s", ev.Sequence, ev.PublisherID, e, oneLine(err))
	}
	if ev.Missed != u.lost {
		r.record("wrong missed %d before event %d of %d: the gaps have %d", ev.Missed, ev.Sequence, ev.PublisherID, u.lost)
	}
	u.lost = 0
	if u.life == e.Life && u.last+1 == ev.Sequence {
		u.last = ev.Sequence
		return
	}
	r.flushRun(ev.PublisherID, u)
	u.life, u.first, u.last = e.Life, ev.Sequence, ev.Sequence
}

func oneLine(err error) string { return strings.ReplaceAll(fmt.Sprint(err), "\n", "; ") }

func (r *reader) flush() {
	for id, u := range r.runs {
		r.flushRun(id, u)
	}
	r.flushed = time.Now()
}

func (r *reader) flushRun(id uint64, u *span) {
	if u.life != 0 {
		r.record("run %d %d %d %d", id, u.life, u.first, u.last)
		u.life = 0
	}
}

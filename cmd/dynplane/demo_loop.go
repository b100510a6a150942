package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane"
)

const (
	startPatience   = 60 * time.Second // until an event of every worker has arrived
	removalPatience = 10 * time.Second // after the TTL
)

// demo is the state of a demo. The goroutine of loop owns all of it except the
// tally; the other goroutines send updates to it.
type demo struct {
	demoOptions
	ttl        time.Duration
	transcript *transcript
	tally      *tally
	running    sync.WaitGroup
	updates    chan any

	workers  []*demoWorker
	channels map[discovery.ID]discovery.Instance // registered now
	firsts   map[uint64]uint64                   // first sequence received, by publisher

	second, kill, end <-chan time.Time // nil until the clock starts
	deadline          <-chan time.Time // of the start or the removal; nil if neither is pending

	started      time.Time // zero until an event of every worker has arrived
	killed       *demoWorker
	killedAt     time.Time
	removedAfter time.Duration // zero until the removal
	over         bool          // the duration has passed
	interrupted  bool
}

// The updates of the other goroutines.
type (
	announced struct { // by the worker itself
		worker  *demoWorker
		channel discovery.ID
	}
	exited  struct{ worker *demoWorker }
	changed struct { // in discovery
		discovery.Event
		at time.Time
	}
	received struct{ publisher, sequence uint64 } // first event of a publisher
	failed   struct{ err error }
)

// send passes an update to the loop, unless ctx is done.
func (d *demo) send(ctx context.Context, update any) {
	select {
	case d.updates <- update:
	case <-ctx.Done():
	}
}

// watch sends the changes of the workers' channels in discovery.
func (d *demo) watch(ctx context.Context, client *discovery.Client) {
	query := discovery.Query{Kind: discovery.KindEventChannel, Scope: demoScope(), Topic: demoTopic}
	for ev, err := range client.Watch(ctx, query) {
		if err != nil {
			d.send(ctx, failed{err})
			return
		}
		d.send(ctx, changed{ev, time.Now()})
	}
}

// receive counts the events, and sends the first one of each publisher.
func (d *demo) receive(ctx context.Context, sub *eventplane.Subscriber) {
	seen := map[uint64]bool{}
	for ev, err := range eventplane.Events[stamped](ctx, sub) {
		if err != nil {
			d.send(ctx, failed{err})
			return
		}
		d.tally.add(time.Now().UnixNano()-ev.Value.Event.SentNS, ev.Missed)
		if !seen[ev.PublisherID] {
			seen[ev.PublisherID] = true
			d.send(ctx, received{ev.PublisherID, ev.Sequence})
		}
	}
}

// loop runs until the duration has passed and the killed worker is removed, until
// an error, or until ctx is done.
func (d *demo) loop(ctx context.Context) error {
	d.deadline = time.After(startPatience)
	for !d.over || d.removedAfter == 0 {
		select {
		case u := <-d.updates:
			if err := d.apply(u); err != nil {
				return err
			}
		case <-d.second:
			d.reportRate()
		case <-d.kill:
			if err := d.killOne(); err != nil {
				return err
			}
		case <-d.end:
			d.over = true
		case <-d.deadline:
			return d.timedOut()
		case <-ctx.Done():
			d.interrupted = true
			d.transcript.add("demo", "interrupted")
			return nil
		}
	}
	return nil
}

func (d *demo) apply(update any) error {
	switch u := update.(type) {
	case failed:
		return u.err
	case exited:
		if u.worker != d.killed {
			return fmt.Errorf("demo: %s exited early: %v", u.worker, u.worker.cmd.ProcessState)
		}
	case announced:
		u.worker.channel = u.channel
	case received:
		d.firsts[u.publisher] = u.sequence
	case changed:
		switch u.Type {
		case discovery.Added:
			d.channels[u.Instance.ID()] = u.Instance
		case discovery.Removed:
			delete(d.channels, u.Instance.ID())
			return d.removed(u.Instance.ID(), u.at)
		case discovery.Synced: // no worker was registered yet
		}
	}
	d.reportWorkers()
	return nil
}

// reportWorkers reports the workers that have been registered, and those of which
// an event has arrived. It starts the clock when one of each has.
func (d *demo) reportWorkers() {
	all := true
	for _, w := range d.workers {
		if in, ok := d.channels[w.channel]; ok && !w.announced {
			w.announced = true
			if ch, ok := in.Spec.(discovery.EventChannel); ok {
				d.transcript.add("discovery", "%s (pid %d) added: %s over %s at %s",
					w, w.cmd.Process.Pid, ch.Topic, d.transport, ch.Transport.Address())
			}
		}
		if first, ok := d.firsts[w.channel.Instance]; ok && w.announced && !w.received {
			w.received = true
			d.transcript.add("subscriber", "receives from %s, starting with event %d", w, first)
		}
		all = all && w.received
	}
	if all && d.started.IsZero() {
		d.startClock()
	}
}

func (d *demo) startClock() {
	d.transcript.add("demo", "all %d workers are connected: counting events for %v", len(d.workers), d.duration)
	d.started, d.deadline = time.Now(), nil
	d.tally.restart()
	d.second, d.kill, d.end = time.Tick(time.Second), time.After(d.duration/2), time.After(d.duration)
}

func (d *demo) reportRate() {
	rate, missed := d.tally.rate(), d.tally.sum().missed
	d.transcript.add("subscriber", "%.0f events/s, %d missed, %d workers in discovery", rate, missed, len(d.channels))
}

func (d *demo) killOne() error {
	w := d.workers[len(d.workers)/2]
	d.killed, d.killedAt = w, time.Now()
	d.deadline = time.After(d.ttl + removalPatience)
	if err := w.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("demo: kill -9 of %s: %w", w, err)
	}
	d.transcript.add("demo", "kill -9 %s (pid %d): it cannot unregister, so its lease of %v must expire", w, w.cmd.Process.Pid, d.ttl)
	return nil
}

// removed records that a channel was removed, and fails unless it is the killed
// worker's.
func (d *demo) removed(id discovery.ID, at time.Time) error {
	for _, w := range d.workers {
		if w.channel == id && w != d.killed {
			return fmt.Errorf("demo: %s was removed from discovery, but was not killed", w)
		}
	}
	if d.killed == nil || d.killed.channel != id {
		return nil
	}
	d.removedAfter, d.deadline = at.Sub(d.killedAt), nil
	d.transcript.add("discovery", "%s removed %.2fs after the kill", d.killed, d.removedAfter.Seconds())
	return nil
}

// timedOut returns the error of a worker that did not start in time. A removal that
// is overdue only ends the loop: the verdict reports it.
func (d *demo) timedOut() error {
	if d.killed != nil {
		return nil
	}
	for _, w := range d.workers {
		if !w.received {
			return fmt.Errorf("demo: no event of %s arrived within %v", w, startPatience)
		}
	}
	return nil
}

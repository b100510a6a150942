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
	startPatience   = 60 * time.Second // for all workers to be heard
	removalPatience = 10 * time.Second // beyond the TTL
)

// demo is the state of the play. The goroutine that plays owns all of it but
// the tally; the others send it notes.
type demo struct {
	demoOptions
	ttl     time.Duration
	story   *story
	tally   *tally
	running sync.WaitGroup
	notes   chan any

	workers  []*demoWorker
	channels map[discovery.ID]discovery.Instance // that discovery knows now
	firsts   map[uint64]uint64                   // first sequence heard, by publisher

	second, kill, end <-chan time.Time // nil until the clock starts
	deadline          <-chan time.Time // for what is waited for, if anything is

	started      time.Time // zero until all are heard
	killed       *demoWorker
	killedAt     time.Time
	removedAfter time.Duration // 0 until then
	over         bool          // the duration is
	interrupted  bool
}

// What the other goroutines tell.
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
	heard  struct{ publisher, sequence uint64 }
	failed struct{ err error }
)

// note is given up when the play is over.
func (d *demo) note(ctx context.Context, n any) {
	select {
	case d.notes <- n:
	case <-ctx.Done():
	}
}

// watch reports what discovery says of the workers' channels.
func (d *demo) watch(ctx context.Context, client *discovery.Client) {
	query := discovery.Query{Kind: discovery.KindEventChannel, Scope: demoScope(), Topic: demoTopic}
	for ev, err := range client.Watch(ctx, query) {
		if err != nil {
			d.note(ctx, failed{err})
			return
		}
		d.note(ctx, changed{ev, time.Now()})
	}
}

// receive hears the events.
func (d *demo) receive(ctx context.Context, sub *eventplane.Subscriber) {
	known := map[uint64]bool{}
	for ev, err := range eventplane.Events[stamped](ctx, sub) {
		if err != nil {
			d.note(ctx, failed{err})
			return
		}
		d.tally.add(time.Now().UnixNano()-ev.Value.Event.SentNS, ev.Missed)
		if !known[ev.PublisherID] {
			known[ev.PublisherID] = true
			d.note(ctx, heard{ev.PublisherID, ev.Sequence})
		}
	}
}

// play goes on until the duration and the removal are over, something fails, or
// ctx is done.
func (d *demo) play(ctx context.Context) error {
	d.deadline = time.After(startPatience)
	for !d.over || d.removedAfter == 0 {
		select {
		case n := <-d.notes:
			if err := d.take(n); err != nil {
				return err
			}
		case <-d.second:
			d.tellSecond()
		case <-d.kill:
			if err := d.killOne(); err != nil {
				return err
			}
		case <-d.end:
			d.over = true
		case <-d.deadline:
			return d.late()
		case <-ctx.Done():
			d.interrupted = true
			d.story.tell("demo", "interrupted")
			return nil
		}
	}
	return nil
}

func (d *demo) take(n any) error {
	switch n := n.(type) {
	case failed:
		return n.err
	case exited:
		if n.worker != d.killed {
			return fmt.Errorf("demo: %s has ended by itself: %v", n.worker, n.worker.cmd.ProcessState)
		}
	case announced:
		n.worker.channel = n.channel
	case heard:
		d.firsts[n.publisher] = n.sequence
	case changed:
		switch n.Type {
		case discovery.Added:
			d.channels[n.Instance.ID()] = n.Instance
		case discovery.Removed:
			delete(d.channels, n.Instance.ID())
			return d.removed(n.Instance.ID(), n.at)
		case discovery.Synced: // nobody was there yet
		}
	}
	d.tellWorkers()
	return nil
}

// tellWorkers tells what is new of the workers; once all are heard, the clock
// starts.
func (d *demo) tellWorkers() {
	all := true
	for _, w := range d.workers {
		if in, ok := d.channels[w.channel]; ok && !w.announced {
			w.announced = true
			if ch, ok := in.Spec.(discovery.EventChannel); ok {
				d.story.tell("discovery", "%s (pid %d) announced %s on %s at %s",
					w, w.cmd.Process.Pid, ch.Topic, d.transport, ch.Transport.Address())
			}
		}
		if first, ok := d.firsts[w.channel.Instance]; ok && w.announced && !w.heard {
			w.heard = true
			d.story.tell("subscriber", "connected to %s by itself, from its event %d on", w, first)
		}
		all = all && w.heard
	}
	if all && d.started.IsZero() {
		d.startClock()
	}
}

func (d *demo) startClock() {
	d.story.tell("demo", "all %d workers are heard: listening for %v", len(d.workers), d.duration)
	d.started, d.deadline = time.Now(), nil
	d.tally.restart()
	d.second, d.kill, d.end = time.Tick(time.Second), time.After(d.duration/2), time.After(d.duration)
}

func (d *demo) tellSecond() {
	rate, missed := d.tally.rate(), d.tally.sum().missed
	d.story.tell("subscriber", "%.0f events/s, %d missed, %d workers in discovery", rate, missed, len(d.channels))
}

func (d *demo) killOne() error {
	w := d.workers[len(d.workers)/2]
	d.killed, d.killedAt = w, time.Now()
	d.deadline = time.After(d.ttl + removalPatience)
	if err := w.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("demo: kill -9 of %s: %w", w, err)
	}
	d.story.tell("demo", "KILL -9 of %s (pid %d): it cannot unregister, its lease of %v has to run out", w, w.cmd.Process.Pid, d.ttl)
	return nil
}

// removed hears that a channel is gone, which only the killed worker's may be.
func (d *demo) removed(id discovery.ID, at time.Time) error {
	for _, w := range d.workers {
		if w.channel == id && w != d.killed {
			return fmt.Errorf("demo: %s was removed from discovery, and the demo did not kill it", w)
		}
	}
	if d.killed == nil || d.killed.channel != id {
		return nil
	}
	d.removedAfter, d.deadline = at.Sub(d.killedAt), nil
	d.story.tell("discovery", "%s REMOVED %.2fs after the kill", d.killed, d.removedAfter.Seconds())
	return nil
}

// late is the end of waiting: what was not removed is up to the verdict.
func (d *demo) late() error {
	if d.killed != nil {
		return nil
	}
	for _, w := range d.workers {
		if !w.heard {
			return fmt.Errorf("demo: %s was not heard within %v", w, startPatience)
		}
	}
	return nil
}

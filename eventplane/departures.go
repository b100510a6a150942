package eventplane

import (
	"sync"
	"time"
)

// leaveDelay is the time between two looks at the publishers that are no longer
// registered: their last events may still be on their way.
const leaveDelay = 5 * time.Second

// departures has the publishers that are registered, and forgets publishers that are no longer registered, once two looks in
// succession have found that no event waits for the reader and that none of theirs
// has arrived in between. Publishers that came and went leave nothing.
type departures struct {
	queued func() int // number of events that wait for the reader
	listed sync.Map   // from the ids of the publishers that are registered, or have left and are not forgotten, to their replay addresses

	mu        sync.Mutex
	left      map[uint64]departure
	timer     *time.Timer // nil if left is empty
	ended     bool
	sequencer *sequencer  // nil before attach
	guard     *sync.Mutex // of sequencer; locked after mu
}

type departure struct {
	last   uint64 // sequence of the last event delivered at the previous look
	looked bool   // there was one
}

// lists reports whether a publisher is registered, or was until recently.
func (d *departures) lists(publisher uint64) bool {
	_, ok := d.listed.Load(publisher)
	return ok
}

// replayAddress returns the address at which a publisher replays events, and whether
// it is no longer registered. d may be nil.
func (d *departures) replayAddress(publisher uint64) (address string, left bool) {
	if d == nil {
		return "", false
	}
	if a, ok := d.listed.Load(publisher); ok {
		address, _ = a.(string)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	_, left = d.left[publisher]
	return address, left
}

// attach sets the sequencer that has the state of the publishers, and its mutex.
func (d *departures) attach(s *sequencer, guard *sync.Mutex) {
	d.mu.Lock()
	d.sequencer, d.guard = s, guard
	d.mu.Unlock()
	for id := range d.listed.Range {
		d.discover(id.(uint64))
	}
}

// discover passes a publisher to the sequencer, once there is one.
func (d *departures) discover(publisher uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sequencer == nil || !d.sequencer.recoverer.fromStart {
		return
	}
	d.guard.Lock()
	defer d.guard.Unlock()
	d.sequencer.discover(publisher)
}

// leave is called when a publisher is no longer registered.
func (d *departures) leave(publisher uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return
	}
	if d.left == nil {
		d.left = map[uint64]departure{}
	}
	d.left[publisher] = departure{}
	if d.timer == nil {
		d.timer = time.AfterFunc(leaveDelay, d.look)
	}
}

// enter is called when a publisher is registered.
func (d *departures) enter(publisher uint64, replayAddress string) {
	d.mu.Lock()
	d.listed.Store(publisher, replayAddress) // forget, which holds mu, may be about to delete the entry of its last life
	delete(d.left, publisher)
	d.mu.Unlock()
	d.discover(publisher)
}

// look forgets the publishers that can be, and looks again later at the others.
func (d *departures) look() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ended {
		return
	}
	if d.sequencer != nil {
		d.forget()
	}
	if d.timer = nil; len(d.left) > 0 {
		d.timer = time.AfterFunc(leaveDelay, d.look)
	}
}

// forget evicts the publishers that can be. The caller holds mu.
func (d *departures) forget() {
	d.guard.Lock()
	defer d.guard.Unlock()
	idle := d.queued() == 0 && d.sequencer.outAt == len(d.sequencer.out)
	for id, before := range d.left {
		p := d.sequencer.peers[id]
		switch {
		case p == nil && (!idle || !before.looked): // its first events may wait for the reader
			d.left[id] = departure{looked: idle}
		case p == nil:
			delete(d.left, id)
			d.listed.Delete(id)
		case !idle || len(p.held) > 0 || len(p.recovery.slices) > 0 || !before.looked || before.last != p.epoch.last:
			d.left[id] = departure{last: p.epoch.last, looked: idle}
		default:
			d.sequencer.retire(p)
			delete(d.left, id)
			d.listed.Delete(id)
		}
	}
	if len(d.left) == 0 {
		d.left = nil // a map keeps its size
	}
}

// end stops the timer. Later calls of the other methods have no effect.
func (d *departures) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended, d.left = true, nil
	if d.timer != nil {
		d.timer.Stop()
	}
}

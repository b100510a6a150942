package eventplane

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/dynplane/dynplane/eventplane/driver"
)

// network is a random model of one publisher that lives several times, its paths to
// a sequencer, and its answers to requests for replay. Time is that of a simulation.
type network struct {
	rand    *rand.Rand
	seq     *sequencer
	paths   int
	loss    float64 // of events, on each path
	failing float64 // share of the slices that fail
	keeps   int     // events
	lives   []life
	now     time.Duration
	due     []occurrence     // in order of time
	last    [2]time.Duration // arrivals on each path
}

type life struct {
	events []Event
	sent   []time.Duration
}

// occurrence is something that happens at a time, after what is due earlier.
type occurrence struct {
	at time.Duration
	do func()
}

func (n *network) after(at time.Duration, do func()) {
	i, _ := slices.BinarySearchFunc(n.due, at, func(o occurrence, at time.Duration) int {
		return cmp.Or(cmp.Compare(o.at, at), -1)
	})
	n.due = slices.Insert(n.due, i, occurrence{at, do})
}

func (n *network) chance(p float64) bool { return n.rand.Float64() < p }

// live lets the publisher live once from now on, and schedules what arrives. A path
// that is interrupted delivers what it has when it returns.
func (n *network) live(begin time.Duration) (end time.Duration) {
	l := life{}
	at := begin
	for i := range 1 + n.rand.IntN(80) {
		at += n.randUpTo(40 * time.Millisecond)
		l.events = append(l.events, arrival(1, uint64(i), uint64(1_000_000+at.Milliseconds())))
		l.sent = append(l.sent, at)
	}
	n.lives = append(n.lives, l)
	rest := at + n.randUpTo(time.Second)
	for path := range n.paths {
		n.deliver(path, l, begin, rest)
	}
	return rest
}

func (n *network) randUpTo(d time.Duration) time.Duration {
	return time.Duration(n.rand.Int64N(int64(d))) + time.Millisecond
}

// deliver schedules what one path delivers of a life, in order, and ticks.
func (n *network) deliver(path int, l life, begin, end time.Duration) {
	away := begin + n.randUpTo(end-begin+time.Second)
	back := away
	if n.paths > 1 && n.chance(0.3) {
		back += n.randUpTo(3 * time.Second)
	}
	delay := n.randUpTo(30 * time.Millisecond)
	arrive := func(sent time.Duration, do func()) {
		t := sent + delay + n.randUpTo(5*time.Millisecond)
		if t > away && t < back {
			t = back
		}
		n.last[path] = max(n.last[path], t)
		n.after(n.last[path], do)
	}
	for i, ev := range l.events {
		if !n.chance(n.loss) {
			arrive(l.sent[i], func() { n.seq.add(ev, 8) })
		}
		if n.chance(0.1) {
			arrive(l.sent[i], func() { n.seq.control(1, ev.Sequence+1, ev.PublishedAt) })
		}
	}
	arrive(end, func() { n.seq.control(1, uint64(len(l.events)), l.events[len(l.events)-1].PublishedAt) })
}

// kept returns the events that the publisher has at a time.
func (n *network) kept(at time.Duration) []Event {
	for _, l := range slices.Backward(n.lives) {
		if l.sent[0] > at {
			continue
		}
		sent, _ := slices.BinarySearch(l.sent, at+1)
		return l.events[max(0, sent-n.keeps):sent]
	}
	return nil
}

// replay answers a request for a slice after a while, or fails in the middle.
func (n *network) replay(sl *slice) {
	first := sl.first
	if sl.overlap {
		first--
	}
	n.after(n.now+n.randUpTo(50*time.Millisecond), func() {
		var answer []Event
		for _, ev := range n.kept(n.now) {
			if ev.Sequence >= first && ev.Sequence <= sl.last && len(answer) < driver.MaxReplay {
				answer = append(answer, ev)
			}
		}
		failed := n.chance(n.failing)
		if failed {
			answer = answer[:n.rand.IntN(len(answer)+1)]
		}
		t := n.now
		for _, ev := range answer {
			t += n.randUpTo(5 * time.Millisecond)
			n.after(t, func() { n.seq.replayed(sl, ev, 8) })
		}
		n.after(t+n.randUpTo(5*time.Millisecond), func() { n.seq.finish(sl, failed) })
	})
}

// observer checks the events that a sequencer delivers.
type observer struct {
	t         *testing.T
	seed      uint64
	n         *network
	last      *Event
	lifeOf    int    // of last
	position  uint64 // sequence of the next event of the life
	run       uint64 // events delivered in succession, without a gap
	pending   uint64 // lost since last
	lost      uint64
	repaired  uint64
	unnoticed bool
}

func (o *observer) drain() {
	for ev, ok := o.n.seq.next(); ok; ev, ok = o.n.seq.next() {
		if g := ev.Gap; g != nil && g.Recovered {
			if o.last == nil || g.Last != o.last.Sequence || g.Last-g.First+1 > o.run {
				o.t.Fatalf("seed %d: recovered %d to %d after %v in a run of %d", o.seed, g.First, g.Last, o.last, o.run)
			}
			o.repaired += g.Last - g.First + 1
		} else if g != nil {
			if o.last != nil && g.First != o.position {
				o.t.Fatalf("seed %d: gap %+v: want it from %d", o.seed, *g, o.position)
			}
			if !slices.ContainsFunc(o.n.lives[o.lifeOf:], func(l life) bool { return g.Last < uint64(len(l.events)) }) {
				o.t.Fatalf("seed %d: gap %+v after life %d: no such events were published", o.seed, *g, o.lifeOf)
			}
			o.position, o.run = g.Last+1, 0
			o.pending += g.Last - g.First + 1
			o.lost += g.Last - g.First + 1
		} else {
			o.event(ev)
		}
	}
}

func (o *observer) event(ev Event) {
	in := slices.IndexFunc(o.n.lives, func(l life) bool {
		return ev.Sequence < uint64(len(l.events)) && l.events[ev.Sequence].PublishedAt == ev.PublishedAt
	})
	if o.last != nil && in == o.lifeOf && ev.Sequence > o.last.Sequence && ev.Sequence < o.position { // a tick was faster
		o.pending -= o.position - ev.Sequence
		o.lost -= o.position - ev.Sequence
		o.position = ev.Sequence
	}
	switch {
	case in < 0:
		o.t.Fatalf("seed %d: delivered %d@%d, which was not published", o.seed, ev.Sequence, ev.PublishedAt)
	case ev.Missed != o.pending:
		o.t.Fatalf("seed %d: delivered %d of life %d with missed %d: want %d", o.seed, ev.Sequence, in, ev.Missed, o.pending)
	case o.last == nil:
	case in == o.lifeOf && o.unnoticed && ev.Sequence < o.position:
		o.unnoticed, o.run = false, 0
	case in < o.lifeOf || in == o.lifeOf && ev.Sequence != o.position:
		o.t.Fatalf("seed %d: delivered %d of life %d after %d of life %d: want %d", o.seed, ev.Sequence, in, o.last.Sequence, o.lifeOf, o.position)
	case in > o.lifeOf:
		// On two paths, a life cannot be distinguished from the one before if its first arrival
		// continues that one's sequences. An earlier event shows it afterwards.
		o.unnoticed = o.n.paths > 1 && ev.Sequence == o.position
		o.run = 0
	}
	o.last, o.lifeOf, o.position, o.pending = &ev, in, ev.Sequence+1, 0
	o.run++
}

// checkRecovery runs one simulation, and compares what was delivered with what was
// published: each event once and in order, or in a gap.
func checkRecovery(t *testing.T, seed uint64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	n := &network{rand: r, paths: 1 + r.IntN(2), loss: r.Float64() * 0.6, keeps: 1000}
	recovers, fromStart := r.IntN(4) > 0, r.IntN(2) == 0
	if r.IntN(3) == 0 {
		n.keeps = 1 + r.IntN(60)
	}
	if r.IntN(3) == 0 {
		n.failing = r.Float64() * 0.3
	}
	n.seq = newSequencer(n.paths > 1)
	n.seq.reportGaps = true
	if recovers {
		n.seq.recoverer = recoverer{start: n.replay, fromStart: fromStart}
		n.seq.held.timeout = recoverTimeout
	}
	lives := 1 + r.IntN(3)*r.IntN(2)
	end := time.Duration(0)
	for range lives {
		end = n.live(end + n.randUpTo(2*time.Second))
	}
	if recovers && fromStart {
		n.after(n.randUpTo(end), func() { n.seq.discover(1) })
	}
	o := &observer{t: t, seed: seed, n: n}
	for steps := 0; len(n.due) > 0 || n.seq.held.oldest != nil; steps++ {
		if steps > 100_000 {
			t.Fatalf("seed %d: no end", seed)
		}
		if h := n.seq.held.oldest; h != nil && (len(n.due) == 0 || h.deadline < n.due[0].at) {
			n.now = h.deadline
			n.seq.advance(n.now)
		} else {
			next := n.due[0]
			n.due = n.due[1:]
			n.now, n.seq.clock = next.at, next.at
			next.do()
		}
		n.seq.resume()
		o.drain()
	}
	o.complete(recovers, fromStart)
}

// complete checks the end of a simulation.
func (o *observer) complete(recovers, fromStart bool) {
	o.t.Helper()
	s, n := o.n.seq, o.n
	if s.stats.missed != o.lost || s.stats.recovered != o.repaired {
		o.t.Errorf("seed %d: stats %+v: want %d missed, %d recovered", o.seed, s.stats, o.lost, o.repaired)
	}
	if s.held.events != 0 || s.held.bytes != 0 || s.recoverer.active != 0 || s.peers[1] != nil && s.peers[1].heldBytes != 0 {
		o.t.Errorf("seed %d: held %+v, %d slices: want none", o.seed, s.held, s.recoverer.active)
	}
	final := len(n.lives) - 1
	size := uint64(len(n.lives[final].events))
	if o.last != nil && o.lifeOf == final && o.position != size {
		o.t.Errorf("seed %d: the end is %d: want %d", o.seed, o.position, size)
	}
	if !recovers || n.failing > 0 || n.keeps < 1000 {
		return
	}
	if final == 0 && o.lost > 0 {
		o.t.Errorf("seed %d: lost %d: want none", o.seed, o.lost)
	}
	if fromStart && o.last == nil || o.last != nil && o.lifeOf != final {
		o.t.Errorf("seed %d: the last event is %v: want one of life %d", o.seed, o.last, final)
	}
}

func TestRecoveryMatchesTheModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3000) {
		checkRecovery(t, seed)
	}
	checkRecovery(t, 6150)  // another life begins where ticks showed the one before to end
	checkRecovery(t, 96407) // a lost event arrives after another one that was lost
	for _, seed := range []uint64{301112, 312999, 366175, 376004, 388529, 465717} {
		checkRecovery(t, seed) // a tick arrives while the first event waits for the other path
	}
}

func FuzzRecovery(f *testing.F) {
	f.Add(uint64(0))
	f.Fuzz(checkRecovery)
}

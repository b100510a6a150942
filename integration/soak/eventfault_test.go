package soak

import (
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/latencyproxy"
	"github.com/dynplane/dynplane/internal/waittest"
)

// eventFaults are those that a plan can choose, by name. Each returns when it is over.
func (w *eventWorld) eventFaults() (names []string, faults map[string]func(*rand.Rand, time.Duration)) {
	type fault = func(*rand.Rand, time.Duration)
	one := func(places []*place, f func(*place, time.Duration)) fault {
		return func(r *rand.Rand, d time.Duration) { f(places[r.IntN(len(places))], d) }
	}
	faults = map[string]fault{
		"kill a publisher": one(w.publishers, w.killFor), "end a publisher": one(w.publishers, w.endFor), "freeze a publisher": one(w.publishers, w.freezeFor),
		"kill a subscriber": one(w.subscribers, w.killFor), "freeze a subscriber": one(w.subscribers, w.freezeFor),
		"cut the links":   func(_ *rand.Rand, d time.Duration) { w.disturb((*latencyproxy.Proxy).Cut, d) },
		"stall the links": func(_ *rand.Rand, d time.Duration) { w.disturb((*latencyproxy.Proxy).Stall, d) },
	}
	names = []string{
		"kill a publisher", "end a publisher", "freeze a publisher", "kill a subscriber", "freeze a subscriber", "cut the links", "stall the links",
	}
	switch {
	case w.nats != nil:
		faults["stop the server"] = func(_ *rand.Rand, d time.Duration) {
			w.serverFault((*natstest.Process).Stop, (*natstest.Process).Start, d)
		}
		faults["kill the server"] = func(_ *rand.Rand, d time.Duration) {
			w.serverFault((*natstest.Process).Kill, (*natstest.Process).Start, d)
		}
		faults["freeze the server"] = func(_ *rand.Rand, d time.Duration) {
			w.serverFault((*natstest.Process).Freeze, (*natstest.Process).Thaw, d)
		}
		names = append(names, "stop the server", "kill the server", "freeze the server", "kill the server")
	case w.brokers != nil:
		faults["kill a broker"], faults["freeze a broker"] = one(w.brokers, w.killFor), one(w.brokers, w.freezeFor)
		faults["end a broker"] = one(w.brokers, w.endFor)
		faults["kill both brokers"] = func(_ *rand.Rand, d time.Duration) { w.both(w.killFor, d) }
		faults["freeze both brokers"] = func(_ *rand.Rand, d time.Duration) { w.both(w.freezeFor, d) }
		names = append(names, "kill a broker", "freeze a broker", "end a broker", "kill both brokers", "freeze both brokers")
	}
	return names, faults
}

func (w *eventWorld) both(f func(*place, time.Duration), d time.Duration) {
	var both sync.WaitGroup
	for _, p := range w.brokers {
		both.Go(func() { f(p, d) })
	}
	both.Wait()
}

func (w *eventWorld) killFor(p *place, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer w.ledger.begin(p.name)()
	p.process.Load().kill()
	p.died()
	w.pause(d)
	w.start(p)
}

func (w *eventWorld) endFor(p *place, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer w.ledger.begin(p.name)()
	w.end(p)
	w.pause(d)
	w.start(p)
}

func (w *eventWorld) freezeFor(p *place, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer w.ledger.begin(p.name)()
	p.process.Load().signal(syscall.SIGSTOP)
	w.pause(d)
	p.process.Load().signal(syscall.SIGCONT)
}

func (w *eventWorld) serverFault(begin, end func(*natstest.Process), d time.Duration) {
	w.natsMu.Lock()
	defer w.natsMu.Unlock()
	defer w.ledger.begin("nats")()
	begin(w.nats)
	w.pause(d)
	end(w.nats)
}

func (w *eventWorld) disturb(f func(*latencyproxy.Proxy), d time.Duration) {
	defer w.ledger.begin("links")()
	w.far.each(f)
	w.pause(d)
	w.far.each((*latencyproxy.Proxy).Resume)
}

// eventLength is how long a fault lasts. A few are longer than registrations last.
func eventLength(random *rand.Rand) time.Duration {
	d := time.Duration(random.ExpFloat64() * float64(time.Second))
	if random.IntN(10) == 0 && *duration > time.Minute {
		return eventTTL + 2*time.Second + min(d, 5*time.Second)
	}
	return min(d, 6*time.Second)
}

// faults runs faults one after the other, for a duration.
func (w *eventWorld) faults(random *rand.Rand, d time.Duration) {
	names, faults := w.eventFaults()
	for begun := time.Now(); time.Since(begun) < d; {
		w.pause(time.Duration(random.ExpFloat64() * float64(400*time.Millisecond)))
		name, length := names[random.IntN(len(names))], eventLength(random)
		w.t.Logf("%s %s, for %v", time.Now().Format("15:04:05.000"), name, length.Round(time.Millisecond))
		faults[name](random, length)
	}
}

// loseTails lets the publishers rest during a fault by which events are lost. All
// subscribers must detect what they have lost at the end, without another event.
func (w *eventWorld) loseTails(random *rand.Rand) {
	name, length := "cut the links", 200*time.Millisecond+min(eventLength(random), eventTTL/2)
	switch {
	case random.IntN(2) == 0:
	case w.nats != nil:
		name = "kill the server"
	case w.brokers != nil:
		name = "kill both brokers"
	}
	w.t.Logf("%s %s, for %v, while the publishers stop publishing", time.Now().Format("15:04:05.000"), name, length.Round(time.Millisecond))
	_, faults := w.eventFaults()
	var running sync.WaitGroup
	running.Go(func() { faults[name](random, length) })
	w.pause(length / 2)
	w.command("rest")
	running.Wait()
	w.rest()
	w.await("the last fault, without further events", w.ledger.nexts(), true)
	w.command("publish")
}

// rest waits until all publishers rest.
func (w *eventWorld) rest() {
	waittest.Eventually(w.t, "all publishers rest", func() bool {
		w.command("rest") // to those that were started meanwhile
		w.ledger.mu.Lock()
		defer w.ledger.mu.Unlock()
		resting := 0
		for _, p := range w.ledger.living() {
			if p.rests {
				resting++
			}
		}
		return resting == len(w.publishers)
	})
}

// TestEventFaults proves that each subscriber delivers each event once and in order, or
// reports it as lost, and that nothing is lost that can be recovered.
func TestEventFaults(t *testing.T) {
	t.Parallel()
	plan := theSeed()
	transports := []string{direct, discovered, named, overNATS}
	if *duration < time.Minute { // there is time for two of them
		transports = [][]string{{direct, named}, {overNATS, discovered}}[plan%2]
	}
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			w := newEventWorld(t, transport, plan)
			t.Logf("repeat with make soak SEED=%d RUN='%s'", w.seed, t.Name())
			actors := []*rand.Rand{w.randomOf(1), w.randomOf(2)}
			w.compare(0, w.randomOf(3))
			begun := time.Now()
			for round := 1; round == 1 || time.Since(begun) < *duration && !t.Failed(); round++ {
				var running sync.WaitGroup
				for _, random := range actors {
					running.Go(func() { w.faults(random, 10*time.Second) })
				}
				running.Wait()
				w.loseTails(actors[0])
				w.compare(round, actors[0])
			}
			w.finish()
		})
	}
}

// await waits until no subscriber is behind.
func (w *eventWorld) await(what string, until map[uint64]uint64, onlyBegun bool) {
	begun := time.Now()
	text := w.ledger.behind(until, onlyBegun)
	for ; text != "" && time.Since(begun) < waittest.Patience; text = w.ledger.behind(until, onlyBegun) {
		w.pause(10 * time.Millisecond)
	}
	if text != "" {
		w.ledger.mu.Lock()
		w.ledger.violation("%v after %s: %s", time.Since(begun).Round(time.Second), what, text)
		w.ledger.mu.Unlock()
	} else if d := time.Since(begun); d > 15*time.Second {
		w.t.Logf("%v after %s all subscribers have caught up", d, what)
	}
}

// compare replaces a subscriber, waits until all receive from all, lets the publishers
// rest, and checks everything.
func (w *eventWorld) compare(round int, random *rand.Rand) {
	begun := time.Now()
	waittest.Eventually(w.t, "all publishers are open", func() bool { return len(w.ledger.nexts()) == len(w.publishers) })
	w.await("the last fault", w.ledger.nexts(), false)
	if round > 0 {
		p := w.subscribers[random.IntN(len(w.subscribers))]
		w.end(p)
		w.pause(2 * reconnecting)
		w.start(p)
	}
	w.await("a subscriber was replaced", w.ledger.nexts(), false)
	w.pause(time.Second)
	w.rest()
	w.await("the last event", w.ledger.nexts(), false)
	w.ledger.review()
	w.command("publish")
	l := w.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	w.t.Logf("%s round %d: %d events delivered, of which %d recovered, %d lost; all agree after %v",
		time.Now().Format("15:04:05.000"), round, l.delivered, l.recovered, l.lost, time.Since(begun).Round(10*time.Millisecond))
	w.checkMemory()
}

func (w *eventWorld) command(text string) {
	for _, p := range w.publishers {
		p.process.Load().command(text)
	}
}

// maxProcess is generous: the race detector multiplies the memory of a process.
const maxProcess = 512 << 20

func (w *eventWorld) checkMemory() {
	for _, places := range [][]*place{w.publishers, w.subscribers, w.brokers} {
		for _, p := range places {
			if size := p.process.Load().peakMemory(); size > maxProcess {
				w.ledger.violation("%s took %d MiB: want at most %d", p.name, size>>20, maxProcess>>20)
			}
		}
	}
}

// finish ends the publishers, whose last events must all arrive, and then the others.
func (w *eventWorld) finish() {
	for _, p := range w.publishers {
		w.end(p)
	}
	last := map[uint64]uint64{}
	w.ledger.mu.Lock()
	for id, p := range w.ledger.published {
		if p.ended && w.isLast(p) {
			last[id] = p.next
		}
	}
	w.ledger.mu.Unlock()
	w.await("the publishers ended", last, false)
	w.ledger.review()
	for _, places := range [][]*place{w.subscribers, w.brokers} {
		for _, p := range places {
			w.end(p)
		}
	}
}

// isLast reports whether p is the last life of its publisher.
func (w *eventWorld) isLast(p *publication) bool {
	for _, other := range w.ledger.published {
		if other.name == p.name && other.life > p.life {
			return false
		}
	}
	return true
}

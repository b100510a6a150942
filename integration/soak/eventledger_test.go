package soak

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dynplane/dynplane/eventplane"
)

// ledger has what publishers published, what subscribers recorded, and when there were
// faults, and judges the second by the others.
type ledger struct {
	t *testing.T

	mu         sync.Mutex
	published  map[uint64]*publication // by id
	receptions []*reception
	incidents  []*incident
	violations int
	delivered  uint64
	recovered  uint64
	lost       uint64
}

// publication is one life of a publisher.
type publication struct {
	name          string
	life, history uint64
	direct        bool
	opened        time.Time
	killed        time.Time
	next          uint64 // all events before have been published
	reports       []report
	rests, ended  bool
}

type report struct {
	next uint64
	at   int64 // in milliseconds
}

// reception is one life of a subscriber.
type reception struct {
	name    string
	options eventplane.SubscriberOptions
	far     bool
	started time.Time
	ready   int64 // in milliseconds; 0 before
	ended   bool
	from    map[uint64]*progress // by publisher
}

// progress is what a subscriber recorded of a publisher.
type progress struct {
	life        uint64
	first, next uint64 // all from first to before next was delivered or lost
	lost        []lostRange
	judged      int // of lost
}

type lostRange struct {
	first, last uint64
	at          time.Time
}

// incident is a fault of one target. to is zero until it has ended.
type incident struct {
	target   string
	from, to time.Time
}

func (l *ledger) violation(format string, args ...any) {
	if l.violations++; l.violations <= 20 {
		l.t.Errorf("%s %s", time.Now().Format("15:04:05.000"), fmt.Sprintf(format, args...))
	}
}

// begin records the beginning of a fault, and returns a function that records its end.
func (l *ledger) begin(target string) (end func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := &incident{target: target, from: time.Now()}
	l.incidents = append(l.incidents, i)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		i.to = time.Now()
	}
}

// reconnecting is added to each incident: connections return later than the peer.
const reconnecting = time.Second

// faulty returns for how long of the time from a to b targets had faults.
func (l *ledger) faulty(a, b time.Time, targets ...string) (sum time.Duration) {
	for _, i := range l.incidents {
		from, to := i.from, i.to.Add(reconnecting)
		if from.Before(a) {
			from = a
		}
		if i.to.IsZero() || to.After(b) {
			to = b
		}
		if to.After(from) && (len(targets) == 0 || slices.Contains(targets, i.target)) {
			sum += to.Sub(from)
		}
	}
	return sum
}

// ofPublisher processes a record of a publisher.
func (l *ledger) ofPublisher(p *publication, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	what, rest, _ := strings.Cut(line, " ")
	var n uint64
	var r report
	var err error
	switch what {
	case "open":
		_, err = fmt.Sscan(rest, &n)
		p.opened = time.Now()
		l.published[n] = p
	case "next":
		_, err = fmt.Sscan(rest, &r.next, &r.at)
		p.rests = false
		p.next = r.next
		p.reports = append(p.reports, r)
	case "rests", "ended":
		_, err = fmt.Sscan(rest, &p.next)
		p.rests, p.ended = true, what == "ended"
	default:
		err = fmt.Errorf("unknown record")
	}
	if err != nil {
		l.violation("%s: %q: %v", p.name, line, err)
	}
}

// ofSubscriber processes a record of a subscriber.
func (l *ledger) ofSubscriber(r *reception, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	what, rest, _ := strings.Cut(line, " ")
	var id, life, first, last uint64
	var err error
	switch what {
	case "ready":
		_, err = fmt.Sscan(rest, &r.ready)
	case "run":
		if _, err = fmt.Sscan(rest, &id, &life, &first, &last); err == nil {
			p := l.advance(r, id, first, last)
			if p.life != 0 && p.life != life {
				l.violation("%s: events of life %d and %d of publisher %d", r.name, p.life, life, id)
			}
			p.life = life
			l.delivered += last - first + 1
		}
	case "lost":
		if _, err = fmt.Sscan(rest, &id, &first, &last); err == nil {
			p := l.advance(r, id, first, last)
			p.lost = append(p.lost, lostRange{first, last, time.Now()})
			l.lost += last - first + 1
		}
	case "recovered":
		if _, err = fmt.Sscan(rest, &id, &first, &last); err == nil {
			l.checkRecovered(r, id, first, last)
		}
	default:
		err = fmt.Errorf("unknown record")
	}
	if err != nil {
		l.violation("%s: %q: %v", r.name, line, err)
	}
}

// advance checks that the events from first to last follow what was recorded.
func (l *ledger) advance(r *reception, id, first, last uint64) *progress {
	p := r.from[id]
	switch {
	case p == nil:
		p = &progress{first: first}
		r.from[id] = p
	case first < p.next:
		l.violation("%s: events %d to %d of publisher %d were delivered twice, or out of order: want %d", r.name, first, last, id, p.next)
	case first > p.next:
		l.violation("%s: events %d to %d of publisher %d are missing without a gap", r.name, p.next, first-1, id)
	}
	p.next = last + 1
	return p
}

func (l *ledger) checkRecovered(r *reception, id, first, last uint64) {
	l.recovered += last - first + 1
	p := r.from[id]
	if p == nil || first < p.first || last >= p.next || slices.ContainsFunc(p.lost, func(g lostRange) bool { return g.first <= last && first <= g.last }) {
		l.violation("%s: events %d to %d of publisher %d are reported as recovered, and were not delivered", r.name, first, last, id)
	}
}

// living returns the publishers that have not ended.
func (l *ledger) living() map[uint64]*publication {
	found := map[uint64]*publication{}
	for id, p := range l.published {
		if p.killed.IsZero() && !p.ended {
			found[id] = p
		}
	}
	return found
}

// behind describes the first subscriber that has not reached a sequence of each of
// these publishers, or is empty. Those that have not received an event of a publisher
// count unless onlyBegun.
func (l *ledger) behind(until map[uint64]uint64, onlyBegun bool) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.receptions {
		for id, want := range until {
			switch p := r.from[id]; {
			case r.ended, onlyBegun && p == nil:
			case r.ready == 0:
				return r.name + " is not ready"
			case p == nil:
				return fmt.Sprintf("%s has received nothing of %s, which is publisher %d", r.name, l.published[id].name, id)
			case p.next < want:
				return fmt.Sprintf("%s has received %d events of %s, which is publisher %d: want %d", r.name, p.next, l.published[id].name, id, want)
			}
		}
	}
	return ""
}

// nexts returns the sequences that the living publishers have reached.
func (l *ledger) nexts() map[uint64]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := map[uint64]uint64{}
	for id, p := range l.living() {
		found[id] = p.next
	}
	return found
}

// review judges losses and beginnings. All publishers rest.
func (l *ledger) review() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.receptions {
		for id, p := range r.from {
			pub := l.published[id]
			if pub == nil {
				l.violation("%s: events of publisher %d, which has not recorded its id", r.name, id)
				continue
			}
			if p.life != 0 && p.life != pub.life || pub.killed.IsZero() && p.next > pub.next {
				l.violation("%s: event %d of life %d of %s, which has published %d in life %d", r.name, p.next-1, p.life, pub.name, pub.next, pub.life)
			}
			for ; p.judged < len(p.lost); p.judged++ {
				l.judge(r, pub, p.lost[p.judged])
			}
		}
		if !r.ended {
			l.judgeBeginning(r)
		}
	}
	l.receptions = slices.DeleteFunc(l.receptions, func(r *reception) bool { return r.ended })
	for _, p := range l.published {
		if p.ended || !p.killed.IsZero() {
			p.reports = nil
		}
	}
}

// memoryOfFaults is how long before a loss its cause may have ended.
const memoryOfFaults = 20 * time.Second

// judge reports a loss that nothing explains.
func (l *ledger) judge(r *reception, p *publication, g lostRange) {
	since := g.at.Add(-memoryOfFaults)
	if !r.options.Recover && !r.options.FromStart {
		if l.faulty(since, g.at) == 0 {
			l.violation("%s: lost events %d to %d of %s without a fault", r.name, g.first, g.last, p.name)
		}
		return
	}
	targets := []string{p.name, "nats"}
	if r.far {
		targets = append(targets, "links")
	}
	switch {
	case g.last+p.history < p.next: // no longer in the history
	case !p.killed.IsZero() && p.killed.Before(g.at):
	case p.ended && l.faulty(since, g.at) > 0:
	case l.faulty(since, g.at, targets...) < 3*time.Second:
		l.violation("%s: lost events %d to %d of %s at %s, which it could recover", r.name, g.first, g.last, p.name, g.at.Format("15:04:05.000"))
	}
}

// judgeBeginning reports events that were published after Ready and are neither
// delivered nor lost, unless there was a fault.
func (l *ledger) judgeBeginning(r *reception) {
	for id, p := range l.living() {
		if r.ready == 0 || p.opened.IsZero() || !p.opened.Before(r.started) {
			continue
		}
		at := time.UnixMilli(r.ready)
		want, ok := p.nextAfter(r.ready)
		if r.options.FromStart {
			want = 0
			ok = ok && p.history > p.next
		}
		undisturbed := p.direct && r.options.Recover || l.faulty(r.started, at.Add(time.Second)) == 0
		if !ok || !undisturbed {
			continue
		}
		if have := r.from[id]; have == nil || have.first > want {
			l.violation("%s: event %d of %s was published after Ready (%s), and was not delivered: %+v", r.name, want, p.name, at.Format("15:04:05.000"), have)
		}
	}
}

// nextAfter returns a sequence that was published after a time, in milliseconds, if
// there is one.
func (p *publication) nextAfter(ms int64) (next uint64, ok bool) {
	i, _ := slices.BinarySearchFunc(p.reports, ms+1, func(r report, at int64) int { return int(r.at - at) })
	if i == len(p.reports) || p.reports[i].next >= p.next {
		return 0, false
	}
	return p.reports[i].next, true
}

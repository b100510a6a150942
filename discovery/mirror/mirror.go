package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/dynplane/dynplane/discovery"
)

const (
	atOnce     = 16               // operations on the target
	opTimeout  = 15 * time.Second // of one of them
	endTimeout = 15 * time.Second // to take all entries back
	tick       = 250 * time.Millisecond
)

// Options are the settings of Run. The zero value is useful.
type Options struct {
	// Queries select what is mirrored; all kinds if empty.
	Queries []discovery.Query

	// InSync, unless nil, is called once: when all that both sides had at the
	// beginning has been dealt with. Run waits for it.
	InSync func(Counts)

	// Logger hears of entries that cannot be registered; nil is silent. That a
	// backend is away is told by the logger of its store.
	Logger *slog.Logger
}

// Counts says what a mirror does about the entries of its source.
type Counts struct {
	Mirrored int // registered in the target by this mirror
	StandBy  int // there already, by their worker or another mirror
	Failing  int // in conflict with the target, or refused by it
}

// ErrSame is returned by Run for a client that would be mirrored onto itself.
var ErrSame = errors.New("mirror: source and target are the same client")

// Run mirrors until ctx is done, then takes back what it registered, for at
// most 15 s, and returns nil if it could. It fails when a watch cannot begin, or
// ends because its client was shut down or its connection closed. While a
// backend is away, what is in the target stays, and Run goes on by itself.
func Run(ctx context.Context, from, to *discovery.Client, o Options) error {
	if from == to {
		return ErrSame
	}
	if len(o.Queries) == 0 {
		o.Queries = []discovery.Query{
			{Kind: discovery.KindEndpoint}, {Kind: discovery.KindModel},
			{Kind: discovery.KindEventChannel}, {Kind: discovery.KindEventSource},
		}
	}
	return newMirror(to, o).run(ctx, from)
}

// mirror is the state of Run. One goroutine, that of Run, owns it; the others
// send on the channels.
type mirror struct {
	to     *discovery.Client
	opt    Options
	log    *slog.Logger
	marker string // the JSON of our mark

	wg      sync.WaitGroup
	changes chan change
	results chan result
	losses  chan loss

	entries  map[discovery.ID]*entry
	queue    []*entry            // to be looked at, each once
	busy     map[*entry]struct{} // an operation is under way
	waiting  map[*entry]struct{} // for their time
	blocked  map[*entry]struct{} // by a conflict, until something changes
	blind    int                 // watches of the target that are not synced
	unsynced int                 // watches of both that are not synced
	inSync   bool                // has been said
	failing  bool                // and nothing succeeded since
}

// side says whom a change is about.
type side bool

const (
	source side = false
	target side = true
)

func (s side) String() string {
	if s == source {
		return "source"
	}
	return "target"
}

type change struct {
	side   side
	event  discovery.Event
	marker string
	err    error
}

func newMirror(to *discovery.Client, o Options) *mirror {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &mirror{
		to: to, opt: o, log: o.Logger,
		marker:   strconv.Quote(strconv.FormatUint(discovery.NewInstanceID(), 16)),
		changes:  make(chan change),
		results:  make(chan result, atOnce),
		losses:   make(chan loss),
		entries:  map[discovery.ID]*entry{},
		busy:     map[*entry]struct{}{},
		waiting:  map[*entry]struct{}{},
		blocked:  map[*entry]struct{}{},
		blind:    len(o.Queries),
		unsynced: 2 * len(o.Queries),
	}
}

func (m *mirror) run(ctx context.Context, from *discovery.Client) error {
	watching, stop := context.WithCancel(ctx)
	// What is under way when ctx is done is brought to its end: a write that is
	// given up may have happened.
	operating, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	for _, q := range m.opt.Queries {
		m.wg.Go(func() { m.follow(watching, source, from, q) })
		m.wg.Go(func() { m.follow(watching, target, m.to, q) })
	}
	err := m.loop(watching, operating)
	stop()
	defer time.AfterFunc(endTimeout, giveUp).Stop()
	err = errors.Join(err, m.takeBack(watching, operating))
	m.wg.Wait()
	return err
}

func (m *mirror) follow(ctx context.Context, s side, c *discovery.Client, q discovery.Query) {
	for ev, err := range c.Watch(ctx, q) {
		ch := change{side: s, event: ev, err: err}
		if ev.Type == discovery.Added {
			ch.marker = markerOf(ev.Instance)
		}
		select {
		case m.changes <- ch:
		case <-ctx.Done():
			return
		}
	}
}

func (m *mirror) loop(watching, operating context.Context) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		m.dispatch(operating)
		m.tellInSync()
		select {
		case <-watching.Done():
			return nil
		case ch := <-m.changes:
			switch {
			case watching.Err() != nil:
				return nil
			case ch.err != nil:
				return fmt.Errorf("mirror: %v: %w", ch.side, ch.err)
			}
			m.apply(ch)
		case r := <-m.results:
			m.finish(watching, r)
		case l := <-m.losses:
			m.lose(l)
		case <-ticker.C:
			m.wake()
		}
	}
}

// dispatch starts what is to be done, once the target is known.
func (m *mirror) dispatch(ctx context.Context) {
	for m.blind == 0 && len(m.queue) > 0 && len(m.busy) < atOnce {
		e := m.queue[0]
		m.queue = m.queue[1:]
		e.queued = false
		if do := m.decide(e); do != nil {
			m.busy[e] = struct{}{}
			e.stirred, e.lost = false, false
			m.wg.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, opTimeout)
				defer cancel()
				m.results <- do(ctx)
			})
		}
	}
}

func (m *mirror) tellInSync() {
	if m.inSync || m.unsynced > 0 || len(m.queue)+len(m.busy) > 0 {
		return
	}
	m.inSync = true
	if m.opt.InSync != nil {
		m.opt.InSync(m.counts())
	}
}

func (m *mirror) counts() (c Counts) {
	for _, e := range m.entries {
		switch {
		case e.reg != nil:
			c.Mirrored++
		case e.source == nil:
		case e.target == foreign:
			c.StandBy++
		default:
			c.Failing++
		}
	}
	return c
}

// takeBack unregisters everything as if the source had nothing.
func (m *mirror) takeBack(watching, operating context.Context) error {
	m.blind = 0
	for _, e := range m.entries {
		e.source, e.due = nil, time.Time{}
		m.enqueue(e)
	}
	for m.dispatch(operating); len(m.busy) > 0; m.dispatch(operating) {
		m.finish(watching, <-m.results)
	}
	left, err := 0, error(nil)
	for _, e := range m.entries {
		if e.reg != nil {
			left, err = left+1, e.err
		}
	}
	if left > 0 {
		return fmt.Errorf("mirror: %d entries could not be taken back and stay until their lease runs out: %w", left, err)
	}
	return nil
}

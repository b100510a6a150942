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
	maxOperations    = 16               // on the target at the same time
	operationTimeout = 15 * time.Second // of one of them
	shutdownTimeout  = 15 * time.Second // for unregistering all entries
	tick             = 250 * time.Millisecond
)

// Options are the settings of Run. The zero value is useful.
type Options struct {
	// Queries select the registrations to mirror; empty means all kinds.
	Queries []discovery.Query

	// InSync, unless nil, is called once, when the mirror has processed all
	// registrations that either side had at the beginning. Run waits for it to
	// return.
	InSync func(Counts)

	// Logger receives warnings about entries that cannot be registered; nil
	// disables logging. The store of a backend logs that the backend is
	// unreachable.
	Logger *slog.Logger
}

// Counts are the numbers of registrations in the source, by their state in the
// target.
type Counts struct {
	Mirrored int // registered by this mirror
	StandBy  int // registered by their worker or by another mirror
	Failing  int // in conflict with the target, or refused by it
}

// ErrSame is returned by Run if source and target are the same client.
var ErrSame = errors.New("mirror: source and target are the same client")

// Run mirrors until ctx is done. It then unregisters its entries, for at most
// 15 s, and returns nil if it could. It returns an error if a watch cannot begin,
// or ends because its client was shut down or its connection closed. While a
// backend is unreachable, the entries in the target stay, and Run continues by
// itself.
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

// mirror is the state of Run. It belongs to the goroutine of Run; the others send
// to it through the channels.
type mirror struct {
	to     *discovery.Client
	opt    Options
	log    *slog.Logger
	marker string // the JSON of the field

	wg      sync.WaitGroup
	changes chan change
	results chan result
	losses  chan loss

	entries map[discovery.ID]*entry
	inPhase [phases]map[*entry]struct{}
	queue   []*entry // those in phase queued, in order

	unsynced        int  // watches that are not synced
	unsyncedTargets int  // those of them on the target
	inSync          bool // and reported
	failing         bool // an operation failed and none has succeeded since
}

// side is the backend that a change comes from.
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

// change is an event of a watch, or the error that ended it.
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
	m := &mirror{
		to: to, opt: o, log: o.Logger,
		marker:          strconv.Quote(strconv.FormatUint(discovery.NewInstanceID(), 16)),
		changes:         make(chan change),
		results:         make(chan result, maxOperations),
		losses:          make(chan loss),
		entries:         map[discovery.ID]*entry{},
		unsynced:        2 * len(o.Queries),
		unsyncedTargets: len(o.Queries),
	}
	for p := range m.inPhase {
		m.inPhase[p] = map[*entry]struct{}{}
	}
	return m
}

func (m *mirror) run(ctx context.Context, from *discovery.Client) error {
	watching, stop := context.WithCancel(ctx)
	// Operations that are under way when ctx is done are completed: a write that
	// is abandoned may have been executed.
	operations, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	for _, q := range m.opt.Queries {
		m.wg.Go(func() { m.follow(watching, source, from, q) })
		m.wg.Go(func() { m.follow(watching, target, m.to, q) })
	}
	err := m.loop(watching, operations)
	stop()
	defer time.AfterFunc(shutdownTimeout, abandon).Stop()
	err = errors.Join(err, m.unregisterAll(watching, operations))
	m.wg.Wait()
	return err
}

// follow sends the events of a watch to the loop, until ctx is done.
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

// loop processes events until ctx is done or a watch ends.
func (m *mirror) loop(watching, operations context.Context) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		m.dispatch(operations)
		m.reportInSync()
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
			m.queueDue()
		}
	}
}

// reportInSync calls InSync once all watches are synced and nothing is left to do.
func (m *mirror) reportInSync() {
	if m.inSync || m.unsynced > 0 || len(m.queue) > 0 || len(m.inPhase[operating]) > 0 {
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
		case e.target == others:
			c.StandBy++
		default:
			c.Failing++
		}
	}
	return c
}

// unregisterAll unregisters all entries, as if the source had become empty.
func (m *mirror) unregisterAll(watching, operations context.Context) error {
	m.unsyncedTargets = 0
	for _, e := range m.entries {
		e.source, e.due = nil, time.Time{}
		m.unblock(e)
	}
	for m.dispatch(operations); len(m.inPhase[operating]) > 0; m.dispatch(operations) {
		m.finish(watching, <-m.results)
	}
	left, err := 0, error(nil)
	for _, e := range m.entries {
		if e.reg != nil {
			left, err = left+1, e.failure.err
		}
	}
	if left > 0 {
		return fmt.Errorf("mirror: unregister: %d entries stay until their leases expire: %w", left, err)
	}
	return nil
}

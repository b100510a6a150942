package mirror

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/dynplane/dynplane/discovery"
)

const (
	// settle is how long the watch of the target gets to show who took an entry
	// over, before what it shows is believed.
	settle = 5 * time.Second

	// A conflict is looked at again so long after a change at the latest, at
	// random, so that two in conflict with each other do not keep in step.
	stirWait = time.Second

	firstRetry = time.Second
	lastRetry  = 8 * time.Second
)

// holder says what the watch of the target has shown last of an entry. Since it
// may lag behind what was written, whether we hold an entry is told by reg.
type holder uint8

const (
	nobody holder = iota
	ours
	foreign // a worker's, or another mirror's
)

// entry is what is known about one id.
type entry struct {
	id      discovery.ID
	source  *discovery.Instance // nil: not there, or mirrored itself
	version int                 // counts the values of source
	target  holder

	reg  *discovery.Registration // ours; nil: not held
	held int                     // the version that reg has

	due      time.Time // not to be tried before
	failures int       // in a row
	err      error     // the last
	warned   bool      // of it

	queued  bool
	stirred bool // while busy: something at its place changed in the target
	lost    bool // while busy: reg has ended
}

// result is what became of an operation on the target.
type result struct {
	e       *entry
	reg     *discovery.Registration // nil: unregistered
	version int
	err     error
}

// loss says that a registration has ended.
type loss struct {
	e   *entry
	reg *discovery.Registration
}

func (m *mirror) enqueue(e *entry) {
	if !e.queued {
		e.queued = true
		m.queue = append(m.queue, e)
	}
}

// apply notes what a watch has seen.
func (m *mirror) apply(ch change) {
	if ch.event.Type == discovery.Synced {
		m.unsynced--
		if ch.side == target {
			m.blind--
		}
		return
	}
	id := ch.event.Instance.ID()
	e := m.entries[id]
	if e == nil {
		e = &entry{id: id}
		m.entries[id] = e
	}
	added := ch.event.Type == discovery.Added
	switch {
	case ch.side == target:
		e.target = nobody
		if added {
			e.target = foreign
			if ch.marker == m.marker {
				e.target = ours
			}
		}
		if e.target != ours {
			m.stir(id)
		}
	case added && ch.marker == "":
		e.source = &ch.event.Instance
		e.version++
		delete(m.blocked, e)
	default:
		e.source = nil
		if e.reg != nil {
			e.due = time.Time{}
		}
	}
	m.enqueue(e)
}

// stir has the entries tried again that a change of the target may have freed
// of their conflict.
func (m *mirror) stir(id discovery.ID) {
	near := func(e *entry) bool { return e.id.Kind == id.Kind && e.id.Scope == id.Scope }
	for e := range m.busy {
		e.stirred = e.stirred || near(e)
	}
	for e := range m.blocked {
		if near(e) {
			m.retryStirred(e)
		}
	}
}

func (m *mirror) retryStirred(e *entry) {
	delete(m.blocked, e)
	e.due = time.Now().Add(rand.N(stirWait))
	m.enqueue(e)
}

// wake looks again at those whose time has come.
func (m *mirror) wake() {
	now := time.Now()
	for e := range m.waiting {
		if !now.Before(e.due) {
			m.enqueue(e)
		}
	}
}

// decide returns what is to be done about an entry now, or nil. It forgets one
// that is nowhere.
func (m *mirror) decide(e *entry) func(context.Context) result {
	delete(m.waiting, e)
	if _, busy := m.busy[e]; busy {
		return nil // looked at again at the end of that
	}
	if e.source == nil {
		delete(m.blocked, e)
	}
	_, blocked := m.blocked[e]
	switch {
	case e.source == nil && e.reg == nil:
		if e.target == nobody {
			delete(m.entries, e.id)
		}
		return nil
	case e.source != nil && (blocked || e.target == foreign || e.reg != nil && e.held == e.version):
		// Held and foreign: taken over, which its lease will say; or the watch
		// lags behind our own write.
		return nil
	case time.Now().Before(e.due):
		m.waiting[e] = struct{}{}
		return nil
	case e.source == nil:
		reg := e.reg
		return func(ctx context.Context) result { return result{e: e, err: reg.Unregister(ctx)} }
	}
	in, former, version := *e.source, e.reg, e.version
	return func(ctx context.Context) result {
		reg, err := m.register(ctx, in, former)
		return result{e: e, reg: reg, version: version, err: err}
	}
}

// register registers an entry, or a new value of one that is held.
func (m *mirror) register(ctx context.Context, in discovery.Instance, former *discovery.Registration) (*discovery.Registration, error) {
	in, err := marked(in, m.marker)
	if err != nil {
		return nil, err
	}
	if former != nil && in.ID().Kind == discovery.KindEventSource { // which never changes
		if err := former.Unregister(ctx); err != nil {
			return nil, err
		}
	}
	reg, err := m.to.RegisterInstance(ctx, in)
	if isConflict(err) && former != nil { // the source has that value no more
		err = errors.Join(err, former.Unregister(ctx))
	}
	return reg, err
}

func isConflict(err error) bool {
	return errors.Is(err, discovery.ErrModelConflict) || errors.Is(err, discovery.ErrSourceConflict)
}

// finish notes what became of an operation.
func (m *mirror) finish(watching context.Context, r result) {
	e := r.e
	delete(m.busy, e)
	m.enqueue(e)
	switch {
	case r.err != nil:
		if e.lost {
			e.reg = nil
		}
		m.fail(e, r.err)
		return
	case r.reg != nil:
		m.wg.Go(func() { m.await(watching, loss{e, r.reg}) })
	}
	e.reg, e.held = r.reg, r.version
	e.failures, e.err, e.warned, m.failing = 0, nil, false, false
}

func (m *mirror) fail(e *entry, err error) {
	e.err = err
	conflict := isConflict(err)
	// What keeps many from being registered is told once, and what one has of
	// its own is told of each.
	if !e.warned && (conflict || !m.failing) {
		e.warned = true
		m.log.Warn("mirror: an entry cannot be registered or removed in the target; trying on",
			"kind", e.id.Kind.String(), "path", e.id.Path(), "error", err)
	}
	switch {
	case !conflict:
		m.failing = true
		e.due = time.Now().Add(min(firstRetry<<min(e.failures, 10), lastRetry))
		e.failures++
	case e.stirred:
		m.retryStirred(e)
	default:
		m.blocked[e] = struct{}{}
	}
}

// await tells when a registration has ended.
func (m *mirror) await(ctx context.Context, l loss) {
	_ = l.reg.Wait(ctx) // what counts is that it has ended
	select {
	case m.losses <- l:
	case <-ctx.Done():
	}
}

// lose notes that a registration has ended. Who took it over may not have been
// shown by the watch of the target yet.
func (m *mirror) lose(l loss) {
	e := l.e
	if e.reg != l.reg {
		return // it was we who ended it
	}
	if _, busy := m.busy[e]; busy {
		e.lost = true
		return
	}
	e.reg = nil
	e.due = time.Now().Add(settle)
	m.enqueue(e)
}

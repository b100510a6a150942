package mirror

import (
	"context"
	"errors"
	"time"

	"github.com/dynplane/dynplane/discovery"
)

const (
	firstRetry = time.Second
	maxRetry   = 8 * time.Second
)

// result is the outcome of an operation on the target.
type result struct {
	e       *entry
	reg     *discovery.Registration // nil after unregistering
	version int                     // the version that was registered
	err     error
}

// loss reports that a registration has ended.
type loss struct {
	e   *entry
	reg *discovery.Registration
}

// dispatch takes entries from the queue once all watches of the target are
// synced, and starts their operations.
func (m *mirror) dispatch(ctx context.Context) {
	for m.unsyncedTargets == 0 && len(m.queue) > 0 && len(m.inPhase[operating]) < maxOperations {
		e := m.queue[0]
		m.queue = m.queue[1:]
		switch s := e.state(); {
		case s == absent && e.target == vacant:
			m.forget(e)
		case s == absent, s == standBy, s == held:
			m.enter(e, idle)
		case time.Now().Before(e.due):
			m.enter(e, delayed)
		default:
			m.start(ctx, e, m.operation(e, s))
		}
	}
}

// forget drops an entry that neither side has.
func (m *mirror) forget(e *entry) {
	delete(m.inPhase[e.phase], e)
	delete(m.entries, e.id)
}

func (m *mirror) start(ctx context.Context, e *entry, do func(context.Context) result) {
	m.enter(e, operating)
	e.nearbyChanged, e.ended = false, false
	m.wg.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, operationTimeout)
		defer cancel()
		m.results <- do(ctx)
	})
}

// operation returns what brings an entry out of the state wanted, stale or
// unwanted. It runs in a goroutine of its own and therefore uses copies.
func (m *mirror) operation(e *entry, s state) func(context.Context) result {
	former := e.reg
	if s == unwanted {
		return func(ctx context.Context) result { return result{e: e, err: former.Unregister(ctx)} }
	}
	in, version := *e.source, e.version
	return func(ctx context.Context) result {
		reg, err := m.register(ctx, in, former)
		return result{e: e, reg: reg, version: version, err: err}
	}
}

// register registers an instance, or a new value of one that is held.
func (m *mirror) register(ctx context.Context, in discovery.Instance, former *discovery.Registration) (*discovery.Registration, error) {
	in, err := marked(in, m.marker)
	if err != nil {
		return nil, err
	}
	if former == nil {
		return m.to.RegisterInstance(ctx, in)
	}
	// A registration of an event source cannot change its value.
	if in.ID().Kind == discovery.KindEventSource {
		if err := former.Unregister(ctx); err != nil {
			return nil, err
		}
		return m.to.RegisterInstance(ctx, in)
	}
	err = former.UpdateInstance(ctx, in)
	if isConflict(err) { // the source no longer has the former value
		err = errors.Join(err, former.Unregister(ctx))
	}
	return former, err
}

// isConflict reports whether the target already has a registration that excludes the
// one that was to be written.
func isConflict(err error) bool {
	return errors.Is(err, discovery.ErrModelConflict) || errors.Is(err, discovery.ErrSourceConflict)
}

// isUnstorable reports whether the target can never hold the entry. Its source
// then stays unmirrored, and no other entry is affected.
func isUnstorable(err error) bool { return errors.Is(err, discovery.ErrUnstorable) }

// finish processes the end of an operation.
func (m *mirror) finish(watching context.Context, r result) {
	e := r.e
	m.enter(e, idle)
	if r.err != nil {
		m.fail(e, r)
		return
	}
	if r.reg != nil && r.reg != e.reg {
		m.wg.Go(func() { m.awaitEnd(watching, loss{e, r.reg}) })
	}
	e.reg, e.held = r.reg, r.version
	e.failure, m.failing = failure{}, false
	m.enqueue(e)
}

// fail processes a failed operation. A conflict is not retried before something has
// changed that may end it, and an entry that the target cannot hold not before its
// source has changed; other failures are retried with exponential back-off.
func (m *mirror) fail(e *entry, r result) {
	if e.ended {
		e.reg = nil
	}
	unstorable := isUnstorable(r.err)
	conflict := isConflict(r.err)
	m.warn(e, r.err, conflict || unstorable)
	switch {
	case !conflict && !unstorable:
		m.failing = true
		e.due = time.Now().Add(min(firstRetry<<min(e.failure.count, 10), maxRetry))
		e.failure.count++
		m.enqueue(e)
	case e.source == nil || e.version != r.version: // the value in conflict is gone
		m.enqueue(e)
	case e.nearbyChanged && conflict:
		m.retryConflict(e)
	default:
		m.enter(e, blocked)
	}
}

// warn logs a failure unless it has been logged already. Conflicts, and entries that
// the target cannot hold, are logged one by one, and other failures, which tend to
// concern all entries, for the first one only.
func (m *mirror) warn(e *entry, err error, ofEntry bool) {
	e.failure.err = err
	if e.failure.warned || !ofEntry && m.failing {
		return
	}
	e.failure.warned = true
	log := m.log.With("kind", e.id.Kind.String(), "path", e.id.Path(), "error", err)
	if isUnstorable(err) {
		log.Warn("mirror: the target cannot hold this registration, which is not mirrored")
		return
	}
	log.Warn("mirror: registering or unregistering in the target failed, retrying")
}

// awaitEnd reports the end of a registration, whatever caused it.
func (m *mirror) awaitEnd(ctx context.Context, l loss) {
	_ = l.reg.Wait(ctx)
	select {
	case m.losses <- l:
	case <-ctx.Done():
	}
}

package soak

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/internal/waittest"
)

const (
	stableIDs    = 10 // of each owner: only crashes end them
	contestedIDs = 12 // which all owners register and unregister
	callTime     = 6 * time.Second
)

// owner is a client that registers many ids. Its goroutine makes one call at a time.
type owner struct {
	name    string
	history *history
	random  *rand.Rand
	dial    func() (*discovery.Client, *nats.Conn)
	client  *discovery.Client
	conn    *nats.Conn
	first   uint64 // of its stable ids
	crashes bool
	waits   sync.WaitGroup

	handles  []*handle // that it may update or unregister
	unstable []*handle // whose Unregister has failed
	dead     []*discovery.Client

	mu          sync.Mutex
	isolated    bool
	isolatedEnd time.Time
}

func (o *owner) isolate(on bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.isolated, o.isolatedEnd = on, time.Now()
}

// partitioned reports whether the owner is or was unreachable within a time.
func (o *owner) partitioned(within time.Duration) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.isolated || !o.isolatedEnd.IsZero() && time.Since(o.isolatedEnd) < within
}

func endpointID(instance uint64) discovery.ID {
	e := discovery.Endpoint{Scope: discovery.Scope{Namespace: "soak", Component: "worker", Endpoint: fmt.Sprintf("e%d", instance%3)}}
	return discovery.Instance{InstanceID: instance, Spec: e}.ID()
}

// start connects and registers the stable ids.
func (o *owner) start(ctx context.Context) {
	o.client, o.conn = o.dial()
	for i := range uint64(stableIDs) {
		o.register(ctx, endpointID(o.first+i), callTime)
	}
}

// churn makes random calls until ctx is done.
func (o *owner) churn(ctx, life context.Context) {
	for ctx.Err() == nil {
		select {
		case <-time.After(time.Duration(50+o.random.IntN(250)) * time.Millisecond):
		case <-ctx.Done():
			return
		}
		o.act(life)
	}
}

func (o *owner) act(ctx context.Context) {
	patience := callTime
	if o.random.IntN(6) == 0 { // a caller that gives up at any moment
		patience = time.Duration(o.random.IntN(60)) * time.Millisecond
	}
	contested := endpointID(1 + o.random.Uint64N(contestedIDs))
	switch n := o.random.IntN(100); {
	case n < 25:
		o.register(ctx, contested, patience)
	case n < 30: // one id twice at once
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() { o.register(ctx, contested, patience) })
		}
		both.Wait()
	case n < 75:
		if h := o.pick(func(*handle) bool { return true }); h != nil {
			_ = o.update(ctx, h, patience) // settle repeats it
		}
	case n < 98 || !o.crashes:
		if h := o.pick(func(h *handle) bool { return h.id.Instance <= contestedIDs }); h != nil {
			o.unregister(ctx, h, patience)
		}
	default:
		o.crash(ctx)
	}
}

// pick returns a random handle that has not ended, or nil.
func (o *owner) pick(ok func(*handle) bool) *handle {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.handles = slices.DeleteFunc(o.handles, o.history.doomed)
	var fit []*handle
	for _, h := range o.handles {
		if ok(h) {
			fit = append(fit, h)
		}
	}
	if len(fit) == 0 {
		return nil
	}
	return fit[o.random.IntN(len(fit))]
}

// register registers an id. patience bounds the call, and life the wait for the
// end of the registration.
func (o *owner) register(life context.Context, id discovery.ID, patience time.Duration) {
	h := o.history.begin(o, id)
	call, cancel := context.WithTimeout(life, patience)
	defer cancel()
	reg, err := o.client.RegisterAs(call, id.Instance, h.spec(0))
	if err != nil {
		o.history.failed(h)
		return
	}
	o.history.mu.Lock()
	h.reg = reg
	o.history.mu.Unlock()
	o.mu.Lock()
	o.handles = append(o.handles, h)
	o.mu.Unlock()
	o.waits.Go(func() {
		if err := reg.Wait(life); life.Err() == nil {
			o.history.end(h, err)
		}
	})
}

// update writes the next version. After a failure the entry may have either; a
// later update decides.
func (o *owner) update(ctx context.Context, h *handle, patience time.Duration) error {
	call, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	o.history.mu.Lock()
	h.tried++
	version := h.tried
	o.history.mu.Unlock()
	err := h.reg.Update(call, h.spec(version))
	if err == nil {
		o.history.mu.Lock()
		h.version = version
		o.history.mu.Unlock()
	}
	return err
}

func (o *owner) unregister(ctx context.Context, h *handle, patience time.Duration) {
	o.history.doom(h)
	call, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := h.reg.Unregister(call); err != nil {
		o.unstable = append(o.unstable, h)
	}
}

// crash closes the connection without unregistering anything, as a process that is
// killed does, and starts the owner again under the same ids.
func (o *owner) crash(ctx context.Context) {
	for _, h := range o.handles {
		o.history.doom(h)
	}
	o.handles, o.unstable = nil, nil
	o.conn.Close()
	o.dead = append(o.dead, o.client)
	o.start(ctx)
}

// settle completes the calls that have failed.
func (o *owner) settle(life context.Context) {
	ctx, cancel := context.WithTimeout(life, o.history.settling())
	defer cancel()
	for _, h := range o.unstable {
		for err := h.reg.Unregister(ctx); err != nil; err = h.reg.Unregister(ctx) {
			if ctx.Err() != nil {
				o.history.violation("%s: unregister %s: %v", o.name, h.id.Path(), err)
				break
			}
		}
	}
	o.unstable = nil
	for _, h := range o.handles {
		for !o.history.doomed(h) && h.version != h.tried {
			err := o.update(ctx, h, callTime)
			if ctx.Err() != nil {
				o.history.violation("%s: update %s: %v", o.name, h.id.Path(), err)
				break
			}
			if errors.Is(err, discovery.ErrTakenOver) {
				break
			}
		}
	}
	for i := range uint64(stableIDs) { // those that could not be registered in a fault
		id := endpointID(o.first + i)
		if !slices.ContainsFunc(o.handles, func(h *handle) bool { return h.id == id && !o.history.doomed(h) }) {
			o.register(life, id, o.history.settling())
		}
	}
	for _, c := range o.dead {
		o.shutdownDead(c)
	}
	o.dead = nil
}

// shutdownDead releases what is left of a client whose connection is closed.
func (o *owner) shutdownDead(c *discovery.Client) {
	ctx, cancel := context.WithTimeout(context.Background(), waittest.Patience)
	defer cancel()
	_ = c.Shutdown(ctx) // nothing can be unregistered
}

package eventplane

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/internal/wait"
)

// The waits between watches that fail.
const (
	watchRetryFirst = 100 * time.Millisecond
	watchRetryMost  = 5 * time.Second
)

// follower keeps a driver connected to the endpoints that discovery knows. It
// owns the one goroutine of the package, which stop ends and waits for.
//
// When the watch fails, what is connected stays so: stale is better than
// partial. The next watch tells what has gone meanwhile.
type follower struct {
	discovery *discovery.Client
	query     discovery.Query
	endpoints endpointsFunc
	to        driver.Connector
	log       *slog.Logger

	known        map[discovery.ID]followed
	uses         map[string]int // how many channels name an endpoint
	incompatible atomic.Int64   // channels there now that this transport cannot hear
	warned       bool

	synced chan struct{} // closed once the first full set is connected
	cancel context.CancelFunc
	done   chan struct{}
}

// endpointsFunc returns the endpoints to connect to for a channel, and whether
// the channel is one that this transport should but cannot reach.
type endpointsFunc func(discovery.EventChannel) (endpoints []string, incompatible bool)

// followed is what is known of one channel.
type followed struct {
	endpoints    []string
	incompatible bool
}

// start begins to follow. The fields above known are set.
func (f *follower) start() {
	ctx, cancel := context.WithCancel(context.Background())
	f.known, f.uses = map[discovery.ID]followed{}, map[string]int{}
	f.synced, f.done, f.cancel = make(chan struct{}), make(chan struct{}), cancel
	go f.run(ctx)
}

// stop is idempotent. What is connected stays so: its driver is closed next.
func (f *follower) stop() {
	f.cancel()
	<-f.done
}

// wait blocks until the first full set is connected.
func (f *follower) wait(ctx context.Context) error {
	select {
	case <-f.synced:
		return nil
	case <-f.done:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *follower) run(ctx context.Context) {
	defer close(f.done)
	retry := watchRetryFirst
	for {
		complete, err := f.watch(ctx)
		if ctx.Err() != nil {
			return
		}
		if complete || retry == watchRetryFirst {
			retry = watchRetryFirst
			f.log.Warn("eventplane: the watch of channels failed; connections stay as they are until it is back",
				"scope", f.query.Scope.String(), "topic", f.query.Topic, "error", err)
		}
		if wait.Sleep(ctx, retry) != nil {
			return
		}
		retry = min(2*retry, watchRetryMost)
	}
}

// watch follows one watch to its end, and reports whether it was ever complete.
func (f *follower) watch(ctx context.Context) (complete bool, err error) {
	listed := map[discovery.ID]bool{}
	for ev, err := range f.discovery.Watch(ctx, f.query) {
		if err != nil {
			return complete, err
		}
		switch ev.Type {
		case discovery.Added:
			listed[ev.Instance.ID()] = true
			f.added(ev.Instance)
		case discovery.Removed:
			delete(listed, ev.Instance.ID())
			f.set(ev.Instance.ID(), followed{})
		case discovery.Synced:
			complete = true
			f.sync(listed)
		}
	}
	return complete, nil
}

// sync drops what did not come back.
func (f *follower) sync(listed map[discovery.ID]bool) {
	for id := range f.known {
		if !listed[id] {
			f.set(id, followed{})
		}
	}
	select {
	case <-f.synced:
	default:
		close(f.synced)
	}
}

func (f *follower) added(in discovery.Instance) {
	ch, ok := in.Spec.(discovery.EventChannel)
	if !ok {
		return
	}
	endpoints, incompatible := f.endpoints(ch)
	f.set(in.ID(), followed{distinct(endpoints), incompatible})
	if incompatible && !f.warned {
		f.warned = true
		f.log.Warn("eventplane: a publisher in scope is not heard, it uses another transport; more of them are only counted",
			"channel", in.ID().Path(), "transport", ch.Transport.Kind(), "address", ch.Transport.Address(), "remedy", remedy(ch.Transport))
	}
}

func remedy(t discovery.Transport) string {
	switch t.(type) {
	case discovery.NATS:
		return "set DYN_EVENT_PLANE=nats here, or zmq there"
	case discovery.ZMQBroker:
		return "set DYN_ZMQ_BROKER_URL or DYN_ZMQ_BROKER_ENABLED here as it is set there"
	}
	return "set the same transport here and there"
}

// set replaces what is known of a channel; the zero followed is one that has
// gone. New connections come before old ones go, so that an endpoint that stays
// is not interrupted.
func (f *follower) set(id discovery.ID, now followed) {
	old := f.known[id]
	now.endpoints = f.connect(id, now.endpoints)
	f.release(old.endpoints)
	f.incompatible.Add(asInt(now.incompatible) - asInt(old.incompatible))
	if len(now.endpoints) == 0 && !now.incompatible {
		delete(f.known, id)
		return
	}
	f.known[id] = now
}

func asInt(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// connect returns the endpoints that could be. ZMQ connects in the background,
// so one that could not is malformed and would fail again.
func (f *follower) connect(id discovery.ID, endpoints []string) []string {
	connected := endpoints[:0]
	for _, endpoint := range endpoints {
		if f.uses[endpoint] == 0 {
			if err := f.to.Connect(endpoint); err != nil {
				f.log.Warn("eventplane: cannot connect to a channel", "channel", id.Path(), "endpoint", endpoint, "error", err)
				continue
			}
			f.log.Debug("eventplane: connected", "channel", id.Path(), "endpoint", endpoint)
		}
		f.uses[endpoint]++
		connected = append(connected, endpoint)
	}
	return connected
}

func (f *follower) release(endpoints []string) {
	for _, endpoint := range endpoints {
		if f.uses[endpoint]--; f.uses[endpoint] > 0 {
			continue
		}
		delete(f.uses, endpoint)
		if err := f.to.Disconnect(endpoint); err != nil {
			f.log.Warn("eventplane: cannot disconnect", "endpoint", endpoint, "error", err)
			continue
		}
		f.log.Debug("eventplane: disconnected", "endpoint", endpoint)
	}
}

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

// The bound of the pause before a failed watch is started again doubles from minWatchRetry to
// maxWatchRetry.
const (
	minWatchRetry = 100 * time.Millisecond
	maxWatchRetry = 5 * time.Second
)

// follower keeps a driver connected to the endpoints that discovery has, or only
// watches channels. It owns a goroutine, which stop ends and waits for.
//
// If the watch fails, all connections are kept: stale is better than partial.
// The next watch reports which channels have been removed meanwhile.
type follower struct {
	discovery *discovery.Client
	query     discovery.Query
	match     matchFunc
	to        driver.Connector // nil if there are never endpoints
	once      bool             // end after the first full set
	log       *slog.Logger

	departures *departures // nil unless the channels are those of publishers

	channels     map[discovery.ID]channelState
	refs         map[string]int // number of channels with an endpoint
	incompatible atomic.Int64   // number of channels with channelState.incompatible
	warned       bool           // that a channel is incompatible

	synced chan struct{} // closed once the driver is connected to the first full set
	cancel context.CancelFunc
	done   chan struct{} // closed when the goroutine has ended
}

// matchFunc returns the state that a channel requires: the zero value if it does not
// match.
type matchFunc func(discovery.EventChannel) channelState

// channelState is the state of one channel. The zero value is that of a channel
// that is not registered.
type channelState struct {
	matches      bool
	endpoints    []string // to connect to, or connected
	incompatible bool     // the transport is another one
	replay       string   // address at which the publisher replays events
}

// start starts the goroutine. The fields up to log must be set.
func (f *follower) start() {
	ctx, cancel := context.WithCancel(context.Background())
	f.channels, f.refs = map[discovery.ID]channelState{}, map[string]int{}
	f.synced, f.done, f.cancel = make(chan struct{}), make(chan struct{}), cancel
	go f.run(ctx)
}

// stop ends the goroutine. It leaves the connections as they are, since the
// driver is closed next. It is idempotent.
func (f *follower) stop() {
	f.cancel()
	<-f.done
}

// wait blocks until the driver is connected to the first full set of channels.
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

// run watches until ctx is done. It logs the first failure of a series, and the
// first after a watch was complete.
func (f *follower) run(ctx context.Context) {
	defer close(f.done)
	if f.once {
		if _, err := f.watch(ctx); err != nil {
			f.log.Debug("eventplane: comparing transports failed",
				"scope", f.query.Scope.String(), "topic", f.query.Topic, "error", err)
		}
		return
	}
	retry := wait.Backoff{Min: minWatchRetry, Max: maxWatchRetry}
	for failing := false; ; failing = true {
		complete, err := f.watch(ctx)
		if ctx.Err() != nil {
			return
		}
		if complete {
			retry.Reset()
		}
		if complete || !failing {
			f.log.Warn("eventplane: watch of channels failed, keeping connections and retrying",
				"scope", f.query.Scope.String(), "topic", f.query.Topic, "error", err)
		}
		if wait.Sleep(ctx, retry.Next()) != nil {
			return
		}
	}
}

// watch applies the events of one watch until it fails. It reports whether the
// watch has delivered the full set of channels.
func (f *follower) watch(ctx context.Context) (complete bool, err error) {
	listed := map[discovery.ID]bool{}
	for ev, err := range f.discovery.Watch(ctx, f.query) {
		if err != nil {
			return complete, err
		}
		switch ev.Type {
		case discovery.Added:
			listed[ev.Instance.ID()] = true
			f.add(ev.Instance)
		case discovery.Removed:
			delete(listed, ev.Instance.ID())
			f.update(ev.Instance.ID(), channelState{})
		case discovery.Synced:
			complete = true
			f.sync(listed)
			if f.once {
				return complete, nil
			}
		}
	}
	return complete, nil
}

// sync removes the channels of earlier watches that are not listed, and marks
// the follower as synced.
func (f *follower) sync(listed map[discovery.ID]bool) {
	for id := range f.channels {
		if !listed[id] {
			f.update(id, channelState{})
		}
	}
	select {
	case <-f.synced:
	default:
		close(f.synced)
	}
}

// add connects a channel that is registered, or counts it as incompatible.
func (f *follower) add(in discovery.Instance) {
	ch, ok := in.Spec.(discovery.EventChannel)
	if !ok {
		return
	}
	state := f.match(ch)
	state.endpoints = distinct(state.endpoints)
	f.update(in.ID(), state)
	if state.incompatible && !f.warned {
		f.warned = true
		f.log.Warn("eventplane: a publisher uses another transport than this client; further ones are only counted",
			"channel", in.ID().Path(), "transport", ch.Transport.Kind(), "address", ch.Transport.Address(), "remedy", remedy(ch.Transport))
	}
}

// remedy returns the settings under which the peers would reach each other.
func remedy(t discovery.Transport) string {
	switch t.(type) {
	case discovery.NATS:
		return "set DYN_EVENT_PLANE=nats here, or zmq there"
	case discovery.ZMQ:
		return "set DYN_EVENT_PLANE=zmq here, or nats there"
	case discovery.ZMQBroker:
		return "set DYN_ZMQ_BROKER_URL or DYN_ZMQ_BROKER_ENABLED here as it is set there"
	}
	return "set the same transport here and there"
}

// update replaces the state of a channel. It connects new endpoints before it
// disconnects old ones, so that an endpoint in both is not interrupted.
func (f *follower) update(id discovery.ID, state channelState) {
	old, present := f.channels[id]
	switch {
	case f.departures == nil:
	case state.matches:
		f.departures.enter(id.Instance, state.replay)
	case present:
		f.departures.leave(id.Instance)
	}
	state.endpoints = f.connect(id, state)
	f.release(old.endpoints)
	f.incompatible.Add(asInt(state.incompatible) - asInt(old.incompatible))
	if !state.matches {
		delete(f.channels, id)
		return
	}
	f.channels[id] = state
}

func asInt(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// connect connects the endpoints and returns those for which it succeeded. ZMQ
// connects in the background, so an error means that the endpoint is malformed,
// and a retry would fail too. Only publishers of this module replay events.
func (f *follower) connect(id discovery.ID, state channelState) []string {
	connected := state.endpoints[:0]
	for _, endpoint := range state.endpoints {
		if f.refs[endpoint] == 0 {
			connect := f.to.Connect
			if to, ok := f.to.(driver.ProvingConnector); ok && state.replay != "" {
				connect = to.ConnectProving
			}
			if err := connect(endpoint); err != nil {
				f.log.Warn("eventplane: connect to channel failed", "channel", id.Path(), "endpoint", endpoint, "error", err)
				continue
			}
			f.log.Debug("eventplane: connected", "channel", id.Path(), "endpoint", endpoint)
		}
		f.refs[endpoint]++
		connected = append(connected, endpoint)
	}
	return connected
}

// release disconnects the endpoints that no other channel has.
func (f *follower) release(endpoints []string) {
	for _, endpoint := range endpoints {
		if f.refs[endpoint]--; f.refs[endpoint] > 0 {
			continue
		}
		delete(f.refs, endpoint)
		if err := f.to.Disconnect(endpoint); err != nil {
			f.log.Warn("eventplane: disconnect failed", "endpoint", endpoint, "error", err)
			continue
		}
		f.log.Debug("eventplane: disconnected", "endpoint", endpoint)
	}
}

//go:build cgo && !nozmq

package zmq

import (
	"math"
	"time"

	"github.com/dynplane/dynplane/internal/rawzmq"
)

// backlog bounds in bytes what libzmq keeps for the peers of a publisher that do not
// read. libzmq itself bounds it in messages only, for each peer, and does not report
// which peer it is: the kernel does. If the backlog is above half of the bound, and still
// or again backlogStall later, the peer that has acknowledged least is disconnected. At
// the bound events are dropped.
type backlog struct {
	since    time.Time     // of the last sample; zero once the backlog has fallen below a quarter of the bound
	progress map[int]int64 // bytes that the peers with these descriptors had acknowledged then
	dropped  uint64
	warned   bool
}

const (
	backlogStall = 100 * time.Millisecond

	// backlogTime is how long half of the bound may take at the speed of a peer that
	// is not to be disconnected.
	backlogTime = time.Second
)

// Dropped implements driver.DropCounter.
func (p *Publisher) Dropped() uint64 {
	p.loop.mu.Lock()
	defer p.loop.mu.Unlock()
	return p.backlog.dropped
}

// admit reports whether an event with a body of size bytes is to be sent. The caller
// holds the lock of the loop.
func (p *Publisher) admit(size int) bool {
	if size < rawzmq.LargeFrame {
		return true
	}
	b, queued, limit := &p.backlog, p.loop.socket.Queued(), p.zc.opts.MaxQueued
	switch {
	case queued < limit/4:
		b.since = time.Time{}
	case queued < limit/2:
	case b.since.IsZero():
		p.sample(time.Now())
	case time.Since(b.since) >= backlogStall:
		now := time.Now()
		p.disconnectSlowest(now, int64(float64(limit/2)*now.Sub(b.since).Seconds()/backlogTime.Seconds()))
		p.sample(now)
	}
	if queued < limit {
		return true
	}
	b.dropped++
	return false
}

// renewBroken discards what waits for brokers that are not connected.
func (p *Publisher) renewBroken(now time.Time) {
	if p.connections == nil {
		return
	}
	p.loop.readMonitor()
	for _, k := range p.connections.byEndpoint {
		if p.connections.byDescriptor[k.descriptor] != k {
			p.connections.connectAgain(k, now)
		}
	}
}

// descriptors calls f with those of all connections.
func (p *Publisher) descriptors(f func(int)) {
	p.loop.readMonitor()
	if p.connections != nil {
		for fd := range p.connections.byDescriptor {
			f(fd)
		}
		return
	}
	for _, fd := range p.loop.guard.descriptors() {
		f(fd)
	}
}

// sample records the progress of all peers.
func (p *Publisher) sample(now time.Time) {
	p.renewBroken(now)
	b := &p.backlog
	b.since, b.progress = now, map[int]int64{}
	p.descriptors(func(fd int) {
		if n, waiting := rawzmq.Progress(fd); waiting {
			b.progress[fd] = n
		}
	})
}

// disconnectSlowest disconnects the peer that has acknowledged least since the last
// sample, if that is less than limit bytes.
func (p *Publisher) disconnectSlowest(now time.Time, limit int64) {
	b, slowest, least := &p.backlog, -1, int64(math.MaxInt64)
	p.descriptors(func(fd int) {
		before, known := b.progress[fd]
		n, waiting := rawzmq.Progress(fd)
		if d := n - before; known && waiting && d >= 0 && d < min(least, limit) {
			slowest, least = fd, d
		}
	})
	if slowest < 0 {
		return
	}
	endpoint := p.endpoint
	if p.connections == nil {
		if !rawzmq.Shutdown(slowest, p.loop.guard.port) {
			return
		}
	} else {
		k := p.connections.byDescriptor[slowest]
		endpoint = k.endpoint
		p.connections.connectAgain(k, now)
	}
	log := p.zc.opts.Logger.Debug
	if !b.warned {
		b.warned, log = true, p.zc.opts.Logger.Warn
	}
	log("zmq: disconnecting a peer that does not read", "endpoint", endpoint,
		"queued_bytes", p.loop.socket.Queued(), "acknowledged_bytes", least)
}

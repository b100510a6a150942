//go:build cgo && !nozmq

package zmq

import (
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/dynplane/dynplane/internal/rawzmq"
)

// floodGuard ends connections of subscribers that subscribe faster than libzmq applies
// subscriptions. While they do, no call into libzmq returns that has begun to read,
// and its list of unread subscriptions grows by about 20 times what arrives.
type floodGuard struct {
	port    int
	collect func() // passes the events of the monitor to handleEvent
	log     *slog.Logger
	timer   *time.Timer // nil until the first begin

	mu       sync.Mutex
	accepted map[int]int64 // bytes that had arrived by descriptor, when the first check of this reading ran
	reading  bool          // between begin and end
	checked  bool          // since begin
	warned   bool
}

const (
	// floodCheck is how long it may take to read all subscriptions before the
	// connections are checked, and the pause between checks.
	floodCheck = 10 * time.Millisecond

	// floodLimit is how many bytes may arrive while that lasts, on all connections.
	// 1 MiB are some 30,000 subscriptions of the length of ours. If more arrive, the
	// connections end on which there are more than floodShare.
	floodLimit = 1 << 20
	floodShare = 64 << 10

	// floodBuffer is the size of the kernel's receive buffer: what it has is still read
	// after the end of a connection. The kernel doubles it.
	floodBuffer = 64 << 10
)

func newFloodGuard(port int, collect func(), log *slog.Logger) *floodGuard {
	return &floodGuard{port: port, collect: collect, log: log, accepted: map[int]int64{}}
}

func (g *floodGuard) handleEvent(e rawzmq.Event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch e.Kind {
	case rawzmq.Accepted:
		g.accepted[e.Value] = 0
	case rawzmq.Disconnected:
		delete(g.accepted, e.Value)
	}
}

// descriptors returns those of the connections.
func (g *floodGuard) descriptors() []int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Collect(maps.Keys(g.accepted))
}

// begin is called before subscriptions are read, and end when there are no more.
func (g *floodGuard) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.reading {
		return
	}
	g.reading, g.checked = true, false
	if g.timer == nil {
		g.timer = time.AfterFunc(floodCheck, g.check)
	} else {
		g.timer.Reset(floodCheck)
	}
}

func (g *floodGuard) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reading = false
	if g.timer != nil {
		g.timer.Stop()
	}
}

// check runs while subscriptions are read.
func (g *floodGuard) check() {
	g.collect()
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.reading {
		return
	}
	began, total := time.Now(), int64(0)
	for fd, from := range g.accepted {
		n := rawzmq.ReceivedBytes(fd, g.port)
		switch {
		case n < 0:
		case g.checked:
			total += n - from
		default:
			g.accepted[fd] = n
		}
	}
	g.checked = true
	if total > floodLimit {
		g.endFloods()
	}
	g.timer.Reset(max(floodCheck, 4*time.Since(began)))
}

func (g *floodGuard) endFloods() {
	for fd, from := range g.accepted {
		if rawzmq.EndAbove(fd, g.port, from+floodShare) <= from+floodShare {
			continue
		}
		delete(g.accepted, fd)
		if !g.warned {
			g.warned = true
			g.log.Warn("zmq: a subscriber floods the publisher with subscriptions and was disconnected, further ones are not logged", "port", g.port)
		}
	}
}

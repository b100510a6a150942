//go:build cgo && !nozmq

package zmq

import (
	"errors"
	"sync"
	"time"

	"github.com/dynplane/dynplane/internal/rawzmq"
)

// idlePause is the shortest time between two reads of an idleReader.
const idlePause = 20 * time.Millisecond

// idleReader is the goroutine that uses the socket of a direct publisher when
// peers have come, gone or subscribed. libzmq applies that only when the socket is
// used, and keeps about 11 KiB for each subscriber until then; a publisher may have
// nothing to publish for days.
type idleReader struct {
	poller         *rawzmq.Poller // wakeups, and the socket of the publisher
	wakeups, waker *rawzmq.Socket // a pair
	once           sync.Once
	quit, done     chan struct{}
}

// newIdleReader returns the reader of a socket. start starts its goroutine, which
// stop ends.
func newIdleReader(c *Context, socket *rawzmq.Socket) (*idleReader, error) {
	r := &idleReader{quit: make(chan struct{}), done: make(chan struct{})}
	var err error
	if r.wakeups, r.waker, err = c.zctx.Pair(); err != nil {
		return nil, err
	}
	r.poller = rawzmq.NewPoller(r.wakeups)
	if err := r.poller.AddShared(socket); err != nil {
		return nil, errors.Join(err, r.wakeups.Close(), r.waker.Close())
	}
	return r, nil
}

func (r *idleReader) start(read func()) { go r.run(read) }

func (r *idleReader) run(read func()) {
	defer close(r.done)
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
		case <-r.quit:
			return
		}
		_ = r.poller.Wait(-1) // it fails only without memory
		read()
		pause.Reset(idlePause)
	}
}

// stop ends the goroutine and waits for it. It is idempotent and safe for
// concurrent use.
func (r *idleReader) stop() {
	r.once.Do(func() {
		close(r.quit)
		_ = r.waker.SendFrame(nil, false)
		<-r.done
		_ = r.waker.Close()
		_ = r.wakeups.Close()
	})
}

// readCommands is called by the idleReader.
func (p *Publisher) readCommands() {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.socket.ReadCommands() // the next use of the socket fails too
}

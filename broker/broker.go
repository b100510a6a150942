//go:build cgo && !nozmq

package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
)

// Broker relays messages. Run is called once; all other methods are safe for
// concurrent use, before, during and after it.
type Broker struct {
	log          *slog.Logger
	relay        *relay
	xsub, xpub   string
	stopR, stopW *os.File // readable once the relay is to stop
	close        func() error

	mu      sync.Mutex
	running bool // or has been
	closed  bool
	ended   chan struct{} // closed when Run has ended
}

// New binds both sides, so that peers can connect; they are heard as soon as
// Run runs.
func New(opts Options) (*Broker, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	b := &Broker{log: opts.Logger, stopR: r, stopW: w, ended: make(chan struct{})}
	b.close = sync.OnceValue(b.closeAll)
	if b.relay, err = newRelay(opts); err == nil {
		b.xsub, err = b.relay.bind(b.relay.xsub, opts.XSubBind)
	}
	if err == nil {
		b.xpub, err = b.relay.bind(b.relay.xpub, opts.XPubBind)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("broker: %w", err), b.Close())
	}
	return b, nil
}

// XSubEndpoint is where publishers connect: what was bound, with the port that
// was chosen. A wildcard host stays one.
func (b *Broker) XSubEndpoint() string { return b.xsub }

// XPubEndpoint is where subscribers connect, in the same form.
func (b *Broker) XPubEndpoint() string { return b.xpub }

// Stats returns the counters as they stand.
func (b *Broker) Stats() Stats { return b.relay.stats() }

// Run relays until ctx is done, then for at most 100 ms what has arrived
// already, and returns nil. When the broker is closed meanwhile it returns
// ErrClosed.
func (b *Broker) Run(ctx context.Context) error {
	if err := b.begin(); err != nil {
		return err
	}
	defer close(b.ended)
	defer context.AfterFunc(ctx, b.stop)()

	b.log.Debug("broker: relaying", "xsub", b.xsub, "xpub", b.xpub)
	err := b.relay.run(b.stopR.Fd())
	b.log.Debug("broker: stopped", "stats", b.Stats())
	if err != nil {
		return fmt.Errorf("broker: relay: %w", err)
	}
	if ctx.Err() == nil {
		return ErrClosed
	}
	return nil
}

var errRunning = errors.New("broker: Run was called before")

func (b *Broker) begin() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	if b.running {
		return errRunning
	}
	b.running = true
	return nil
}

// stop makes the relay end.
func (b *Broker) stop() { _, _ = b.stopW.Write([]byte{0}) }

// Close ends Run, sends for at most 200 ms what waits for subscribers, and
// closes both sides. It is idempotent.
func (b *Broker) Close() error { return b.close() }

func (b *Broker) closeAll() error {
	b.mu.Lock()
	b.closed = true
	running := b.running
	b.mu.Unlock()
	if running {
		b.stop()
		<-b.ended
	}
	return errors.Join(b.relay.close(), b.stopR.Close(), b.stopW.Close())
}

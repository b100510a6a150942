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

// Broker relays messages. Run must be called at most once. All other methods
// are safe for concurrent use, before, during and after Run.
type Broker struct {
	log          *slog.Logger
	relay        *relay
	xsub, xpub   string
	stopR, stopW *os.File // pipe; stopR is readable once the relay is to stop
	close        func() error

	mu      sync.Mutex
	running bool // also after Run has ended
	closed  bool
	ended   chan struct{} // closed when Run has ended
}

// New opens a broker and binds both sides, so that peers can connect. Run relays
// their messages. The caller must call Close.
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

// XSubEndpoint returns the endpoint that publishers connect to: the bound one,
// with the port that the system chose. A wildcard host stays as it is.
func (b *Broker) XSubEndpoint() string { return b.xsub }

// XPubEndpoint returns the endpoint that subscribers connect to, in the same
// form.
func (b *Broker) XPubEndpoint() string { return b.xpub }

// Stats returns the current counters.
func (b *Broker) Stats() Stats { return b.relay.stats() }

// Run relays messages until ctx is done. It then relays those that have already
// arrived, for at most 100 ms, and returns nil. It returns ErrClosed if the
// broker was closed before ctx was done.
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

var errRunning = errors.New("broker: Run was called twice: want one call")

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

// stop ends the loop of the relay.
func (b *Broker) stop() { _, _ = b.stopW.Write([]byte{0}) }

// Close ends Run and closes both sides. Messages that wait for subscribers are
// still sent, for at most 200 ms. Close is idempotent.
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
	if err := errors.Join(b.relay.close(), b.stopR.Close(), b.stopW.Close()); err != nil {
		return fmt.Errorf("broker: close: %w", err)
	}
	return nil
}

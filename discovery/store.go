package discovery

import (
	"context"
	"errors"
	"sync"
	"time"
)

var (
	// ErrTakenOver is wrapped by what Registration.Wait returns once another
	// owner has registered under the same id.
	ErrTakenOver = errors.New("taken over by another owner")

	// ErrClosed is wrapped by the errors of a client that has been shut down.
	ErrClosed = errors.New("client is shut down")
)

// Store is the contract between a Client and a backend. Its methods are safe
// for concurrent use. What all backends share (JSON, conflicts, comparing,
// holding removals) is in Client; a store keeps bytes alive under ids. The
// conformance suite is package discovery/discoverytest.
type Store interface {
	// Register writes value under id and keeps it alive until the lease is
	// given back or the store is shut down. An entry that is there already is
	// taken over, and its former owner is told.
	Register(ctx context.Context, id ID, value []byte) (Lease, error)

	// Watch begins to follow what matches q (it may deliver more). Changes are
	// taken from the Watcher; ctx concerns the beginning alone.
	Watch(ctx context.Context, q Query) (Watcher, error)

	// Shutdown removes at once what the store registered, and releases its
	// resources. It is idempotent.
	Shutdown(ctx context.Context) error
}

// Lease is a registration that a Store keeps alive.
type Lease interface {
	// Unregister removes the entry; readers see it at once. It is idempotent,
	// and leaves the entry of another owner alone.
	Unregister(ctx context.Context) error

	// Wait blocks until the entry is not ours any more and says why: an error
	// that wraps ErrTakenOver, ErrClosed after an Unregister or Shutdown, or
	// that of ctx.
	Wait(ctx context.Context) error
}

// LeaseEnd is the end of a Lease: why it came, said once and waited for by many.
// Those who write a Store embed one, made by NewLeaseEnd, in their leases, which
// have Wait by it. It is safe for concurrent use.
type LeaseEnd struct {
	once sync.Once
	done chan struct{}
	err  error // set before done is closed
}

// NewLeaseEnd returns one that has not come.
func NewLeaseEnd() *LeaseEnd { return &LeaseEnd{done: make(chan struct{})} }

// End says that the lease has ended. What is said first stands.
func (e *LeaseEnd) End(why error) {
	e.once.Do(func() {
		e.err = why
		close(e.done)
	})
}

// Ended reports whether the lease has ended.
func (e *LeaseEnd) Ended() bool {
	select {
	case <-e.done:
		return true
	default:
		return false
	}
}

// Wait implements Lease.
func (e *LeaseEnd) Wait(ctx context.Context) error {
	select {
	case <-e.done:
		return e.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Watcher delivers the changes of a Store to one goroutine.
type Watcher interface {
	// Next blocks for the next change. A watcher that loses its store tries
	// again by itself until ctx is done, and then begins with OpReset; it
	// returns an error only when trying again is no use. After an error of
	// ctx, Next can be called again.
	Next(ctx context.Context) (Change, error)

	// Close ends the watch and waits for what it started.
	Close() error
}

// Op says what a Change is.
type Op uint8

// The operations of a Watcher.
const (
	// OpReset begins a full listing: the first, or one after a disturbance.
	OpReset Op = iota + 1
	// OpPut says that ID has the value Value.
	OpPut
	// OpDelete says that ID is gone, and Cause why.
	OpDelete
	// OpSynced ends a full listing.
	OpSynced
	// OpProgress says that nothing happened and the store was there to say so,
	// after all that it had to say before. Removals that are held wait for it,
	// so a store that can be disturbed sends one at least every second.
	OpProgress
	// OpInvalid says that Key holds something that Err tells about.
	OpInvalid
)

// Cause says why an entry is gone.
type Cause uint8

// The causes of OpDelete.
const (
	// CauseUnregistered: its owner, or somebody else, removed it on purpose.
	CauseUnregistered Cause = iota + 1
	// CauseExpired: its lease ran out, and the store was there all the time.
	CauseExpired
	// CauseUncertain: its lease ran out, but the store was disturbed, so that
	// the owner may live and have had no chance to say so.
	CauseUncertain
)

// Change is what a Watcher delivers. Key is how the store calls the entry, for
// messages.
type Change struct {
	Op    Op
	ID    ID
	Key   string
	Value []byte
	TTL   time.Duration // of the owner; zero where there is none
	Cause Cause
	Err   error

	// AliveSince is set on OpProgress: a time after which the store said so. It may be
	// earlier than when the change is delivered, never later.
	AliveSince time.Time
}

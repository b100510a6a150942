package discovery

import (
	"context"
	"errors"
	"sync"
	"time"
)

var (
	// ErrTakenOver is wrapped by the error that Registration.Wait returns once
	// another owner has registered under the same id.
	ErrTakenOver = errors.New("taken over by another owner")

	// ErrUnstorable is wrapped by the error of a Register whose registration the
	// store can never hold. A retry cannot succeed; other registrations can.
	ErrUnstorable = errors.New("the store cannot hold this registration")

	// ErrClosed is wrapped by the errors of a client that has been shut down.
	ErrClosed = errors.New("client is shut down")
)

// Store is the contract between a Client and a backend. Its methods must be
// safe for concurrent use. A store keeps bytes alive under ids; Client has what
// all backends share: JSON, the conflict check, the comparison after a fault and
// the hold of removals. Package discoverytest is the conformance suite, and
// docs/adding-a-store.md explains how to write a store.
type Store interface {
	// Register writes value under id and keeps the entry alive until the lease
	// is unregistered or the store is shut down. It takes over an existing
	// entry, whose former lease ends with ErrTakenOver. The error wraps
	// ErrUnstorable if the store cannot hold this entry, whatever happens later.
	Register(ctx context.Context, id ID, value []byte) (Lease, error)

	// Watch begins to follow the entries that match q; it may deliver others
	// too. The Watcher delivers the changes. ctx bounds only the call.
	Watch(ctx context.Context, q Query) (Watcher, error)

	// Shutdown removes the entries that the store registered, at once, and
	// releases its resources. It is idempotent.
	Shutdown(ctx context.Context) error
}

// Lease is a registration that a Store keeps alive.
type Lease interface {
	// Unregister removes the entry; readers see the removal at once. It is
	// idempotent, and does not remove the entry of another owner.
	Unregister(ctx context.Context) error

	// Wait blocks until the lease ends and returns the cause: an error that
	// wraps ErrTakenOver, ErrClosed after Unregister or Shutdown, or ctx.Err().
	Wait(ctx context.Context) error
}

// LeaseEnd records why a lease ended. The first cause wins; any number of
// goroutines may wait for it. A store embeds one, made by NewLeaseEnd, in each of
// its leases, so that they implement Wait. It is safe for concurrent use.
type LeaseEnd struct {
	once sync.Once
	done chan struct{}
	err  error // set before done is closed
}

// NewLeaseEnd returns the LeaseEnd of a lease that has not ended.
func NewLeaseEnd() *LeaseEnd { return &LeaseEnd{done: make(chan struct{})} }

// End ends the lease with a cause. Later calls have no effect.
func (e *LeaseEnd) End(cause error) {
	e.once.Do(func() {
		e.err = cause
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
	// Next blocks until there is a change. A watcher that loses its store
	// retries by itself until ctx is done, and begins again with OpReset; it
	// returns an error only when a retry cannot succeed. After an error of ctx,
	// Next may be called again.
	Next(ctx context.Context) (Change, error)

	// Close ends the watch and waits for the goroutines that it started.
	Close() error
}

// Op is the kind of a Change.
type Op uint8

// The operations of a Watcher.
const (
	// OpReset begins a full listing: the first one, or one after a fault.
	OpReset Op = iota + 1
	// OpPut reports that ID has the value Value.
	OpPut
	// OpDelete reports that ID was deleted, for Cause.
	OpDelete
	// OpSynced ends a full listing.
	OpSynced
	// OpProgress reports that the store is reachable and that every earlier
	// change has been delivered. Held removals wait for it, so a store that can
	// become unreachable delivers one at least every second.
	OpProgress
	// OpInvalid reports that Key holds no valid registration; Err is the reason.
	OpInvalid
)

// Cause is the reason of an OpDelete.
type Cause uint8

// The causes of OpDelete.
const (
	// CauseUnregistered: the entry was removed intentionally, by its owner or
	// another client of the store.
	CauseUnregistered Cause = iota + 1
	// CauseExpired: the lease expired while the store was reachable throughout.
	CauseExpired
	// CauseUncertain: the lease expired, but the store was unreachable for some
	// of that time, so that a living owner may have been unable to prolong it.
	CauseUncertain
)

// Change is an element of a Watcher. Key is the store's own name of the entry,
// for logs and errors.
type Change struct {
	Op    Op
	ID    ID
	Key   string
	Value []byte
	TTL   time.Duration // of the owner; zero where there is none
	Cause Cause
	Err   error

	// AliveSince is set on OpProgress: a time after which the store was reached.
	// It may be earlier than the delivery of the change, never later.
	AliveSince time.Time
}

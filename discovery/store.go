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

	// ErrExists is wrapped by the error of a Register with IfAbsent whose id is
	// registered already.
	ErrExists = errors.New("the id is registered already")

	// ErrNotFound is wrapped by the error of a Get whose id is not registered.
	ErrNotFound = errors.New("not registered")
)

// RegisterOptions are the settings of one registration. The zero value is useful.
type RegisterOptions struct {
	// IfAbsent refuses with ErrExists to take over an existing registration of
	// the same id, be it of another client or of this one.
	IfAbsent bool
}

// Store is the contract between a Client and a backend. Its methods must be
// safe for concurrent use. A store keeps bytes alive under ids; Client has what
// all backends share: JSON, the conflict check, the comparison after a fault and
// the hold of removals. Package discoverytest is the conformance suite, and
// docs/adding-a-store.md explains how to write a store.
type Store interface {
	// Register writes value under id and keeps the entry alive until the lease
	// is unregistered or the store is shut down. It takes over an existing
	// entry, whose former lease ends with ErrTakenOver, unless o refuses that.
	// If several callers register one id at once, the last one wins. After an
	// error, a canceled ctx included, the store holds no entry of this call, and
	// the former owner's is unchanged. The error wraps ErrUnstorable if the store
	// cannot hold this entry, whatever happens later.
	Register(ctx context.Context, id ID, value []byte, o RegisterOptions) (Lease, error)

	// Get returns the value that is registered under id now, or an error that
	// wraps ErrNotFound.
	Get(ctx context.Context, id ID) ([]byte, error)

	// Watch begins to follow the entries that match q, of each of q.Kinds(). It
	// may deliver others too: Query.Match decides. A Watcher of several kinds
	// delivers one listing of all of them. ctx bounds only the call.
	Watch(ctx context.Context, q Query) (Watcher, error)

	// Shutdown removes the entries that the store registered, at once, and
	// releases its resources. Calls of Register, Get and Watcher.Next that are
	// under way return ErrClosed. Shutdown returns nil only once all of that is
	// done; after an error, a later call continues. It does not block for longer
	// than the TTL of the store.
	Shutdown(ctx context.Context) error
}

// Lease is a registration that a Store keeps alive.
type Lease interface {
	// Update replaces the value of the entry in place: no reader sees a removal,
	// and the lease continues. It fails if the lease has ended, with the cause,
	// and does not write over the entry of another owner. After another error the
	// entry has the former value or the new one. Calls do not overlap.
	Update(ctx context.Context, value []byte) error

	// Unregister removes the entry; readers see the removal at once. It returns
	// nil only once the entry is removed, or is another owner's; after an error,
	// a later call continues.
	Unregister(ctx context.Context) error

	// Wait blocks until the lease ends and returns the cause: an error that
	// wraps ErrTakenOver, ErrClosed after Unregister or Shutdown, or another one
	// if the store can never prolong it again; or ctx.Err().
	Wait(ctx context.Context) error

	// Health returns the state of the lease, and a channel that is closed when
	// Healthy changes, or the lease ends.
	Health() (Health, <-chan struct{})
}

// Health is the state of a lease.
type Health struct {
	// Healthy reports whether the entry is registered as far as its owner can
	// determine: it has been written, is not known to be lost, and its TTL has not
	// passed since LastBeat.
	Healthy bool

	// LastBeat is the local time at which the last heartbeat that the store has
	// acknowledged was sent. In stores without heartbeats it is the time of the
	// last write.
	LastBeat time.Time

	// Err is why the lease is not healthy; nil while it is.
	Err error
}

// LeaseState records the health of a lease and why it ended. The first cause of
// its end wins; any number of goroutines may wait for it. A store embeds one, made
// by NewLeaseState, in each of its leases, so that they implement Wait and Health.
// It is safe for concurrent use.
type LeaseState struct {
	done chan struct{}

	mu      sync.Mutex
	beat    time.Time
	lost    error         // nil while the lease is healthy
	changed chan struct{} // closed when lost becomes nil or not; nil if not requested
	end     error         // set before done is closed
}

// NewLeaseState returns the state of a lease whose entry was just written, by a
// request that was sent at a local time.
func NewLeaseState(at time.Time) *LeaseState {
	return &LeaseState{done: make(chan struct{}), beat: at}
}

// Beat records that the store has acknowledged a heartbeat or write that was sent
// at a local time: the lease is healthy.
func (s *LeaseState) Beat(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.After(s.beat) {
		s.beat = at
	}
	if s.lost != nil && s.end == nil {
		s.lost = nil
		s.notify()
	}
}

// Lose records that the entry is lost, or its TTL has passed without a heartbeat.
// The lease is not healthy until the next Beat.
func (s *LeaseState) Lose(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost == nil {
		s.lost = cause
		s.notify()
	}
}

// End ends the lease with a cause. Later calls have no effect.
func (s *LeaseState) End(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end == nil {
		s.end, s.lost = cause, cause
		close(s.done)
		s.notify()
	}
}

// notify requires s.mu.
func (s *LeaseState) notify() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// LastBeat returns the local time at which the last acknowledged heartbeat was
// sent.
func (s *LeaseState) LastBeat() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.beat
}

// Ended reports whether the lease has ended.
func (s *LeaseState) Ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// Wait implements Lease.
func (s *LeaseState) Wait(ctx context.Context) error {
	select {
	case <-s.done:
		return s.end
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Health implements Lease.
func (s *LeaseState) Health() (Health, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	changed := s.changed
	if s.end != nil { // nothing changes any more
		changed = s.done
	}
	return Health{Healthy: s.lost == nil, LastBeat: s.beat, Err: s.lost}, changed
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

// Confirmer is implemented by a Watcher whose store has a second, authoritative
// copy of the entries. Before a held removal is reported, Present returns those
// of ids whose entries are present there: their removal is not reported but held
// again. After an error the removals stay held, and Present is called again later.
// Present is called between two calls of Next, in the same goroutine; like Next it
// returns when ctx is done or the store is shut down.
type Confirmer interface {
	Present(ctx context.Context, ids []ID) ([]ID, error)
}

// Prompter is implemented by a Watcher that can be prompted for an OpProgress. Such a
// Watcher is shared: while one watch of a query is open, the Client makes the later
// ones of the same query, and their Synced, from one other Watcher.
type Prompter interface {
	// Prompt makes Next deliver an OpProgress whose AliveSince is not before the
	// call, as soon as Next has delivered everything that was registered at the
	// call. It does not block, and may be called in any goroutine, also after Close.
	Prompt()
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
// for logs and errors. Nothing modifies Value after the delivery.
type Change struct {
	Op    Op
	ID    ID
	Key   string
	Value []byte
	TTL   time.Duration // of the owner; zero where there is none
	Cause Cause
	Err   error

	// More reports that changes that happened before this one may follow. Apart
	// from that, the changes of different entries are delivered in the order in
	// which they happened.
	More bool

	// AliveSince is set on OpProgress: a time after which the store was reached.
	// It may be earlier than the delivery of the change, never later.
	AliveSince time.Time

	stored *storedEntry // the entry, if it has been decoded
}

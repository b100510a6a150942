package kvstate

import (
	"iter"

	"github.com/dynplane/dynplane/kvevents"
)

// UpdateKind is the kind of an [Update].
type UpdateKind uint8

// The kinds.
const (
	// TrustChanged reports Trust and Reason. It is the first update of each rank.
	TrustChanged UpdateKind = iota + 1

	// Reset replaces everything that was reported of the rank: Events are its full
	// state, and there may be none.
	Reset

	// Change adds Events to the state.
	Change

	// Gone reports that the rank is no longer registered.
	Gone

	// Synced is reported once: each rank that was registered when following began
	// has been reported with TrustChanged. It concerns no rank.
	Synced
)

var updateNames = [...]string{"unknown", "trust", "reset", "change", "gone", "synced"}

// String returns trust, reset, change, gone or synced.
func (k UpdateKind) String() string {
	if int(k) >= len(updateNames) {
		k = 0
	}
	return updateNames[k]
}

// Trust is how far the state of a rank can be relied on.
type Trust uint8

// The values.
const (
	// Recovering: the rank has been found, or events of it were lost, and its worker
	// is being queried.
	Recovering Trust = iota + 1

	// Live: the state is that of the worker, as of its last event that was received.
	Live

	// Degraded: the state may be incomplete, for the reason of the update.
	Degraded
)

var trustNames = [...]string{"unknown", "recovering", "live", "degraded"}

// String returns recovering, live or degraded.
func (t Trust) String() string {
	if int(t) >= len(trustNames) {
		t = 0
	}
	return trustNames[t]
}

// Update is an element of [Follow]: a change of one rank of one worker.
type Update struct {
	Kind   UpdateKind
	Worker uint64
	Rank   uint32

	// Trust is that of the rank after the update, and Reason explains one that is
	// not Live. During a Reset and the changes after it, it is that from before
	// until TrustChanged.
	Trust  Trust
	Reason string

	// Events are the events of a Reset or Change, in order. An event may repeat an
	// effect that the state has already; events of kind Unknown have none. Events
	// and their slices are valid until the next iteration, and the iterator until
	// the loop over the updates continues.
	Events iter.Seq[*kvevents.Event]
}

func noEvents(func(*kvevents.Event) bool) {}

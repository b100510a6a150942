package broker

import (
	"errors"
	"fmt"
	"log/slog"
)

// ErrClosed is returned by Run when the broker was closed.
var ErrClosed = errors.New("broker: closed")

// Options are the settings of a Broker. The zero value listens on 127.0.0.1.
type Options struct {
	// XSubBind is where publishers connect, XPubBind where subscribers do,
	// such as tcp://0.0.0.0:5555 or tcp://[::]:5556. Port 0 or * is one that
	// the system chooses. Empty means tcp://127.0.0.1:*.
	XSubBind, XPubBind string

	// HWM is the high-water mark: how many messages wait for each subscriber;
	// 0 means 100,000. From each publisher at most 1000 wait, or HWM if that
	// is less.
	HWM int

	// MaxQueued bounds the memory of what waits for subscribers, in bytes: as
	// long as so much waits in large messages, those of 1 KiB or more, further
	// large ones are dropped and counted; small ones still pass. A message
	// that waits for several subscribers counts once. What waits exceeds
	// MaxQueued by one message at most. 0 means 192 MiB.
	MaxQueued int

	// IOThreads is the number of threads that do network input and output;
	// 0 means 1.
	IOThreads int

	// Logger hears of start and end; nil is silent.
	Logger *slog.Logger
}

// Stats counts what a Broker has done so far. What it has not relayed to all
// who asked for it is a lower bound: publishers number their events, so that
// subscribers see what they have missed.
type Stats struct {
	Messages uint64 // relayed
	Bytes    uint64 // of all their frames

	// Overflows counts how often the queue of a subscriber was found full, by
	// the number of its messages. Each time at least one subscriber missed
	// that message; libzmq does not tell how many did. It does not tell of
	// what is lost with a connection either.
	Overflows uint64

	// Dropped counts the messages that no subscriber got, because of
	// Options.MaxQueued.
	Dropped uint64

	// Queued is what waits now in large messages, in bytes, with 64 for each
	// of their frames.
	Queued uint64
}

const (
	defaultBind      = "tcp://127.0.0.1:*"
	defaultHWM       = 100_000
	defaultMaxQueued = 192 << 20
	defaultIOThreads = 1
)

// withDefaults returns the options as they are used, or what is wrong with them.
func (o Options) withDefaults() (Options, error) {
	if o.HWM < 0 {
		return o, fmt.Errorf("option HWM %d: want 0 (for %d) or more", o.HWM, defaultHWM)
	}
	if o.MaxQueued < 0 {
		return o, fmt.Errorf("option MaxQueued %d: want 0 (for %d) or more bytes", o.MaxQueued, defaultMaxQueued)
	}
	if o.IOThreads < 0 {
		return o, fmt.Errorf("option IOThreads %d: want 0 (for %d) or more", o.IOThreads, defaultIOThreads)
	}
	if o.XSubBind == "" {
		o.XSubBind = defaultBind
	}
	if o.XPubBind == "" {
		o.XPubBind = defaultBind
	}
	if o.HWM == 0 {
		o.HWM = defaultHWM
	}
	if o.MaxQueued == 0 {
		o.MaxQueued = defaultMaxQueued
	}
	if o.IOThreads == 0 {
		o.IOThreads = defaultIOThreads
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

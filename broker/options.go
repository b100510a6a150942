package broker

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/dynplane/dynplane/internal/rawzmq"
)

// ErrClosed is returned by Run if the broker was closed.
var ErrClosed = errors.New("broker: closed")

// Options are the settings of a Broker. The zero value listens on 127.0.0.1.
type Options struct {
	// XSubBind is the endpoint that publishers connect to, and XPubBind the
	// endpoint that subscribers connect to, such as tcp://0.0.0.0:5555 or
	// tcp://[::]:5556. For port 0 or * the system chooses a free port. Empty
	// means tcp://127.0.0.1:*.
	XSubBind, XPubBind string

	// HWM is the high-water mark: the number of messages that the broker
	// queues for each subscriber; 0 means 100,000. It queues at most 1,000
	// messages from each publisher, or HWM if that is less.
	HWM int

	// MaxQueued limits the memory of messages that wait for subscribers, in
	// bytes; 0 means 192 MiB. While MaxQueued or more is waiting in large
	// messages, those of 1 KiB or more, further large messages are dropped and
	// counted; small ones still pass. A message that waits for several
	// subscribers counts once. The limit is exceeded by one message at most.
	MaxQueued int

	// IOThreads is the number of libzmq threads that do network input and
	// output, 64 at most; 0 means 1.
	IOThreads int

	// Logger receives debug messages when Run starts and ends; nil is silent.
	Logger *slog.Logger
}

// Stats are the counters of a Broker. Overflows and Dropped are a lower bound of
// the messages that subscribers missed. Events are numbered, so that subscribers
// detect gaps themselves.
type Stats struct {
	// Messages counts relayed messages, Bytes the bytes of all their frames.
	Messages uint64
	Bytes    uint64

	// Overflows counts how often the queue of a subscriber had reached its
	// high-water mark when a message was sent. Each time at least one
	// subscriber missed that message; libzmq does not report how many. It does
	// not report messages that are lost with a connection either.
	Overflows uint64

	// Dropped counts the messages that were dropped for all subscribers
	// because of Options.MaxQueued, or because they had more than four frames.
	Dropped uint64

	// Queued is the size of the large messages that are waiting now, in bytes,
	// with 64 added for each of their frames.
	Queued uint64
}

const (
	defaultBind      = "tcp://127.0.0.1:*"
	defaultMaxQueued = 192 << 20
	defaultIOThreads = 1
)

// withDefaults returns the options with defaults for zero values, or an error
// that names the invalid option.
func (o Options) withDefaults() (Options, error) {
	if o.HWM < 0 {
		return o, fmt.Errorf("option HWM %d: want 0 (for %d) or more", o.HWM, rawzmq.DefaultHWM)
	}
	if o.MaxQueued < 0 {
		return o, fmt.Errorf("option MaxQueued %d: want 0 (for %d) or more bytes", o.MaxQueued, defaultMaxQueued)
	}
	if o.IOThreads < 0 || o.IOThreads > rawzmq.MaxIOThreads {
		return o, fmt.Errorf("option IOThreads %d: want 0 (for %d) to %d", o.IOThreads, defaultIOThreads, rawzmq.MaxIOThreads)
	}
	if o.XSubBind == "" {
		o.XSubBind = defaultBind
	}
	if o.XPubBind == "" {
		o.XPubBind = defaultBind
	}
	if o.HWM == 0 {
		o.HWM = rawzmq.DefaultHWM
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

package zmq

import (
	"fmt"
	"log/slog"
)

// Options are the settings of a Context. The zero value is ready for use.
type Options struct {
	// IOThreads is the number of threads that do network input and output;
	// 0 means 1. One is enough up to about a gigabyte a second.
	IOThreads int

	// HWM is the high-water mark: how many messages a Publisher holds for
	// each subscriber before it drops; 0 means 100,000.
	HWM int

	// QueueSize is how many received messages a Subscriber holds for Next before
	// it drops the newest; 0 means 100,000. Whatever this is, it holds no
	// more than 32 MiB, or a single larger message.
	// libzmq holds at most 1,000 messages of each peer before it.
	QueueSize int

	// MaxMessage is the largest frame, in bytes, that is sent or received;
	// 0 means 64 MiB. A peer that sends a larger one is cut off, and
	// connected again 100 ms later.
	MaxMessage int64

	// Logger hears of connections that fail; nil is silent.
	Logger *slog.Logger
}

const (
	defaultCount      = 100_000
	defaultMaxMessage = 64 << 20
	// The heap grows to twice what it holds before it is collected.
	maxQueueBytes = 32 << 20
)

// withDefaults returns the options as they are used, or what is wrong with them.
func (o Options) withDefaults() (Options, error) {
	for _, f := range []struct {
		name     string
		value    *int
		fallback int
	}{
		{"IOThreads", &o.IOThreads, 1},
		{"HWM", &o.HWM, defaultCount},
		{"QueueSize", &o.QueueSize, defaultCount},
	} {
		if *f.value < 0 {
			return o, fmt.Errorf("option %s %d: want 0 (for %d) or more", f.name, *f.value, f.fallback)
		}
		if *f.value == 0 {
			*f.value = f.fallback
		}
	}
	if o.MaxMessage == 0 {
		o.MaxMessage = defaultMaxMessage
	}
	if o.MaxMessage < headerSize || o.MaxMessage > maxBody+headerSize {
		return o, fmt.Errorf("option MaxMessage %d: want %d to %d bytes", o.MaxMessage, headerSize, int64(maxBody+headerSize))
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

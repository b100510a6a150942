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

	// HWM is the high-water mark: how many messages wait for each publisher
	// and for each subscriber; 0 means 100,000.
	HWM int

	// IOThreads is the number of threads that do network input and output;
	// 0 means 1.
	IOThreads int

	// Logger hears of start and end; nil is silent.
	Logger *slog.Logger
}

// Stats counts what a Broker has done so far.
type Stats struct {
	Messages uint64 // relayed
	Bytes    uint64 // of all their frames

	// Overflows counts how often a subscriber's queue was found full. Each
	// time that subscriber missed at least one message; as long as it is 0,
	// the broker has dropped nothing. libzmq does not tell the exact number.
	Overflows uint64
}

const (
	defaultBind      = "tcp://127.0.0.1:*"
	defaultHWM       = 100_000
	defaultIOThreads = 1
)

// withDefaults returns the options as they are used, or what is wrong with them.
func (o Options) withDefaults() (Options, error) {
	if o.HWM < 0 {
		return o, fmt.Errorf("option HWM %d: want 0 (for %d) or more", o.HWM, defaultHWM)
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
	if o.IOThreads == 0 {
		o.IOThreads = defaultIOThreads
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

package zmq

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/dynplane/dynplane/eventplane/driver"
	"github.com/dynplane/dynplane/internal/rawzmq"
)

// Options are the settings of a Context. The zero value is ready for use.
type Options struct {
	// IOThreads is the number of libzmq threads that do network input and
	// output, up to MaxIOThreads; 0 means 1. One thread is enough up to about a
	// gigabyte a second.
	IOThreads int

	// HWM is the high-water mark: the number of messages that a Publisher
	// queues for each subscriber before it drops further ones; 0 means
	// 100,000.
	HWM int

	// MaxQueued bounds the events of 1 KiB or more that wait in a Publisher, by the
	// sum of their bytes; 0 means 128 MiB. An event that waits for several
	// subscribers counts once, and one event may exceed the bound. While half of it
	// stays exceeded, the publisher disconnects the slowest peer every tenth of a second (on
	// Linux). At the bound it drops events for all; see Publisher.Dropped.
	MaxQueued int

	// QueueSize is the number of received messages that a Subscriber queues
	// for Next before it drops some; 0 means 65,536. libzmq queues at
	// most 1,000 messages of each peer before it.
	QueueSize int

	// QueueBytes bounds the same queue by the sum of its messages' bytes; 0 means
	// 64 MiB. Whichever bound is reached first applies: 64 MiB are reached before
	// 65,536 messages if these are larger than 1 KiB on average. A single
	// message may be larger. The heap grows to about twice the bound before it
	// is collected.
	QueueBytes int

	// MaxMessage is the size limit of frames that are sent or received, in
	// bytes; 0 means 64 MiB. A peer that sends a larger frame is disconnected,
	// and connected again 100 ms later.
	MaxMessage int64

	// ReplayHost is the address on which publishers of BrokerPublisher answer requests
	// for replay, like that of DirectPublisher. Without it they answer none.
	ReplayHost string

	// ControlBody appends the body of a control message: an event without a payload,
	// for subscribers of other libraries that subscribe to all topics. The body is
	// empty if it is nil.
	ControlBody func(dst []byte, publisherID, sequence, publishedAt uint64) []byte

	// ControlTime returns the time of publishing in such a body, of at most 1 KiB from
	// the network. Control messages for which it returns an error are skipped. The time
	// is 0 if it is nil.
	ControlTime func(body []byte) (publishedAt uint64, err error)

	// Logger receives warnings about connections that fail; nil is silent.
	Logger *slog.Logger

	assumeAfter time.Duration // see connections.assumeAfter; 0 means assumeAfter
}

const (
	// assumeAfter is how long after a handshake it is assumed that a publisher has the
	// subscription if it does not answer, as those of other libraries do.
	assumeAfter = 100 * time.Millisecond

	// assumeBrokerAfter is the same for a broker that has not relayed a message: it
	// does, unless the subscriber cannot reach the side of it that publishers use.
	assumeBrokerAfter = time.Second
)

const defaultMaxQueued = 128 << 20

// MaxIOThreads is the largest number of threads for Options.IOThreads.
const MaxIOThreads = rawzmq.MaxIOThreads

// withDefaults returns the options with defaults for zero values, or an error
// that names the invalid option.
func (o Options) withDefaults() (Options, error) {
	if o.IOThreads < 0 || o.IOThreads > MaxIOThreads {
		return o, fmt.Errorf("option IOThreads %d: want 0 (for 1) to %d", o.IOThreads, MaxIOThreads)
	}
	for _, f := range []struct {
		name     string
		value    *int
		fallback int
	}{
		{"IOThreads", &o.IOThreads, 1},
		{"HWM", &o.HWM, rawzmq.DefaultHWM},
		{"MaxQueued", &o.MaxQueued, defaultMaxQueued},
		{"QueueSize", &o.QueueSize, driver.DefaultQueueSize},
		{"QueueBytes", &o.QueueBytes, driver.DefaultQueueBytes},
	} {
		if *f.value < 0 {
			return o, fmt.Errorf("option %s %d: want 0 (for %d) or more", f.name, *f.value, f.fallback)
		}
		if *f.value == 0 {
			*f.value = f.fallback
		}
	}
	if o.MaxMessage == 0 {
		o.MaxMessage = rawzmq.DefaultMaxFrame
	}
	if o.MaxMessage < headerSize || o.MaxMessage > maxBody+headerSize {
		return o, fmt.Errorf("option MaxMessage %d: want %d to %d bytes", o.MaxMessage, headerSize, int64(maxBody+headerSize))
	}
	if o.ControlBody == nil {
		o.ControlBody = func(dst []byte, _, _, _ uint64) []byte { return dst }
	}
	if o.ControlTime == nil {
		o.ControlTime = func([]byte) (uint64, error) { return 0, nil }
	}
	if o.assumeAfter == 0 {
		o.assumeAfter = assumeAfter
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

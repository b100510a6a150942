package eventplane

import (
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/natsconn"
)

// WireFormat is the generation of NVIDIA Dynamo whose format is written where
// the two differ.
type WireFormat = discovery.WireFormat

// The wire formats.
const (
	WireGen2 = discovery.WireGen2 // Dynamo 1.4 and later; the default
	WireGen1 = discovery.WireGen1 // Dynamo 0.9 to 1.3
)

// Config holds the settings of a [Client]. The zero value selects JSON over NATS
// on localhost. [ConfigFromEnv] reads it from the environment.
type Config struct {
	// Transport is discovery.TransportNATS or discovery.TransportZMQ. Empty
	// means NATS.
	Transport string

	// Codec encodes the events that are published. Nil means JSON on NATS and
	// msgpack on ZMQ; subscribers then warn once of events in another one.
	Codec codec.Codec

	// Wire is the format that is written.
	Wire WireFormat

	// Host is the IP address that ZMQ publishers without a broker advertise.
	// Empty means the address of this machine; see [HostFromEnv]. If it is a
	// loopback address, publishers bind it; otherwise they bind the wildcard.
	Host string

	// Broker selects the brokers to use on ZMQ. The zero value means none.
	Broker BrokerConfig

	// IOThreads is the number of threads that libzmq uses, 64 at most; 0 means 1,
	// which suffices for most programs.
	IOThreads int

	// QueueSize is the number of received events that a subscriber holds for Next;
	// 0 means 65,536. SubscriberOptions.Overflow selects what happens to further
	// ones.
	QueueSize int

	// QueueBytes bounds the same events by their size in bytes, whichever bound
	// is reached first; 0 means 64 MiB. An event of kv-events with 500 blocks has
	// about 28 KB, so that fewer than 2,400 of them fit. A single event may be
	// larger than the bound.
	QueueBytes int

	// HistoryBytes bounds the events that all publishers of the client keep, which
	// are those that PublisherOptions.History describes; 0 means 256 MiB. While it is
	// exceeded, each publisher keeps an equal share at most. Negative turns off all
	// histories.
	HistoryBytes int

	// NATS holds the settings of the connection that the client dials when it is
	// first used, and closes in Shutdown. It is ignored on ZMQ. If the server ends
	// that connection for good, everything that is open on it fails with
	// [nats.ErrConnectionClosed], and the next publisher or subscriber dials again.
	NATS natsconn.Config

	// NATSConn is an open connection of the caller to use instead of dialling
	// one. NATS must then be its zero value; [ConfigFromEnv] sets it. The
	// client never closes or drains the connection; Shutdown removes all
	// subscriptions that the client made. It is ignored on ZMQ.
	//
	// The options of the connection apply, and some change how events travel:
	//
	//   - A write to a server that has stopped reading ends after one minute unless
	//     [nats.FlusherTimeout] changes it; connections of package natsconn have two
	//     seconds. Publish does not wait for it, but Client.Shutdown may.
	//   - After 60 attempts to reconnect, unless [nats.MaxReconnects] changes
	//     it, the connection is closed. Next, Publish and the opening of
	//     publishers and subscribers then fail with [nats.ErrConnectionClosed].
	//   - A subscription that the server does not permit fails in Next only with
	//     [nats.PermissionErrOnSubscribe]. Without it, it receives nothing, and
	//     the error handler of the connection is called.
	//   - With [nats.NoEcho], the subscribers of a client do not receive the
	//     events of its own publishers.
	NATSConn *nats.Conn

	// Reason states in one line where the settings come from. New logs it.
	Reason string

	// transportAssumed is set if Transport is a default. Publishers and
	// subscribers then warn of publishers with another one.
	transportAssumed bool

	// assumedCodec is Codec if that is a default. The client then warns of
	// events in another one.
	assumedCodec codec.Codec

	// Logger receives what the client logs: Info for the settings, Warn for
	// losses, Debug for connections. Nil discards it.
	Logger *slog.Logger
}

// resolve checks c and returns it with the defaults filled in, except for Host.
func (c Config) resolve() (Config, error) {
	switch c.Transport {
	case "":
		c.Transport, c.transportAssumed = discovery.TransportNATS, true
	case discovery.TransportNATS, discovery.TransportZMQ:
	default:
		return c, fmt.Errorf("transport %q: want %s or %s", c.Transport, discovery.TransportNATS, discovery.TransportZMQ)
	}
	if c.Codec == nil {
		c.Codec = defaultCodec(c.Transport)
		c.assumedCodec = c.Codec
	}
	if c.Wire != WireGen2 && c.Wire != WireGen1 {
		return c, fmt.Errorf("wire format %v: want WireGen2 or WireGen1", c.Wire)
	}
	if c.Host != "" {
		if _, err := parseHost(c.Host); err != nil {
			return c, err
		}
	}
	if c.HistoryBytes == 0 {
		c.HistoryBytes = defaultHistoryCap
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Reason == "" {
		c.Reason = "set by the program"
	}
	if c.Transport == discovery.TransportNATS {
		if err := c.checkNATS(); err != nil {
			return c, err
		}
	}
	return c, c.Broker.validate()
}

// defaultCodec returns the codec that Dynamo uses on a transport by default.
func defaultCodec(transport string) codec.Codec {
	if transport == discovery.TransportZMQ {
		return codec.Msgpack
	}
	return codec.JSON
}

// parseHost parses an address that can be advertised to peers.
func parseHost(host string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(host)
	addr = addr.Unmap()
	switch {
	case err != nil:
		return addr, fmt.Errorf("host %q: want an IP address", host)
	case addr.IsUnspecified():
		return addr, fmt.Errorf("host %q: want an address that peers can reach, not the wildcard", host)
	case addr.Zone() != "":
		return addr, fmt.Errorf("host %q: want an address without a zone, which is valid on this machine only", host)
	}
	return addr, nil
}

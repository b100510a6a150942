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

// WireFormat is the generation of the runtime whose form is written where the two
// differ. Everything that can be read in either form is.
type WireFormat uint8

// The generations. In WireGen2 the segments of a subject are percent-encoded, a
// scope can be an endpoint, and brokers route by the whole subject. In WireGen1
// segments are raw, and brokers route by the topic alone, so that all scopes
// that share a broker hear each other.
const (
	WireGen2 WireFormat = iota // releases since 1.4, and the default
	WireGen1                   // releases 0.9 to 1.3
)

// String returns gen2 or gen1, the values of DYN_EVENT_PLANE_WIRE.
func (w WireFormat) String() string {
	switch w {
	case WireGen2:
		return "gen2"
	case WireGen1:
		return "gen1"
	}
	return fmt.Sprintf("WireFormat(%d)", uint8(w))
}

// Config says how events travel. The zero value is JSON over NATS on
// localhost.
type Config struct {
	// Transport is discovery.TransportNATS or TransportZMQ; empty is NATS.
	Transport string

	// Codec encodes what is published; nil is JSON on NATS and msgpack on ZMQ.
	Codec codec.Codec

	// Wire is the generation whose form is written.
	Wire WireFormat

	// Host is the IP address that ZMQ publishers advertise; empty is that of
	// this machine. A loopback address is also what is bound, anything else
	// binds the wildcard.
	Host string

	// Broker makes ZMQ travel through brokers; the zero value is direct.
	Broker BrokerConfig

	// IOThreads is how many threads libzmq uses; 0 is 1, which is plenty for
	// most. QueueSize is how many received events a ZMQ subscriber holds for Next
	// before it drops the newest; 0 is 100,000. Both concern ZMQ alone.
	IOThreads, QueueSize int

	// NATS has the settings of the connection that the client dials when it is
	// first used, and closes in Shutdown. It is ignored on ZMQ.
	NATS natsconn.Config

	// NATSConn is an open connection of the caller to use instead of dialling
	// one. NATS must then be its zero value; [ConfigFromEnv] sets it. The
	// client never closes or drains the connection; Shutdown removes all
	// subscriptions that the client made. It is ignored on ZMQ.
	//
	// The options of the connection apply, and some change how events travel:
	//
	//   - While disconnected, a connection buffers what is published, 8 MiB
	//     unless [nats.ReconnectBufSize] changes it. Publish then succeeds, and
	//     the events arrive late, after the reconnect. With a size of -1, which
	//     connections of package natsconn have, Publish fails instead with
	//     [nats.ErrReconnectBufExceeded].
	//   - After 60 attempts to reconnect, unless [nats.MaxReconnects] changes
	//     it, the connection is closed. Next, Publish and the opening of
	//     publishers and subscribers then fail with [nats.ErrConnectionClosed].
	//   - A subscription that the server does not permit fails in Next only with
	//     [nats.PermissionErrOnSubscribe]. Without it, it receives nothing, and
	//     the error handler of the connection is called.
	//   - With [nats.NoEcho], the subscribers of a client do not receive the
	//     events of its own publishers.
	NATSConn *nats.Conn

	// Reason says in a line why the settings are what they are, for the log.
	Reason string

	// Logger is silent if nil.
	Logger *slog.Logger
}

// resolve checks c and fills in the defaults, but for Host.
func (c Config) resolve() (Config, error) {
	switch c.Transport {
	case "":
		c.Transport = discovery.TransportNATS
	case discovery.TransportNATS, discovery.TransportZMQ:
	default:
		return c, fmt.Errorf("transport %q: want %s or %s", c.Transport, discovery.TransportNATS, discovery.TransportZMQ)
	}
	if c.Codec == nil {
		c.Codec = defaultCodec(c.Transport)
	}
	if c.Wire != WireGen2 && c.Wire != WireGen1 {
		return c, fmt.Errorf("wire %v: want WireGen2 or WireGen1", c.Wire)
	}
	if c.Host != "" {
		if _, err := parseHost(c.Host); err != nil {
			return c, err
		}
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

func defaultCodec(transport string) codec.Codec {
	if transport == discovery.TransportZMQ {
		return codec.Msgpack
	}
	return codec.JSON
}

// parseHost refuses what cannot be told to others.
func parseHost(host string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(host)
	addr = addr.Unmap()
	switch {
	case err != nil:
		return addr, fmt.Errorf("host %q: want an IP address", host)
	case addr.IsUnspecified():
		return addr, fmt.Errorf("host %q: want an address that others can reach, not the wildcard", host)
	case addr.Zone() != "":
		return addr, fmt.Errorf("host %q: want an address without a zone, which means nothing elsewhere", host)
	}
	return addr, nil
}

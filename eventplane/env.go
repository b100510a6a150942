package eventplane

import (
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/discovery"
	zmqdriver "github.com/dynplane/dynplane/eventplane/zmq"
	"github.com/dynplane/dynplane/natsconn"
)

// ConfigFromEnv reads a Config from the environment variables below. Programs
// pass os.LookupEnv. The error for an invalid value names the variable, the
// value and the valid values.
//
//	DYN_EVENT_PLANE          nats or zmq. Unset or empty: zmq if DYN_DISCOVERY_BACKEND
//	                         is mem, file, etcd or kubernetes, otherwise nats
//	DYN_EVENT_PLANE_CODEC    json or msgpack. Unset or empty: msgpack on ZMQ and with
//	                         the stores file, etcd and kubernetes, otherwise json
//	DYN_EVENT_PLANE_WIRE     gen2 (default) or gen1
//	DYN_EVENT_PLANE_HOST     IP address or name of an interface; see HostFromEnv
//	DYN_ZMQ_BROKER_URL       see ParseBroker. If set, even to nothing, the next is ignored
//	DYN_ZMQ_BROKER_ENABLED   1 true on yes: find brokers by discovery; 0 false off no
//	DYN_ZMQ_IO_THREADS       threads of libzmq, from 1 to 64. Unset or empty: 1
//	DYN_ZMQ_EVENT_SUBSCRIBER_CHANNEL_CAPACITY
//	                         events that a ZMQ subscriber holds; anything but a positive integer
//	                         means the default, as in Dynamo. Config.QueueBytes bounds them too
//	NATS_SERVER, NATS_AUTH_*, NATS_TLS_*   see natsconn.FromEnv
//
// The variables of the other transport are not read. A program whose flags
// override a variable must therefore do so in lookup, not in the result.
func ConfigFromEnv(lookup func(string) (string, bool)) (Config, error) {
	return configFrom(environment{lookup: lookup})
}

// ConfigFromEnvLenient is like [ConfigFromEnv], except that it logs a warning to
// log, which may be nil, and treats the variable as unset, if DYN_EVENT_PLANE,
// DYN_EVENT_PLANE_CODEC, DYN_EVENT_PLANE_WIRE, DYN_ZMQ_IO_THREADS or
// DYN_ZMQ_BROKER_ENABLED is invalid. Other invalid values, which no default can
// replace, are errors here too. The discovery stores in files and etcd, which also
// read DYN_EVENT_PLANE_WIRE, have no lenient form: an invalid value is their error.
func ConfigFromEnvLenient(lookup func(string) (string, bool), log *slog.Logger) (Config, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return configFrom(environment{lookup, log})
}

// environment reads variables. With a logger it is lenient.
type environment struct {
	lookup func(string) (string, bool)
	log    *slog.Logger
}

// configFrom adds the package to the errors of env.config.
func configFrom(env environment) (Config, error) {
	c, err := env.config()
	if err != nil {
		return Config{}, fmt.Errorf("eventplane: %w", err)
	}
	return c, nil
}

// config reads all variables. It builds Config.Reason on the way: one clause for
// each setting, with the variable or default that it comes from.
func (env environment) config() (Config, error) {
	transport, assumed, why, err := env.transport()
	if err != nil {
		return Config{}, err
	}
	c := Config{Transport: transport, Reason: why, transportAssumed: assumed}
	name, err := env.oneOf("DYN_EVENT_PLANE_CODEC", codec.JSON.Name(), codec.Msgpack.Name())
	if err != nil {
		return c, err
	}
	backend := env.get("DYN_DISCOVERY_BACKEND")
	switch {
	case name != "":
		c.Reason += fmt.Sprintf("; codec %s from DYN_EVENT_PLANE_CODEC", name)
		if c.Codec, err = codec.Lookup(name); err != nil {
			return c, err
		}
	case isDynamoStore(backend):
		c.Codec, c.assumedCodec = codec.Msgpack, codec.Msgpack
		c.Reason += fmt.Sprintf("; codec %s, the default with DYN_DISCOVERY_BACKEND %s", c.Codec.Name(), backend)
	default:
		c.Reason += fmt.Sprintf("; codec %s, the default on %s", defaultCodec(transport).Name(), transport)
	}
	wire, err := env.oneOf("DYN_EVENT_PLANE_WIRE", WireGen2.String(), WireGen1.String())
	if err != nil {
		return c, err
	}
	if wire == WireGen1.String() {
		c.Wire = WireGen1
	}
	if transport == discovery.TransportZMQ {
		err = env.zmq(&c)
	} else {
		c.NATS, err = natsconn.FromEnv(env.lookup)
	}
	return c, err
}

// transport returns the transport and the clause for Config.Reason. As in Dynamo,
// the default depends on the discovery backend.
func (env environment) transport() (name string, assumed bool, why string, err error) {
	name, err = env.oneOf("DYN_EVENT_PLANE", discovery.TransportNATS, discovery.TransportZMQ)
	if err != nil {
		return "", false, "", err
	}
	if name != "" {
		return name, false, fmt.Sprintf("transport %s from DYN_EVENT_PLANE", name), nil
	}
	backend := env.get("DYN_DISCOVERY_BACKEND")
	name = discovery.TransportNATS
	if backend == "mem" || isDynamoStore(backend) {
		name = discovery.TransportZMQ
	}
	if backend == "" {
		return name, true, fmt.Sprintf("transport %s, the default", name), nil
	}
	return name, true, fmt.Sprintf("transport %s, the default with DYN_DISCOVERY_BACKEND %s", name, backend), nil
}

// isDynamoStore reports whether a discovery backend is one where Dynamo's own
// workers register. The defaults there are those of Dynamo 1.3 and later: ZMQ,
// and msgpack on every transport.
func isDynamoStore(backend string) bool {
	return backend == "file" || backend == "etcd" || backend == "kubernetes"
}

// zmq reads the variables of ZMQ.
func (env environment) zmq(c *Config) (err error) {
	if c.Host, err = env.host(); err != nil {
		return err
	}
	if c.IOThreads, err = env.ioThreads("DYN_ZMQ_IO_THREADS"); err != nil {
		return err
	}
	c.QueueSize = positive(env.get("DYN_ZMQ_EVENT_SUBSCRIBER_CHANNEL_CAPACITY"))
	if url, ok := env.lookup("DYN_ZMQ_BROKER_URL"); ok {
		if c.Broker, err = parseBroker(url); err != nil {
			return fmt.Errorf("DYN_ZMQ_BROKER_URL %w", err)
		}
		c.Reason += "; brokers from DYN_ZMQ_BROKER_URL"
		return nil
	}
	if c.Broker.Discover, err = env.truthy("DYN_ZMQ_BROKER_ENABLED"); err != nil {
		return err
	}
	if c.Broker.Discover {
		c.Reason += "; brokers by discovery from DYN_ZMQ_BROKER_ENABLED"
	} else {
		c.Reason += "; direct, the default without a broker"
	}
	return nil
}

// get returns the value of a variable, or "" if it is unset.
func (env environment) get(name string) string {
	value, _ := env.lookup(name)
	return value
}

// oneOf returns the value of a variable, or "" if it is unset or empty.
func (env environment) oneOf(name string, valid ...string) (string, error) {
	value := env.get(name)
	if value == "" {
		return "", nil
	}
	if slices.Contains(valid, value) {
		return value, nil
	}
	return "", env.invalid(name, value, strings.Join(valid, " or "))
}

// truthy parses a boolean in the spellings that Dynamo accepts.
func (env environment) truthy(name string) (bool, error) {
	value := env.get(name)
	switch strings.ToLower(strings.TrimSpace(value)) {
	case "1", "true", "on", "yes":
		return true, nil
	case "", "0", "false", "off", "no":
		return false, nil
	}
	return false, env.invalid(name, value, "1, true, on, yes, 0, false, off or no")
}

// ioThreads parses a number of threads; 0 means that there is none.
func (env environment) ioThreads(name string) (int, error) {
	value := env.get(name)
	n := positive(value)
	if (n == 0 && value != "") || n > zmqdriver.MaxIOThreads {
		return 0, env.invalid(name, value, fmt.Sprintf("an integer from 1 to %d", zmqdriver.MaxIOThreads))
	}
	return n, nil
}

// positive returns 0 for anything but a positive integer.
func positive(value string) int {
	n, err := strconv.ParseUint(value, 10, 31)
	if err != nil {
		return 0
	}
	return int(n)
}

// invalid returns the error for a value, or logs it and returns nil if reading
// is lenient.
func (env environment) invalid(name, value, want string) error {
	if env.log == nil {
		return fmt.Errorf("%s %q: want %s", name, value, want)
	}
	env.log.Warn("eventplane: invalid environment variable, treating it as unset", "name", name, "value", value, "want", want)
	return nil
}

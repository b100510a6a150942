package eventplane_test

import (
	"bytes"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/dynplane/dynplane/codec"
	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/eventplane"
)

type env map[string]string

func (e env) lookup(name string) (string, bool) {
	value, ok := e[name]
	return value, ok
}

func TestConfigFromEnv(t *testing.T) {
	t.Parallel()
	zmq := func(more ...string) env {
		e := env{"DYN_EVENT_PLANE": "zmq"}
		for i := 0; i < len(more); i += 2 {
			e[more[i]] = more[i+1]
		}
		return e
	}
	one := eventplane.BrokerConfig{XSub: []string{"tcp://a:1"}, XPub: []string{"tcp://a:2"}}
	for name, tc := range map[string]struct {
		env  env
		want eventplane.Config // but Reason and NATS
	}{
		"nothing":          {env{}, eventplane.Config{Transport: "nats"}},
		"empty":            {env{"DYN_EVENT_PLANE": "", "DYN_EVENT_PLANE_CODEC": "", "DYN_EVENT_PLANE_WIRE": "", "DYN_EVENT_PLANE_HOST": ""}, eventplane.Config{Transport: "nats"}},
		"nats":             {env{"DYN_EVENT_PLANE": "nats", "DYN_DISCOVERY_BACKEND": "mem"}, eventplane.Config{Transport: "nats"}},
		"zmq":              {zmq(), eventplane.Config{Transport: "zmq"}},
		"memory":           {env{"DYN_DISCOVERY_BACKEND": "mem"}, eventplane.Config{Transport: "zmq"}},
		"file":             {env{"DYN_DISCOVERY_BACKEND": "file", "DYN_EVENT_PLANE": ""}, eventplane.Config{Transport: "zmq", Codec: codec.Msgpack}},
		"etcd":             {env{"DYN_DISCOVERY_BACKEND": "etcd"}, eventplane.Config{Transport: "zmq", Codec: codec.Msgpack}},
		"kubernetes":       {env{"DYN_DISCOVERY_BACKEND": "kubernetes"}, eventplane.Config{Transport: "zmq", Codec: codec.Msgpack}},
		"nats with etcd":   {env{"DYN_DISCOVERY_BACKEND": "etcd", "DYN_EVENT_PLANE": "nats"}, eventplane.Config{Transport: "nats", Codec: codec.Msgpack}},
		"JSON with etcd":   {env{"DYN_DISCOVERY_BACKEND": "etcd", "DYN_EVENT_PLANE_CODEC": "json"}, eventplane.Config{Transport: "zmq", Codec: codec.JSON}},
		"the NATS bucket":  {env{"DYN_DISCOVERY_BACKEND": "nats"}, eventplane.Config{Transport: "nats"}},
		"an ambient NATS":  {env{"DYN_DISCOVERY_BACKEND": "mem", "NATS_SERVER": "nats://127.0.0.1:1"}, eventplane.Config{Transport: "zmq"}},
		"json":             {zmq("DYN_EVENT_PLANE_CODEC", "json"), eventplane.Config{Transport: "zmq", Codec: codec.JSON}},
		"msgpack":          {env{"DYN_EVENT_PLANE_CODEC": "msgpack"}, eventplane.Config{Transport: "nats", Codec: codec.Msgpack}},
		"gen1":             {env{"DYN_EVENT_PLANE_WIRE": "gen1"}, eventplane.Config{Transport: "nats", Wire: eventplane.WireGen1}},
		"gen2":             {env{"DYN_EVENT_PLANE_WIRE": "gen2"}, eventplane.Config{Transport: "nats"}},
		"host":             {zmq("DYN_EVENT_PLANE_HOST", " 10.0.0.7\t"), eventplane.Config{Transport: "zmq", Host: "10.0.0.7"}},
		"blank host":       {zmq("DYN_EVENT_PLANE_HOST", "  "), eventplane.Config{Transport: "zmq"}},
		"IPv6 host":        {zmq("DYN_EVENT_PLANE_HOST", "2001:DB8::1"), eventplane.Config{Transport: "zmq", Host: "2001:db8::1"}},
		"IPv4 in IPv6":     {zmq("DYN_EVENT_PLANE_HOST", "::ffff:10.0.0.7"), eventplane.Config{Transport: "zmq", Host: "10.0.0.7"}},
		"interface":        {zmq("DYN_EVENT_PLANE_HOST", loopback(t)), eventplane.Config{Transport: "zmq", Host: "127.0.0.1"}},
		"broker":           {zmq("DYN_ZMQ_BROKER_URL", "xsub=tcp://a:1,xpub=tcp://a:2"), eventplane.Config{Transport: "zmq", Broker: one}},
		"broker, reversed": {zmq("DYN_ZMQ_BROKER_URL", "xpub=tcp://a:2,xsub=tcp://a:1"), eventplane.Config{Transport: "zmq", Broker: one}},
		"brokers, blanks": {zmq("DYN_ZMQ_BROKER_URL", " xsub= tcp://a:1 ; ;tcp://b:1; , xpub=tcp://a:2;tcp://b:2 "), eventplane.Config{Transport: "zmq", Broker: eventplane.BrokerConfig{
			XSub: []string{"tcp://a:1", "tcp://b:1"}, XPub: []string{"tcp://a:2", "tcp://b:2"},
		}}},
		"URL wins over discovery":  {zmq("DYN_ZMQ_BROKER_URL", "xsub=tcp://a:1,xpub=tcp://a:2", "DYN_ZMQ_BROKER_ENABLED", "true"), eventplane.Config{Transport: "zmq", Broker: one}},
		"enabled":                  {zmq("DYN_ZMQ_BROKER_ENABLED", " YES "), eventplane.Config{Transport: "zmq", Broker: eventplane.BrokerConfig{Discover: true}}},
		"enabled 1":                {zmq("DYN_ZMQ_BROKER_ENABLED", "1"), eventplane.Config{Transport: "zmq", Broker: eventplane.BrokerConfig{Discover: true}}},
		"disabled":                 {zmq("DYN_ZMQ_BROKER_ENABLED", "Off"), eventplane.Config{Transport: "zmq"}},
		"tuning":                   {zmq("DYN_ZMQ_IO_THREADS", "4", "DYN_ZMQ_EVENT_SUBSCRIBER_CHANNEL_CAPACITY", "5000"), eventplane.Config{Transport: "zmq", IOThreads: 4, QueueSize: 5000}},
		"tuning that is none":      {zmq("DYN_ZMQ_IO_THREADS", "", "DYN_ZMQ_EVENT_SUBSCRIBER_CHANNEL_CAPACITY", "0"), eventplane.Config{Transport: "zmq"}},
		"disabled, empty":          {zmq("DYN_ZMQ_BROKER_ENABLED", ""), eventplane.Config{Transport: "zmq"}},
		"of the other transport":   {env{"DYN_ZMQ_BROKER_URL": "nonsense", "DYN_EVENT_PLANE_HOST": "nonsense"}, eventplane.Config{Transport: "nats"}},
		"of the other transport 2": {zmq("NATS_SERVER", "nonsense"), eventplane.Config{Transport: "zmq"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := eventplane.ConfigFromEnv(tc.env.lookup)
			must(t, err)
			if got.Transport != tc.want.Transport || got.Codec != tc.want.Codec || got.Wire != tc.want.Wire || got.Host != tc.want.Host {
				t.Errorf("config %+v: want %+v", got, tc.want)
			}
			if got.Broker.String() != tc.want.Broker.String() || !slices.Equal(got.Broker.XSub, tc.want.Broker.XSub) {
				t.Errorf("broker %+v: want %+v", got.Broker, tc.want.Broker)
			}
			if !strings.Contains(got.Reason, "transport "+tc.want.Transport) || strings.Contains(got.Reason, "\n") {
				t.Errorf("reason %q: want a line about transport %s", got.Reason, tc.want.Transport)
			}
		})
	}
}

func TestConfigFromEnvRefuses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		variable, value string
		want            []string // in the error, beside variable and value
		lenient         bool     // counts as unset where reading is lenient
	}{
		"transport":             {"DYN_EVENT_PLANE", "kafka", []string{"nats or zmq"}, true},
		"transport, upper case": {"DYN_EVENT_PLANE", "ZMQ", []string{"nats or zmq"}, true},
		"codec":                 {"DYN_EVENT_PLANE_CODEC", "xml", []string{"json or msgpack"}, true},
		"codec, upper case":     {"DYN_EVENT_PLANE_CODEC", "JSON", []string{"json or msgpack"}, true},
		"wire":                  {"DYN_EVENT_PLANE_WIRE", "2", []string{"gen2 or gen1"}, true},
		"enabled":               {"DYN_ZMQ_BROKER_ENABLED", "maybe", []string{"true", "false"}, true},
		"threads, none":         {"DYN_ZMQ_IO_THREADS", "0", []string{"integer from 1"}, true},
		"threads, negative":     {"DYN_ZMQ_IO_THREADS", "-1", []string{"integer from 1"}, true},
		"threads, a word":       {"DYN_ZMQ_IO_THREADS", "many", []string{"integer from 1"}, true},
		"threads, too many":     {"DYN_ZMQ_IO_THREADS", "65", []string{"integer from 1 to 64"}, true},
		"threads, far too many": {"DYN_ZMQ_IO_THREADS", "2147483648", []string{"integer from 1"}, true},
		"host, wildcard":        {"DYN_EVENT_PLANE_HOST", "0.0.0.0", []string{"wildcard"}, false},
		"host, IPv6 wildcard":   {"DYN_EVENT_PLANE_HOST", "::", []string{"wildcard"}, false},
		"host, hidden wildcard": {"DYN_EVENT_PLANE_HOST", "::ffff:0.0.0.0", []string{"wildcard"}, false},
		"host, zone":            {"DYN_EVENT_PLANE_HOST", "fe80::1%eth0", []string{"zone"}, false},
		"host, no such":         {"DYN_EVENT_PLANE_HOST", "no-such-interface", []string{"IP address", "interface"}, false},
		"URL, empty":            {"DYN_ZMQ_BROKER_URL", "", []string{"xsub=", "xpub="}, false},
		"URL, one part":         {"DYN_ZMQ_BROKER_URL", "xsub=tcp://a:1", []string{"1 parts"}, false},
		"URL, three parts":      {"DYN_ZMQ_BROKER_URL", "xsub=a,xpub=b,xpub=c", []string{"3 parts"}, false},
		"URL, twice":            {"DYN_ZMQ_BROKER_URL", "xsub=tcp://a:1,xsub=tcp://b:1", []string{"repeated"}, false},
		"URL, no endpoint":      {"DYN_ZMQ_BROKER_URL", "xsub=tcp://a:1,xpub= ; ", []string{"xpub is empty"}, false},
		"URL, other name":       {"DYN_ZMQ_BROKER_URL", "xsub=tcp://a:1,sub=tcp://a:2", []string{"xsub=", "xpub="}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := env{"DYN_EVENT_PLANE": "zmq", tc.variable: tc.value}
			_, err := eventplane.ConfigFromEnv(e.lookup)
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range append(tc.want, "eventplane: ", tc.variable, `"`+tc.value+`"`) {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q: want %s in it", err, part)
				}
			}
			var log bytes.Buffer
			_, err = eventplane.ConfigFromEnvLenient(e.lookup, slog.New(slog.NewTextHandler(&log, nil)))
			if warned := strings.Contains(log.String(), tc.variable); (err == nil) != tc.lenient || warned != tc.lenient {
				t.Errorf("leniently: error %v, log %q: want lenient %v", err, log.String(), tc.lenient)
			}
			if _, err := eventplane.ConfigFromEnvLenient(e.lookup, nil); (err == nil) != tc.lenient {
				t.Errorf("leniently and silently: error %v", err)
			}
		})
	}
}

// loopback returns the name of the interface that has 127.0.0.1.
func loopback(t *testing.T) string {
	t.Helper()
	all, err := net.Interfaces()
	must(t, err)
	for _, iface := range all {
		if iface.Flags&net.FlagLoopback != 0 {
			return iface.Name
		}
	}
	t.Fatal("no loopback interface")
	return ""
}

func TestHostFromEnv(t *testing.T) {
	t.Parallel()
	host, err := eventplane.HostFromEnv(env{}.lookup)
	must(t, err)
	if addr, err := netip.ParseAddr(host); err != nil || addr.IsUnspecified() {
		t.Errorf("host %q: want an address of this machine", host)
	}
	host, err = eventplane.HostFromEnv(env{"DYN_EVENT_PLANE_HOST": "::1"}.lookup)
	if err != nil || host != "::1" {
		t.Errorf("host %q, %v: want ::1", host, err)
	}
	if _, err := eventplane.HostFromEnv(env{"DYN_EVENT_PLANE_HOST": "*"}.lookup); err == nil {
		t.Error("a wildcard is no host")
	}
}

func TestBrokerURLBothWays(t *testing.T) {
	t.Parallel()
	const url = "xsub=tcp://a:1;tcp://b:1,xpub=tcp://a:2"
	b, err := eventplane.ParseBroker(url)
	if err != nil || b.String() != url {
		t.Errorf("%v, %v: want %s", b, err, url)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]eventplane.Config{
		"transport":       {Transport: "kafka"},
		"wire":            {Wire: 7},
		"host":            {Host: "localhost"},
		"half a broker":   {Broker: eventplane.BrokerConfig{XSub: []string{"tcp://a:1"}}},
		"other half":      {Broker: eventplane.BrokerConfig{XPub: []string{"tcp://a:1"}}},
		"broker, a blank": {Broker: eventplane.BrokerConfig{XSub: []string{""}, XPub: []string{"tcp://a:1"}}},
	} {
		if _, err := eventplane.New(cfg, nil); err == nil || !strings.HasPrefix(err.Error(), "eventplane: ") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestNewLogsTheResolvedConfig(t *testing.T) {
	t.Parallel()
	cfg, err := eventplane.ConfigFromEnv(env{"DYN_EVENT_PLANE_CODEC": "msgpack"}.lookup)
	must(t, err)
	var log bytes.Buffer
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	newPlane(t, cfg, discovery.NewClient(memory.New().Open(), discovery.Options{}))
	got := log.String()
	for _, part := range []string{"level=INFO", "transport=nats", "codec=msgpack", "wire=gen2", "broker=none", "DYN_EVENT_PLANE_CODEC"} {
		if strings.Count(got, "\n") != 1 || !strings.Contains(got, part) {
			t.Errorf("log %q: want one line with %s", got, part)
		}
	}
}

func FuzzParseBroker(f *testing.F) {
	f.Add("xsub=tcp://a:1;tcp://b:1,xpub=tcp://a:2")
	f.Add(" xpub= ;tcp://[::1]:2 , xsub=tcp://a:1;")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		b, err := eventplane.ParseBroker(s)
		if err != nil {
			return
		}
		again, err := eventplane.ParseBroker(b.String())
		if err != nil || !slices.Equal(again.XSub, b.XSub) || !slices.Equal(again.XPub, b.XPub) {
			t.Errorf("%q is %+v, and then %+v, %v", s, b, again, err)
		}
	})
}

// The names are those under which Dynamo's own brokers register.
func TestBrokerChannel(t *testing.T) {
	t.Parallel()
	got := eventplane.BrokerChannel("ns", eventplane.BrokerConfig{XSub: []string{"tcp://a:1"}, XPub: []string{"tcp://a:2"}})
	want := discovery.EventChannel{
		Scope: discovery.Scope{Namespace: "ns", Component: "zmq_broker"}, Topic: "broker",
		Transport: discovery.ZMQBroker{XSubEndpoints: []string{"tcp://a:1"}, XPubEndpoints: []string{"tcp://a:2"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v: want %+v", got, want)
	}
}

package eventplane

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/dynplane/dynplane/discovery"
)

// The component and topic that brokers register under, in any namespace.
const (
	brokerComponent = "zmq_broker"
	brokerTopic     = "broker"
)

// BrokerConfig selects the ZMQ brokers to use. Endpoints take precedence over
// Discover. The zero value means no broker.
type BrokerConfig struct {
	// XSub lists the endpoints that publishers connect to, XPub those that
	// subscribers connect to. Each connects to all of its list. Either both
	// are set or neither.
	XSub, XPub []string

	// Discover selects the brokers that are registered in the namespace of the
	// publisher or subscriber; see [BrokerChannel].
	Discover bool
}

// BrokerChannel returns the spec that a broker must register in a namespace for
// BrokerConfig.Discover to find it: component zmq_broker, topic broker. The
// endpoints are those of cfg, as clients can reach them.
func BrokerChannel(namespace string, cfg BrokerConfig) discovery.EventChannel {
	return discovery.EventChannel{
		Scope:     brokerScope(namespace),
		Topic:     brokerTopic,
		Transport: discovery.ZMQBroker{XSubEndpoints: cfg.XSub, XPubEndpoints: cfg.XPub},
	}
}

// brokerScope returns the scope that the brokers of a namespace register in.
func brokerScope(namespace string) discovery.Scope {
	return discovery.Scope{Namespace: namespace, Component: brokerComponent}
}

// brokerQuery matches the brokers of a namespace. Like Dynamo, it accepts any
// topic.
func brokerQuery(namespace string) discovery.Query {
	return discovery.Query{Kind: discovery.KindEventChannel, Scope: brokerScope(namespace)}
}

// brokerOf returns the endpoints of a broker that brokerQuery found. It reports
// false for other channels, such as those of scopes below the broker's.
func brokerOf(ch discovery.EventChannel, namespace string) (BrokerConfig, bool) {
	t, ok := ch.Transport.(discovery.ZMQBroker)
	if !ok || ch.Scope != brokerScope(namespace) {
		return BrokerConfig{}, false
	}
	return BrokerConfig{XSub: t.XSubEndpoints, XPub: t.XPubEndpoints}, true
}

// enabled reports whether events travel through brokers.
func (b BrokerConfig) enabled() bool { return b.Discover || len(b.XSub) > 0 }

// multipath reports whether an event can arrive on more than one path. Two
// endpoints of publishers can be names of one broker, which then relays each event
// twice.
func (b BrokerConfig) multipath() bool {
	if len(b.XPub) > 0 {
		return len(distinct(b.XPub)) > 1 || len(distinct(b.XSub)) > 1
	}
	return b.Discover
}

// validate checks the lists. It does not check the syntax of endpoints.
func (b BrokerConfig) validate() error {
	if (len(b.XSub) == 0) != (len(b.XPub) == 0) {
		return fmt.Errorf("broker %q: want XSub and XPub endpoints, or neither", b)
	}
	if slices.Contains(b.XSub, "") || slices.Contains(b.XPub, "") {
		return errors.New("broker: an endpoint is empty: want one like tcp://10.0.0.9:5555")
	}
	return nil
}

// distinct returns the endpoints sorted and without duplicates.
func distinct(endpoints []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(endpoints)))
}

// ParseBroker parses the syntax of DYN_ZMQ_BROKER_URL: the endpoints that
// publishers connect to and those that subscribers connect to, in either order.
// Blanks around names and endpoints are ignored:
//
//	xsub=tcp://10.0.0.9:5555;tcp://10.0.0.8:5555 , xpub=tcp://10.0.0.9:5556;tcp://10.0.0.8:5556
//
// The error quotes s. It does not check the endpoints: libzmq does when it
// connects.
func ParseBroker(s string) (BrokerConfig, error) {
	b, err := parseBroker(s)
	if err != nil {
		return BrokerConfig{}, fmt.Errorf("eventplane: broker URL %w", err)
	}
	return b, nil
}

// parseBroker returns errors that begin with s, for the caller to prefix with
// its source.
func parseBroker(s string) (BrokerConfig, error) {
	const want = "want xsub=URL[;URL…],xpub=URL[;URL…]"
	parts := strings.Split(s, ",")
	if len(parts) != 2 {
		return BrokerConfig{}, fmt.Errorf("%q has %d parts: %s", s, len(parts), want)
	}
	var b BrokerConfig
	for _, part := range parts {
		name, list, _ := strings.Cut(strings.TrimSpace(part), "=")
		endpoints := splitEndpoints(list)
		into := &b.XSub
		switch {
		case name == "xpub":
			into = &b.XPub
		case name != "xsub":
			return BrokerConfig{}, fmt.Errorf("%q: a part begins neither xsub= nor xpub=: %s", s, want)
		}
		if *into != nil || len(endpoints) == 0 {
			return BrokerConfig{}, fmt.Errorf("%q: %s is empty or repeated: %s", s, name, want)
		}
		*into = endpoints
	}
	return b, nil
}

// splitEndpoints splits a list at semicolons and drops empty elements.
func splitEndpoints(list string) []string {
	var out []string
	for endpoint := range strings.SplitSeq(list, ";") {
		if endpoint = strings.TrimSpace(endpoint); endpoint != "" {
			out = append(out, endpoint)
		}
	}
	return out
}

// String returns the endpoints in the syntax that [ParseBroker] parses,
// "discovered" if they are found by discovery, or "none" without a broker.
func (b BrokerConfig) String() string {
	switch {
	case len(b.XSub) > 0 || len(b.XPub) > 0:
		return "xsub=" + strings.Join(b.XSub, ";") + ",xpub=" + strings.Join(b.XPub, ";")
	case b.Discover:
		return "discovered"
	}
	return "none"
}

package eventplane

import (
	"fmt"
	"strings"
)

// ParseBroker reads the syntax of DYN_ZMQ_BROKER_URL: the endpoints that
// publishers connect to and those that subscribers connect to, with blanks
// wherever they are liked:
//
//	xsub=tcp://10.0.0.9:5555;tcp://10.0.0.8:5555 , xpub=tcp://10.0.0.9:5556;tcp://10.0.0.8:5556
func ParseBroker(s string) (BrokerConfig, error) {
	b, err := parseBroker(s)
	if err != nil {
		return BrokerConfig{}, fmt.Errorf("eventplane: broker URL %w", err)
	}
	return b, nil
}

// parseBroker leaves it to the caller to say where s is from.
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
			return BrokerConfig{}, fmt.Errorf("%q: %s is empty or there twice: %s", s, name, want)
		}
		*into = endpoints
	}
	return b, nil
}

func splitEndpoints(list string) []string {
	var out []string
	for endpoint := range strings.SplitSeq(list, ";") {
		if endpoint = strings.TrimSpace(endpoint); endpoint != "" {
			out = append(out, endpoint)
		}
	}
	return out
}

// String returns the endpoints in the syntax that [ParseBroker] reads,
// "discovered" where discovery is to find them, and "none" for no broker.
func (b BrokerConfig) String() string {
	switch {
	case len(b.XSub) > 0 || len(b.XPub) > 0:
		return "xsub=" + strings.Join(b.XSub, ";") + ",xpub=" + strings.Join(b.XPub, ";")
	case b.Discover:
		return "discovered"
	}
	return "none"
}

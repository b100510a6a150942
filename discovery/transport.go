package discovery

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// The values of Transport.Kind, equal to those of DYN_EVENT_PLANE.
const (
	TransportNATS = "nats"
	TransportZMQ  = "zmq"
)

// Transport describes how subscribers receive the events of a channel: [NATS],
// [ZMQ], [ZMQBroker] or [UnknownTransport].
type Transport interface {
	// Kind returns TransportNATS or TransportZMQ; both forms of ZMQ are zmq. It
	// is the name that was read for an UnknownTransport.
	Kind() string

	// Address returns the subject prefix, the endpoint, or the first XSUB
	// endpoint of a broker (empty if the broker has none, and for an
	// UnknownTransport).
	Address() string

	json.Marshaler
	sealed()
}

// NATS is a channel on NATS core subjects.
type NATS struct {
	SubjectPrefix string `json:"subject_prefix"` // without the topic
}

// ZMQ is a publisher that subscribers connect to.
type ZMQ struct {
	Endpoint string `json:"endpoint"` // such as tcp://10.0.0.7:41877

	// ReplayEndpoint answers requests for earlier events. It is empty if the
	// publisher keeps none. Dynamo ignores it.
	ReplayEndpoint string `json:"replay_endpoint,omitempty"`
}

// ZMQBroker is an XSUB/XPUB proxy: publishers connect to the XSUB endpoints,
// subscribers to the XPUB endpoints.
type ZMQBroker struct {
	XSubEndpoints []string `json:"xsub_endpoints"`
	XPubEndpoints []string `json:"xpub_endpoints"`

	// ReplayEndpoint is that of a publisher behind the brokers; see [ZMQ].
	ReplayEndpoint string `json:"replay_endpoint,omitempty"`
}

// UnknownTransport is a transport that this version of the package does not
// define. It is written as it was read. Subscribers count its channels as
// incompatible.
type UnknownTransport struct {
	Raw json.RawMessage
}

func (NATS) sealed()             {}
func (ZMQ) sealed()              {}
func (ZMQBroker) sealed()        {}
func (UnknownTransport) sealed() {}

// Kind implements Transport.
func (NATS) Kind() string { return TransportNATS }

// Kind implements Transport.
func (ZMQ) Kind() string { return TransportZMQ }

// Kind implements Transport.
func (ZMQBroker) Kind() string { return TransportZMQ }

// Kind implements Transport. It is empty if the transport has no name.
func (t UnknownTransport) Kind() string {
	var tagged struct {
		Kind string `json:"kind"`
	}
	_ = json.Unmarshal(t.Raw, &tagged) // any JSON is allowed
	return tagged.Kind
}

// Address implements Transport.
func (UnknownTransport) Address() string { return "" }

// Address implements Transport.
func (t NATS) Address() string { return t.SubjectPrefix }

// Address implements Transport.
func (t ZMQ) Address() string { return t.Endpoint }

// Address implements Transport.
func (t ZMQBroker) Address() string {
	if len(t.XSubEndpoints) == 0 {
		return ""
	}
	return t.XSubEndpoints[0]
}

// The JSON of a transport is tagged: {"kind":"Zmq","config":{…}}.
type transportJSON struct {
	Kind   string `json:"kind"`
	Config any    `json:"config"`
}

// The local types below have no MarshalJSON, which ends the recursion.

// MarshalJSON implements Transport.
func (t NATS) MarshalJSON() ([]byte, error) {
	type config NATS
	return json.Marshal(transportJSON{"Nats", config(t)})
}

// MarshalJSON implements Transport.
func (t ZMQ) MarshalJSON() ([]byte, error) {
	type config ZMQ
	return json.Marshal(transportJSON{"Zmq", config(t)})
}

// MarshalJSON implements Transport.
func (t ZMQBroker) MarshalJSON() ([]byte, error) {
	type config ZMQBroker
	// Readers require lists, not null.
	return json.Marshal(transportJSON{"ZmqBroker", config{
		append([]string{}, t.XSubEndpoints...), append([]string{}, t.XPubEndpoints...), t.ReplayEndpoint,
	}})
}

// MarshalJSON implements Transport.
func (t UnknownTransport) MarshalJSON() ([]byte, error) { return t.Raw, nil }

// unmarshalTransport parses a transport. One of a kind that is defined must have
// the form of that kind; any other JSON but null is kept as it is.
func unmarshalTransport(data []byte) (Transport, error) {
	var tagged struct {
		Kind   string          `json:"kind"`
		Config json.RawMessage `json:"config"`
	}
	_ = json.Unmarshal(data, &tagged)
	switch tagged.Kind {
	case "Nats":
		return unmarshalConfig[NATS](tagged.Kind, tagged.Config)
	case "Zmq":
		return unmarshalConfig[ZMQ](tagged.Kind, tagged.Config)
	case "ZmqBroker":
		return unmarshalConfig[ZMQBroker](tagged.Kind, tagged.Config)
	}
	if string(data) == "null" {
		return nil, errors.New("transport null: want an object with a kind")
	}
	return UnknownTransport{bytes.Clone(data)}, nil
}

func unmarshalConfig[T Transport](kind string, data []byte) (Transport, error) {
	var t T
	if err := json.Unmarshal(data, &t); err != nil {
		return nil, fmt.Errorf("config of transport %s: %w", kind, err)
	}
	return t, nil
}

// The values of RequestTransport.Kind that Dynamo defines.
const (
	RequestTCP     = "tcp"
	RequestNATSTCP = "nats_tcp"
)

// RequestTransport describes how requests reach an endpoint. Its JSON is
// {"tcp":"host:port/…"} or {"nats_tcp":"…"}; any other form is kept in Raw and
// written unchanged.
type RequestTransport struct {
	Kind    string
	Address string
	Raw     json.RawMessage
}

// TCP returns the transport of an endpoint on TCP, whose address is
// host:port/instance/endpoint.
func TCP(address string) RequestTransport {
	return RequestTransport{Kind: RequestTCP, Address: address}
}

// NATSTCP returns the transport of an endpoint that receives requests over NATS.
func NATSTCP(address string) RequestTransport {
	return RequestTransport{Kind: RequestNATSTCP, Address: address}
}

// MarshalJSON writes {kind: address}, or Raw if it is set.
func (t RequestTransport) MarshalJSON() ([]byte, error) {
	if t.Raw != nil {
		return t.Raw, nil
	}
	return json.Marshal(map[string]string{t.Kind: t.Address})
}

// UnmarshalJSON parses any JSON but null; see RequestTransport.
func (t *RequestTransport) UnmarshalJSON(data []byte) error {
	var tagged map[string]string
	if err := json.Unmarshal(data, &tagged); err == nil && len(tagged) == 1 {
		for _, kind := range []string{RequestTCP, RequestNATSTCP} {
			if address, ok := tagged[kind]; ok {
				*t = RequestTransport{Kind: kind, Address: address}
				return nil
			}
		}
	}
	if string(data) == "null" {
		return fmt.Errorf("transport null: want an object such as {%q:…}", RequestTCP)
	}
	*t = RequestTransport{Raw: append(json.RawMessage(nil), data...)}
	return nil
}

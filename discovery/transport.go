package discovery

import (
	"encoding/json"
	"fmt"
)

// The values of Transport.Kind, equal to those of DYN_EVENT_PLANE.
const (
	TransportNATS = "nats"
	TransportZMQ  = "zmq"
)

// Transport describes how subscribers receive the events of a channel: [NATS],
// [ZMQ] or [ZMQBroker].
type Transport interface {
	// Kind returns TransportNATS or TransportZMQ; both forms of ZMQ are zmq.
	Kind() string

	// Address returns the subject prefix, the endpoint, or the first XSUB
	// endpoint of a broker (empty if the broker has none).
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
}

// ZMQBroker is an XSUB/XPUB proxy: publishers connect to the XSUB endpoints,
// subscribers to the XPUB endpoints.
type ZMQBroker struct {
	XSubEndpoints []string `json:"xsub_endpoints"`
	XPubEndpoints []string `json:"xpub_endpoints"`
}

func (NATS) sealed()      {}
func (ZMQ) sealed()       {}
func (ZMQBroker) sealed() {}

// Kind implements Transport.
func (NATS) Kind() string { return TransportNATS }

// Kind implements Transport.
func (ZMQ) Kind() string { return TransportZMQ }

// Kind implements Transport.
func (ZMQBroker) Kind() string { return TransportZMQ }

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
		append([]string{}, t.XSubEndpoints...), append([]string{}, t.XPubEndpoints...),
	}})
}

func unmarshalTransport(data []byte) (Transport, error) {
	var tagged struct {
		Kind   string          `json:"kind"`
		Config json.RawMessage `json:"config"`
	}
	if err := json.Unmarshal(data, &tagged); err != nil {
		return nil, fmt.Errorf("transport: %w", err)
	}
	switch tagged.Kind {
	case "Nats":
		return unmarshalConfig[NATS](tagged.Kind, tagged.Config)
	case "Zmq":
		return unmarshalConfig[ZMQ](tagged.Kind, tagged.Config)
	case "ZmqBroker":
		return unmarshalConfig[ZMQBroker](tagged.Kind, tagged.Config)
	}
	return nil, fmt.Errorf("transport kind %q: want Nats, Zmq or ZmqBroker", tagged.Kind)
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

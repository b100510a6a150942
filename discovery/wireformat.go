package discovery

import "fmt"

// WireFormat is the generation of NVIDIA Dynamo whose format is written where
// the two differ: the keys of event channels in Dynamo's stores, and on the event
// plane the subjects. Both formats are read wherever the reader can distinguish
// them.
type WireFormat uint8

// The wire formats.
const (
	// WireGen2 is that of Dynamo 1.4 and later, and the default. The segments
	// of a subject are percent-encoded, a scope may be an endpoint, and brokers
	// route by the whole subject.
	WireGen2 WireFormat = iota

	// WireGen1 is that of Dynamo 0.9 to 1.3. Segments are written as they are,
	// and brokers route only by the topic: all scopes that share a broker
	// receive each other's events.
	WireGen1
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

// WireFormatFromEnv returns the format that DYN_EVENT_PLANE_WIRE names; unset or
// empty means WireGen2. The error names the variable and its valid values.
// lookup is usually os.LookupEnv.
func WireFormatFromEnv(lookup func(string) (string, bool)) (WireFormat, error) {
	switch value, _ := lookup("DYN_EVENT_PLANE_WIRE"); value {
	case "", WireGen2.String():
		return WireGen2, nil
	case WireGen1.String():
		return WireGen1, nil
	default:
		return WireGen2, fmt.Errorf("DYN_EVENT_PLANE_WIRE %q: want %v or %v", value, WireGen2, WireGen1)
	}
}

//go:build cgo && !nozmq

package rawzmq

/*
#include <stdlib.h>
#include <zmq.h>
*/
import "C"

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"
)

// EventKind is a change of a connection. Kinds can be combined with |.
type EventKind uint16

// The changes that a Monitor reports.
const (
	Accepted                EventKind = C.ZMQ_EVENT_ACCEPTED
	Connected               EventKind = C.ZMQ_EVENT_CONNECTED
	HandshakeSucceeded      EventKind = C.ZMQ_EVENT_HANDSHAKE_SUCCEEDED
	HandshakeFailedProtocol EventKind = C.ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL
	HandshakeFailedAuth     EventKind = C.ZMQ_EVENT_HANDSHAKE_FAILED_AUTH
	Disconnected            EventKind = C.ZMQ_EVENT_DISCONNECTED
	ConnectRetried          EventKind = C.ZMQ_EVENT_CONNECT_RETRIED
)

// Event is a change of one connection of a monitored socket.
type Event struct {
	Kind     EventKind
	Value    int    // of Accepted, Connected and Disconnected: the descriptor of the connection
	Endpoint string // as given to Connect, or with its name resolved
}

// Monitor reports the connections of a socket. It is not safe for concurrent
// use.
type Monitor struct {
	monitored *Socket
	events    *Socket
	receiver  *Receiver
}

// Monitor starts to report changes of the given kinds. A socket has at most
// one monitor, which the caller must close before the socket.
func (s *Socket) Monitor(kinds EventKind) (*Monitor, error) {
	endpoint := s.ctx.endpoint()
	c := C.CString(endpoint)
	defer C.free(unsafe.Pointer(c))
	if rc, err := C.zmq_socket_monitor(s.ptr, c, C.int(kinds)); rc != 0 {
		return nil, fmt.Errorf("monitor a socket: %w", failure(err))
	}
	m := &Monitor{monitored: s}
	var err error
	if m.events, err = s.ctx.pairEnd(endpoint, (*Socket).Connect); err == nil {
		m.receiver, err = m.events.NewReceiver()
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// Socket returns the socket that is readable when there are events, for a
// Waiter.
func (m *Monitor) Socket() *Socket { return m.events }

// Each calls f with all events that have arrived, without waiting.
func (m *Monitor) Each(f func(Event)) {
	for m.receiver.Each(func(msg *Message) { f(decodeEvent(msg)) }) {
	}
}

// decodeEvent decodes an event: 2 bytes of kind and 4 of value in the order of
// this machine, then a frame with the endpoint.
func decodeEvent(m *Message) Event {
	if m.Count != 2 || len(m.Frames[0]) != 6 {
		return Event{}
	}
	kind, value := binary.NativeEndian.Uint16(m.Frames[0]), binary.NativeEndian.Uint32(m.Frames[0][2:])
	return Event{EventKind(kind), int(value), string(m.Frames[1])}
}

// Close ends the monitor, and uses the monitored socket for it. Reporting is
// stopped first: else a thread of libzmq could wait forever for a reader.
func (m *Monitor) Close() error {
	var errs []error
	if rc, err := C.zmq_socket_monitor(m.monitored.ptr, nil, 0); rc != 0 {
		errs = append(errs, fmt.Errorf("end the monitor: %w", failure(err)))
	}
	if m.receiver != nil {
		m.receiver.Close()
	}
	if m.events != nil {
		errs = append(errs, m.events.Close())
	}
	return errors.Join(errs...)
}

package requestplane

import (
	"encoding/json"
	"errors"
	"net/netip"
)

// maxSubject bounds the part of the handshake that a client chooses.
const maxSubject = 256

// Header values of control frames.
const (
	sentinel = `"sentinel"` // ends an answer
	kill     = `"kill"`     // ends a call
)

// controlMessage is the header of a request. It is JSON whatever the codec.
type controlMessage struct {
	ID             string            `json:"id"`
	RequestType    string            `json:"request_type"`
	ResponseType   string            `json:"response_type"`
	PayloadCodec   string            `json:"payload_codec,omitempty"`
	ConnectionInfo connectionInfo    `json:"connection_info"`
	Metadata       map[string]string `json:"metadata,omitempty"`
}

// connectionInfo names the listener of a client. Info is a callHome as JSON in a
// string.
type connectionInfo struct {
	Transport string `json:"transport"`
	Info      string `json:"info"`
}

type callHome struct {
	Address    string `json:"address"`
	Subject    string `json:"subject"`
	Context    string `json:"context"` // the id of the request
	StreamType string `json:"stream_type"`
}

// handshake is the first frame on the connection of an answer.
type handshake struct {
	Subject    string `json:"subject"`
	StreamType string `json:"stream_type"`
}

// prologue is the second frame. An error is the whole answer.
type prologue struct {
	Error *string `json:"error"`
}

const streamResponse = "response"

// encodeControl returns the control message of a request.
func encodeControl(id, subject string, home netip.AddrPort, codec Codec) ([]byte, error) {
	info, err := json.Marshal(callHome{home.String(), subject, id, streamResponse})
	if err != nil {
		return nil, err
	}
	return json.Marshal(controlMessage{ID: id, RequestType: "single_in", ResponseType: "many_out", PayloadCodec: string(codec),
		ConnectionInfo: connectionInfo{"tcp_server", string(info)}})
}

// ticket is what a server needs to answer a request.
type ticket struct {
	id, subject string
	home        netip.AddrPort
	codec       Codec
	metadata    map[string]string
}

// decodeControl parses and checks a control message.
func decodeControl(header []byte) (t ticket, err error) {
	if len(header) > maxControl {
		return t, invalid("control message of %d bytes, want at most %d", len(header), maxControl)
	}
	var m controlMessage
	if err := json.Unmarshal(header, &m); err != nil {
		return t, invalid("control message: %v", err)
	}
	if m.RequestType != "single_in" || m.ResponseType != "many_out" {
		return t, invalid("call of type %q to %q, want single_in to many_out", excerpt(m.RequestType), excerpt(m.ResponseType))
	}
	if m.ConnectionInfo.Transport != "tcp_server" {
		return t, invalid("transport %q, want tcp_server", excerpt(m.ConnectionInfo.Transport))
	}
	var home callHome
	if err := json.Unmarshal([]byte(m.ConnectionInfo.Info), &home); err != nil {
		return t, invalid("connection info: %v", err)
	}
	switch {
	case home.Context != m.ID:
		return t, invalid("context %q of the request %q, want equal ids", excerpt(home.Context), excerpt(m.ID))
	case home.StreamType != streamResponse:
		return t, invalid("stream type %q, want %s", excerpt(home.StreamType), streamResponse)
	case home.Subject == "" || len(home.Subject) > maxSubject:
		return t, invalid("subject of %d bytes, want 1 to %d", len(home.Subject), maxSubject)
	}
	if t.home, err = parseHost(home.Address); err != nil {
		return t, invalid("%v", err)
	}
	if t.codec, err = ParseCodec(m.PayloadCodec); err != nil {
		return t, invalid("%v", err)
	}
	t.id, t.subject, t.metadata = m.ID, home.Subject, m.Metadata
	return t, nil
}

// decodeHandshake returns the subject of a handshake.
func decodeHandshake(header []byte) (subject string, err error) {
	var h handshake
	if err := json.Unmarshal(header, &h); err != nil {
		return "", invalid("handshake: %v", err)
	}
	if h.StreamType != streamResponse {
		return "", invalid("handshake of stream type %q, want %s", excerpt(h.StreamType), streamResponse)
	}
	return h.Subject, nil
}

// decodePrologue returns the error that an answer consists of, if it does.
func decodePrologue(f frame) error {
	if len(f.header) == 0 || len(f.data) > 0 {
		return invalid("prologue with a header of %d bytes and data of %d bytes, want a header", len(f.header), len(f.data))
	}
	var p prologue
	if err := json.Unmarshal(f.header, &p); err != nil {
		return invalid("prologue: %v", err)
	}
	if p.Error != nil {
		return &RemoteError{excerpt(*p.Error)}
	}
	return nil
}

// decodeItem returns the item of a frame, if it has one, and whether the answer is
// complete.
func decodeItem(f frame, codec Codec) (item []byte, final bool, err error) {
	if len(f.header) > 0 || len(f.data) == 0 {
		return nil, false, invalid("frame with header %q in an answer, want data", excerpt(f.header))
	}
	item, final, err = codec.unwrap(f.data)
	if err == nil && item == nil && !final {
		err = errors.New("neither data nor complete_final")
	}
	if err != nil {
		return nil, false, invalid("item in %s: %v", codec, err)
	}
	return item, final, nil
}

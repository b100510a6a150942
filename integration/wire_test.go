//go:build cgo && !nozmq

package integration

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/pebbe/zmq4"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/waittest"
)

// zmqPeer opens a raw socket, as another program would use it.
func zmqPeer(t *testing.T, kind zmq4.Type) *zmq4.Socket {
	t.Helper()
	s, err := zmq4.NewSocket(kind)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// rawPublisher binds a raw PUB socket and registers it as a channel.
func rawPublisher(t *testing.T, n *node) *zmq4.Socket {
	t.Helper()
	pub := zmqPeer(t, zmq4.PUB)
	if err := pub.Bind("tcp://127.0.0.1:*"); err != nil {
		t.Fatal(err)
	}
	endpoint, err := pub.GetLastEndpoint()
	if err != nil {
		t.Fatal(err)
	}
	register(t, n.discovery, 12345, discovery.EventChannel{Scope: backendScope, Topic: "test-topic", Transport: discovery.ZMQ{Endpoint: endpoint}})
	return pub
}

func send(t *testing.T, pub *zmq4.Socket, frames ...[]byte) {
	t.Helper()
	if _, err := pub.SendMessage(frames); err != nil {
		t.Fatal(err)
	}
}

func frame(body []byte) []byte {
	out := binary.BigEndian.AppendUint32([]byte{1}, uint32(len(body)))
	return append(out, body...)
}

func u64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

// goldenEnvelopes reads envelopes that the Rust serialiser wrote.
func goldenEnvelopes(t *testing.T) (golden [][]byte) {
	t.Helper()
	data, err := os.ReadFile("../codec/testdata/wire-vectors.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Split(strings.TrimSpace(line), " | ")
		if len(fields) != 6 || strings.HasPrefix(line, "#") {
			continue
		}
		body, err := hex.DecodeString(fields[5])
		if err != nil {
			t.Fatal(err)
		}
		golden = append(golden, body)
	}
	if len(golden) == 0 {
		t.Fatal("no golden envelopes")
	}
	return golden
}

// envelopeFields decodes an envelope with an independent library.
func envelopeFields(t *testing.T, body []byte) (fields struct {
	PublisherID uint64 `msgpack:"publisher_id"`
	Sequence    uint64 `msgpack:"sequence"`
	PublishedAt uint64 `msgpack:"published_at"`
	Topic       string `msgpack:"topic"`
	Payload     []byte `msgpack:"payload"`
}) {
	t.Helper()
	if err := msgpack.Unmarshal(body, &fields); err != nil {
		t.Fatalf("%x: %v", body, err)
	}
	return fields
}

// TestReceivesFromRawZMQ receives the golden bytes from a raw socket. Malformed
// messages between them are counted and stop nothing.
func TestReceivesFromRawZMQ(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	n := newNode(t, server, env{"DYN_EVENT_PLANE": "zmq"}, nil)
	pub := rawPublisher(t, n)
	c := n.subscriber(discovery.Scope{Namespace: "dynamo", Component: "backend"}, "test-topic")
	golden := goldenEnvelopes(t)[0] // publisher 12345, sequence 42
	topic, id := []byte("test-topic"), u64(12345)
	waittest.Eventually(t, "the golden event is received", func() bool {
		send(t, pub, topic, id, u64(42), frame(golden))
		return c.received(12345) > 0
	})
	ev := c.of(12345)[0]
	if ev.Sequence != 42 || ev.PublishedAt != 1700000000000 || string(ev.Payload) != "payload" || ev.Missed != 0 {
		t.Errorf("received %+v", ev)
	}
	junk := [][][]byte{
		{topic},
		{topic, id, u64(43)},
		{topic, id, u64(43), frame(golden), nil},
		{topic, id[:7], u64(43), frame(golden)},
		{topic, id, u64(42), {2, 0, 0, 0, 0}},
		{topic, id, u64(42), {1, 0}},
		{topic, id, u64(42), frame(golden)[:20]},
		{topic, id, u64(43), frame(golden)},
		{topic, u64(1), u64(42), frame(golden)},
		{topic, id, u64(42), frame([]byte{0xdd, 0xff, 0xff, 0xff, 0xff})},
		{topic, id, u64(42), frame(bytes.Repeat([]byte{0x91}, 3<<20))},
		{topic, id, u64(42), frame([]byte(`{"publisher_id":`))},
		{topic, id, u64(42), frame(nil)},
	}
	for _, frames := range junk {
		send(t, pub, frames...)
	}
	send(t, pub, []byte("test-topic-of-another"), id, u64(42), frame(golden)) // not malformed, but of another topic: ours is its prefix
	want := len(c.of(12345)) + 1
	next := bytes.Replace(golden, []byte{0x2a}, []byte{0x2d}, 1) // sequence 45
	waittest.Eventually(t, "the next valid event is received", func() bool {
		send(t, pub, topic, id, u64(45), append(frame(next), "trailing bytes are ignored"...))
		return len(c.of(12345)) >= want && c.of(12345)[len(c.of(12345))-1].Sequence == 45
	})
	if got := c.sub.Stats().DecodeErrors; got != uint64(len(junk)) {
		t.Errorf("%d decode errors, want %d", got, len(junk))
	}
	if missed := c.missed(12345); missed != 2 {
		t.Errorf("missed %d, want 2: sequence 45 after 42", missed)
	}
}

// TestEnvironmentOnTheWire receives with raw clients what a publisher sends in
// each environment.
func TestEnvironmentOnTheWire(t *testing.T) {
	t.Parallel()
	endpointScope := discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"}
	for _, c := range []struct {
		env     env
		scope   discovery.Scope
		topic   string
		subject string // on NATS, or frame 0
		first   byte   // of the envelope: { or 0x85
	}{
		{env{}, backendScope, "kv-events", "namespace.dynamo.component.backend.kv-events", '{'},
		{env{"DYN_EVENT_PLANE": ""}, backendScope, "kv-events", "namespace.dynamo.component.backend.kv-events", '{'},
		{env{"DYN_EVENT_PLANE": "nats", "DYN_EVENT_PLANE_CODEC": "msgpack"}, endpointScope, "kv-events", "namespace.dynamo.component.backend.endpoint.generate.kv-events", 0x85},
		{env{"DYN_EVENT_PLANE": "nats"}, discovery.Scope{Namespace: "ns.one"}, "kv.events/*", "namespace.ns%2Eone.kv%2Eevents%2F%2A", '{'},
		{env{"DYN_EVENT_PLANE": "nats", "DYN_EVENT_PLANE_WIRE": "gen1"}, backendScope, "kv_metrics", "namespace.dynamo.component.backend.kv_metrics", '{'},
		{env{"DYN_EVENT_PLANE": "zmq"}, backendScope, "kv-events", "kv-events", 0x85},
		{env{"DYN_EVENT_PLANE": "zmq", "DYN_EVENT_PLANE_CODEC": "json"}, endpointScope, "kv-events", "kv-events", '{'},
		{env{"DYN_DISCOVERY_BACKEND": "mem"}, backendScope, "kv-events", "kv-events", 0x85},
		{env{"DYN_DISCOVERY_BACKEND": "file"}, backendScope, "kv-events", "kv-events", 0x85},
		{env{"DYN_EVENT_PLANE": "zmq", "broker": ""}, endpointScope, "kv-events", "namespace.dynamo.component.backend.endpoint.generate.kv-events", 0x85},
		{env{"DYN_EVENT_PLANE": "zmq", "DYN_EVENT_PLANE_WIRE": "gen1", "broker": ""}, backendScope, "kv-events", "kv-events", 0x85},
	} {
		t.Run(fmt.Sprint(c.env, c.scope, c.topic), func(t *testing.T) {
			t.Parallel()
			server := natstest.Run(t)
			if _, ok := c.env["broker"]; ok {
				b := newBroker(t)
				c.env = c.env.with("DYN_ZMQ_BROKER_URL", "xsub="+b.XSubEndpoint()+",xpub="+b.XPubEndpoint())
			}
			p := newNode(t, server, c.env, nil).publisher(c.scope, c.topic)
			var next func() (subject string, body []byte)
			switch tr := p.Registration().Instance().Spec.(discovery.EventChannel).Transport.(type) {
			case discovery.NATS:
				if tr.SubjectPrefix+"."+discovery.EncodeSegment(c.topic) != c.subject {
					t.Errorf("registered the prefix %q", tr.SubjectPrefix)
				}
				next = rawNATS(t, server)
			case discovery.ZMQ:
				next = rawSub(t, tr.Endpoint, p.ID())
			case discovery.ZMQBroker:
				next = rawSub(t, tr.XPubEndpoints[0], p.ID())
			}
			var subject string
			var body []byte
			waittest.Eventually(t, "a raw client receives a message", func() bool {
				if err := p.PublishBytes(t.Context(), []byte("payload")); err != nil {
					t.Fatal(err)
				}
				subject, body = next()
				return body != nil
			})
			if subject != c.subject || body[0] != c.first {
				t.Fatalf("received %q with an envelope of 0x%02x, want %q with 0x%02x", subject, body[0], c.subject, c.first)
			}
			if c.first == '{' {
				if !bytes.Contains(body, []byte(`"payload":"cGF5bG9hZA=="`)) {
					t.Errorf("envelope %s", body)
				}
				return
			}
			if got := envelopeFields(t, body); got.PublisherID != p.ID() || got.Topic != c.topic || string(got.Payload) != "payload" {
				t.Errorf("envelope %+v", got)
			}
		})
	}
}

// rawNATS receives all subjects with a plain NATS client.
func rawNATS(t *testing.T, server *natstest.Server) func() (string, []byte) {
	t.Helper()
	nc, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	sub, err := nc.SubscribeSync("namespace.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return func() (string, []byte) {
		msg, err := sub.NextMsg(waittest.Patience)
		if err != nil {
			t.Fatal(err)
		}
		return msg.Subject, msg.Data
	}
}

// rawSub receives all messages of an endpoint, and checks their frames against
// section 1 of docs/protocol.md.
func rawSub(t *testing.T, endpoint string, publisher uint64) func() (string, []byte) {
	t.Helper()
	sub := zmqPeer(t, zmq4.SUB)
	if err := sub.SetSubscribe(""); err != nil {
		t.Fatal(err)
	}
	if err := sub.Connect(endpoint); err != nil {
		t.Fatal(err)
	}
	return func() (string, []byte) {
		frames, err := sub.RecvMessageBytes(zmq4.DONTWAIT)
		if err != nil {
			return "", nil // nothing yet
		}
		if len(frames) != 4 || !bytes.Equal(frames[1], u64(publisher)) || len(frames[2]) != 8 ||
			len(frames[3]) < 5 || frames[3][0] != 1 || int(binary.BigEndian.Uint32(frames[3][1:])) != len(frames[3])-5 {
			t.Fatalf("frames %q", frames)
		}
		return string(frames[0]), frames[3][5:]
	}
}

// TestGoldenEnvelopesOverNATS receives every captured envelope from a plain
// client, with malformed messages in between.
func TestGoldenEnvelopesOverNATS(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	n := newNode(t, server, env{}, nil)
	nc := server.Connect(t)
	golden := goldenEnvelopes(t)
	for i, body := range golden {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			want := envelopeFields(t, body)
			c := n.subscriber(backendScope, want.Topic)
			subject := backendScope.Subject(want.Topic)
			for _, junk := range [][]byte{nil, []byte("junk"), {0xdd, 0xff, 0xff, 0xff, 0xff}, bytes.Repeat([]byte{0x91}, 900_000), body[:len(body)-1]} {
				if err := nc.Publish(subject, junk); err != nil {
					t.Fatal(err)
				}
			}
			if err := nc.Publish(subject, body); err != nil {
				t.Fatal(err)
			}
			waittest.Eventually(t, "the envelope is received", func() bool { return c.received(want.PublisherID) == 1 })
			ev := c.of(want.PublisherID)[0]
			if ev.Sequence != want.Sequence || ev.PublishedAt != want.PublishedAt || ev.Topic != want.Topic || !bytes.Equal(ev.Payload, want.Payload) {
				t.Errorf("received %+v, want %+v", ev, want)
			}
			if got := c.sub.Stats().DecodeErrors; got != 5 {
				t.Errorf("%d decode errors, want 5", got)
			}
		})
	}
}

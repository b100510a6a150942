package requestplane

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dynplane/dynplane/internal/certtest"
	"github.com/dynplane/dynplane/internal/waittest"
)

// connect opens a connection whose reads and writes are bounded.
func connect(t *testing.T, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	return bound(t, conn)
}

func bound(t *testing.T, conn net.Conn) *net.TCPConn {
	t.Helper()
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(waittest.Patience))
	return conn.(*net.TCPConn)
}

// ended reads to the end of a connection, by which the peer closes or resets it.
func ended(t *testing.T, conn net.Conn) []byte {
	t.Helper()
	data, err := io.ReadAll(conn)
	if ne, ok := err.(net.Error); ok && ne.Timeout() { //nolint:errorlint // of the connection itself
		t.Errorf("the connection is open: %v", err)
	}
	return data
}

// rawClient is a client without any of our code but the frames.
type rawClient struct {
	t  *testing.T
	l  net.Listener
	to Address
}

func newRawClient(t *testing.T, to Address) *rawClient {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return &rawClient{t, l, to}
}

// request returns the bytes of a request.
func (r *rawClient) request(data string) []byte {
	r.t.Helper()
	home := netip.MustParseAddrPort(r.l.Addr().String())
	message, err := encodeControl("id", "subject", home, JSON)
	if err != nil {
		r.t.Fatal(err)
	}
	b, err := encodeRequest(r.to.Path, nil, message, len(data))
	if err != nil {
		r.t.Fatal(err)
	}
	return append(b, data...)
}

// call sends a request and accepts the answer.
func (r *rawClient) call() *net.TCPConn {
	r.t.Helper()
	conn := connect(r.t, r.to.Host)
	if _, err := conn.Write(r.request("1")); err != nil {
		r.t.Fatal(err)
	}
	_ = conn.Close() // which must not end the call
	home := r.accept()
	if f, err := readFrame(home, maxHandshake, 0); err != nil || string(f.header) != `{"subject":"subject","stream_type":"response"}` {
		r.t.Fatalf("handshake %q, error %v", f.header, err)
	}
	return home
}

func (r *rawClient) accept() *net.TCPConn {
	r.t.Helper()
	home, err := r.l.Accept()
	if err != nil {
		r.t.Fatal(err)
	}
	return bound(r.t, home)
}

// TestAnswerBytes reads a whole answer, and finds the connection open after it.
func TestAnswerBytes(t *testing.T) {
	t.Parallel()
	server := newServer(t, ServerOptions{})
	server.linger = waittest.Patience
	home := newRawClient(t, serve(t, server, echo)).call()
	var want bytes.Buffer
	want.Write(unhex(t, goldenPrologue))
	for _, data := range []string{`{"data":1,"complete_final":false}`, `{"complete_final":true}`} {
		want.Write(appendHead(nil, 0, len(data)))
		want.WriteString(data)
	}
	want.Write(unhex(t, goldenSentinel))
	got := make([]byte, want.Len())
	if _, err := io.ReadFull(home, got); err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Fatalf("answer %q, error %v, want %q", got, err, want.Bytes())
	}
	_ = home.SetReadDeadline(time.Now().Add(moment))
	if n, err := home.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF { //nolint:errorlint // the end itself
		t.Errorf("%d bytes after the answer, error %v, want a connection that is open", n, err)
	}
}

// TestClientThatStaysIsLeft has a client that closes its connection never.
func TestClientThatStaysIsLeft(t *testing.T) {
	t.Parallel()
	server := newServer(t, ServerOptions{})
	server.linger = moment
	ended(t, newRawClient(t, serve(t, server, echo)).call())
}

// TestEndsOfCalls ends a call in all ways that a client has. The answer ends
// without its last frames.
func TestEndsOfCalls(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*net.TCPConn) error{
		"stop": func(c *net.TCPConn) error { _, err := c.Write(control([]byte(`"stop"`))); return err },
		"kill": func(c *net.TCPConn) error { _, err := c.Write(control([]byte(`"kill"`))); return err },
		"junk": func(c *net.TCPConn) error { _, err := c.Write([]byte("x")); return err },
		"end":  func(c *net.TCPConn) error { return c.CloseWrite() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := newServer(t, ServerOptions{})
			cause := make(chan error, 1)
			home := newRawClient(t, serve(t, server, func(ctx context.Context, _ *Request, send func([]byte) error) error {
				err := send([]byte("1"))
				<-ctx.Done()
				cause <- context.Cause(ctx)
				return err
			})).call()
			if f, err := readFrame(home, maxHeader, 0); err != nil || decodePrologue(f) != nil {
				t.Fatal(f, err)
			}
			if f, err := readFrame(home, 0, 1000); err != nil {
				t.Fatal(f, err)
			}
			if err := end(home); err != nil {
				t.Fatal(err)
			}
			expectError(t, <-cause, ErrStopped)
			if rest := ended(t, home); len(rest) > 0 {
				t.Errorf("%q after the stop", rest)
			}
		})
	}
}

// TestPipelinedRequests sends requests at once. Their acknowledgements come in
// order, also those of refusals.
func TestPipelinedRequests(t *testing.T) {
	t.Parallel()
	server := newServer(t, ServerOptions{})
	client := newRawClient(t, serve(t, server, echo))
	unknown := newRawClient(t, Address{client.to.Host, "2a/unknown"})
	conn := connect(t, client.to.Host)
	all := slices.Concat(client.request("1"), unknown.request("2"), client.request(""), client.request("3"))
	if _, err := conn.Write(all); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"", "Server unavailable: unknown endpoint 2a/unknown", "Invalid request: ", ""} {
		if text, err := readAck(conn); err != nil || !strings.HasPrefix(text, want) || want == "" && text != "" {
			t.Errorf("acknowledgement %q, error %v, want %q", text, err, want)
		}
	}
	for range 2 {
		_ = client.accept().Close()
	}
}

func TestJunkToTheServer(t *testing.T) {
	t.Parallel()
	server, client := newServer(t, ServerOptions{}), newClient(t, ClientOptions{})
	to := serve(t, server, echo)
	junk := []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00", "\x00\x00\x00\x00", "\x00\x01\xff\x00\x00\x00\x00\x00\x00",
		"\x00\x01p\x00\x00\xff\xff\xff\xff", strings.Repeat("\xff", 1<<20)}
	for _, bytes := range junk {
		conn := connect(t, to.Host)
		_, _ = conn.Write([]byte(bytes)) // the server may be faster
		ended(t, conn)
	}
	expectEcho(t, client, to)
	if got := server.Stats(); got.Invalid+got.TooLarge != uint64(len(junk)) {
		t.Errorf("counted %+v, want %d invalid requests", got, len(junk))
	}
}

// TestHalfRequestEnds sends the beginning of a request and nothing more.
func TestHalfRequestEnds(t *testing.T) {
	t.Parallel()
	server := newServer(t, ServerOptions{IdleTimeout: moment})
	client := newRawClient(t, serve(t, server, echo))
	request := client.request("1")
	for _, n := range []int{1, 5, len(request) - 1} {
		conn := connect(t, client.to.Host)
		if _, err := conn.Write(request[:n]); err != nil {
			t.Fatal(err)
		}
		ended(t, conn)
	}
}

// TestFloodOfSilentConnections has more of them than the server keeps.
func TestFloodOfSilentConnections(t *testing.T) {
	t.Parallel()
	const limit, flood = 8, 100
	server, client := newServer(t, ServerOptions{MaxConns: limit}), newClient(t, ClientOptions{})
	to := serve(t, server, echo)
	kept := connect(t, to.Host) // has sent a request, and is therefore not replaced by others
	unknown := newRawClient(t, to)
	if _, err := kept.Write(unknown.request("1")); err != nil {
		t.Fatal(err)
	}
	_ = unknown.accept().Close()
	var conns []net.Conn
	for i := range flood {
		conn := connect(t, to.Host)
		if conns = append(conns, conn); i%2 == 0 {
			if _, err := conn.Write([]byte{0}); err != nil { // half a request
				t.Fatal(err)
			}
		}
	}
	eventually(t, "all but the newest connections are replaced", func() bool { return server.Stats().Evicted == flood-limit })
	for _, conn := range conns[:flood-limit] {
		ended(t, conn)
	}
	expectEcho(t, client, to)
	if _, err := kept.Write(unknown.request("1")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if text, err := readAck(kept); err != nil || text != "" {
			t.Errorf("acknowledgement %q, error %v", text, err)
		}
	}
	_ = unknown.accept().Close()
}

// TestMemoryOfRequestsIsLimited sends large requests whose last byte is missing.
func TestMemoryOfRequestsIsLimited(t *testing.T) {
	t.Parallel()
	const size = 1 << 20
	server, client := newServer(t, ServerOptions{MaxRequest: size}), newClient(t, ClientOptions{})
	to := serve(t, server, echo)
	head := append([]byte{0, 1, 'p', 0, 0}, binary.BigEndian.AppendUint32(nil, size-100)...)
	body := make([]byte, size-101)
	var senders sync.WaitGroup
	for range 2 * memoryFactor {
		conn := connect(t, to.Host)
		senders.Go(func() { _, _ = conn.Write(slices.Concat(head, body)) })
	}
	eventually(t, "requests are refused", func() bool { return server.Stats().Overloaded > 0 })
	senders.Wait()
	if got := server.memory.Load(); got > memoryFactor*size {
		t.Errorf("%d bytes in memory, want at most %d", got, memoryFactor*size)
	}
	expectEcho(t, client, to)
	if server.Close(); server.memory.Load() != 0 {
		t.Errorf("%d bytes in memory after the end", server.memory.Load())
	}
}

// TestClientThatDoesNotRead takes no byte of an answer. Its handler ends.
func TestClientThatDoesNotRead(t *testing.T) {
	t.Parallel()
	server := newServer(t, ServerOptions{IdleTimeout: moment, MaxHandlers: 1})
	client := newRawClient(t, serve(t, server, func(_ context.Context, _ *Request, send func([]byte) error) error {
		return send(bytes.Repeat([]byte("1"), 64<<20))
	}))
	conn := connect(t, client.to.Host)
	if _, err := conn.Write(client.request("1")); err != nil {
		t.Fatal(err)
	}
	client.accept()
	eventually(t, "the handler has failed", func() bool { return server.Stats().WriteFailed == 1 && len(server.slots) == 0 })
}

// TestUnreachableClients has requests name a port that is closed, and one where
// nothing answers the TLS handshake. The connects to it are given up for newer ones.
func TestUnreachableClients(t *testing.T) {
	t.Parallel()
	config := tlsFrom(t, tlsEnv(certtest.New(t)))
	server, client := newServer(t, ServerOptions{TLS: TLS{Dialer: config.Dialer, HandshakeTimeout: waittest.Patience}}), newClient(t, ClientOptions{TLS: TLS{Listener: config.Listener}})
	server.dials.mu.Lock()
	server.dials.max = 4
	server.dials.mu.Unlock()
	to := serve(t, server, echo)
	closed, mute := newRawClient(t, to), newRawClient(t, to)
	request := closed.request("1")
	_ = closed.l.Close()
	conn := connect(t, to.Host)
	for range 10 {
		if _, err := conn.Write(slices.Concat(request, mute.request("1"))); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "connects fail or are given up", func() bool { return server.Stats().CallHomeFailed >= 16 })
	expectEcho(t, client, to)
	if got := server.Stats().Evicted; got < 6 {
		t.Errorf("%d connects given up, want 6 or more", got)
	}
}

func TestServerWithPlaintextConfigRejectsTLS(t *testing.T) {
	t.Parallel()
	server := newServer(t, ServerOptions{})
	secure := tls.Client(connect(t, server.addr), &tls.Config{InsecureSkipVerify: true})
	if err := secure.HandshakeContext(t.Context()); err == nil {
		t.Error("a handshake with a server in plaintext")
	}
	eventually(t, "it is counted", func() bool { return server.Stats().Invalid == 1 })
}

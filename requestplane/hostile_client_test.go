package requestplane

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dynplane/dynplane/internal/waittest"
)

// fakeServer accepts requests and gives each to a script. The script ends the
// connection with its return.
func fakeServer(t *testing.T, script func(conn net.Conn, home ticket)) Address {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer func() { _ = conn.Close() }()
				_ = conn.SetDeadline(time.Now().Add(waittest.Patience))
				raw, err := readRequest(conn, 1<<20, nil)
				if err != nil {
					t.Error(err)
					return
				}
				f, _ := splitFrame(raw.payload)
				home, err := decodeControl(f.header)
				if err != nil {
					t.Error(err)
					return
				}
				script(conn, home)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		running.Wait()
	})
	return mustAddress(t, l.Addr().String())
}

// callHomeWith accepts a request and answers with the bytes, after the handshake.
// It closes the connection after the client has, or at once.
func callHomeWith(t *testing.T, bytes string, stay bool) func(net.Conn, ticket) {
	return func(conn net.Conn, home ticket) {
		_, _ = conn.Write(ack(""))
		b, err := net.Dial("tcp", home.home.String())
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = b.Close() }()
		_ = b.SetDeadline(time.Now().Add(waittest.Patience))
		_, _ = b.Write(control([]byte(`{"subject":"` + home.subject + `","stream_type":"response"}`)))
		_, _ = b.Write([]byte(bytes))
		if stay {
			_, _ = b.Read(make([]byte, 100))
		}
	}
}

func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	begun := string(control([]byte(`{"error":null}`)))
	item := func(data string) string { return string(appendHead(nil, 0, len(data))) + data }
	one := item(`{"data":1,"complete_final":false}`)
	for name, c := range map[string]struct {
		answer string
		stay   bool
		items  int
		want   error
	}{
		"nothing":                 {"", false, 0, ErrIncomplete},
		"half a prologue":         {begun[:30], false, 0, ErrIncomplete},
		"prologue is no JSON":     {string(control([]byte("junk"))), true, 0, ErrFormat},
		"prologue is huge":        {string(appendHead(nil, 1<<40, 0)), true, 0, ErrTooLarge},
		"prologue is data":        {one, true, 0, ErrTooLarge},
		"prologue is empty":       {string(appendHead(nil, 0, 0)), true, 0, ErrFormat},
		"no final":                {begun + one, false, 1, ErrIncomplete},
		"sentinel without final":  {begun + one + string(control([]byte(sentinel))), true, 1, ErrIncomplete},
		"half an item":            {begun + one + one[:40], false, 1, ErrIncomplete},
		"item is huge":            {begun + string(appendHead(nil, 0, 1<<40)), true, 0, ErrTooLarge},
		"item above the limit":    {begun + string(appendHead(nil, 0, 1<<20+1)), true, 0, ErrTooLarge},
		"item is no JSON":         {begun + item("junk"), true, 0, ErrFormat},
		"item is msgpack":         {begun + item("\x81\xaecomplete_final\xc3"), true, 0, ErrFormat},
		"item without anything":   {begun + item(`{"complete_final":false}`), true, 0, ErrFormat},
		"item is a control frame": {begun + string(control([]byte(`"stop"`))), true, 0, ErrFormat},
		"silence":                 {begun + one, true, 1, os.ErrDeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := newClient(t, ClientOptions{MaxAnswer: 1 << 20})
			options := CallOptions{}
			if c.want == os.ErrDeadlineExceeded { //nolint:errorlint // of the table
				options.Idle = moment
			}
			to := fakeServer(t, callHomeWith(t, c.answer, c.stay))
			items, err := collect(t.Context(), client, to, "1", options)
			if c.want == os.ErrDeadlineExceeded && errors.Is(err, c.want) { //nolint:errorlint // of the table
				return // on a busy machine the items may be late, too
			}
			expectError(t, err, c.want)
			if len(items) != c.items {
				t.Errorf("items %q, want %d", items, c.items)
			}
		})
	}
}

func TestHostileAcknowledgements(t *testing.T) {
	t.Parallel()
	stay := func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1)) }
	for name, c := range map[string]struct {
		script func(net.Conn, ticket)
		want   string
	}{
		"none":   {func(conn net.Conn, _ ticket) { stay(conn) }, "i/o timeout"},
		"closed": {func(net.Conn, ticket) {}, "no acknowledgement"},
		"half":   {func(conn net.Conn, _ ticket) { _, _ = conn.Write(ack("refused")[:8]) }, "no acknowledgement"},
		"too long": {func(conn net.Conn, _ ticket) {
			_, _ = conn.Write(binary.BigEndian.AppendUint32(nil, 1<<31))
			stay(conn)
		}, "invalid bytes"},
		"old refusal": {func(conn net.Conn, _ ticket) { _, _ = conn.Write(ack("Unknown endpoint: 2a/e")); stay(conn) },
			"request refused: Unknown endpoint: 2a/e"},
		"no call": {func(conn net.Conn, _ ticket) { _, _ = conn.Write(ack("")); stay(conn) }, "no answer within"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			options := ClientOptions{}
			if name == "none" {
				options.AckTimeout = moment
			}
			idle := waittest.Patience
			if name == "no call" {
				idle = moment
			}
			_, err := collect(t.Context(), newClient(t, options), fakeServer(t, c.script), "1", CallOptions{Idle: idle})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

// TestAnswerBeforeTheAcknowledgement calls home first.
func TestAnswerBeforeTheAcknowledgement(t *testing.T) {
	t.Parallel()
	to := fakeServer(t, func(conn net.Conn, home ticket) {
		answer := string(control([]byte(`{"error":null}`))) + string(appendHead(nil, 0, len(finals[JSON]))) + finals[JSON] + string(control([]byte(sentinel)))
		b, err := net.Dial("tcp", home.home.String())
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = b.Close() }()
		_, _ = b.Write(control([]byte(`{"subject":"` + home.subject + `","stream_type":"response"}`)))
		_, _ = b.Write([]byte(answer))
		_, _ = conn.Write(ack(""))
		_ = b.SetDeadline(time.Now().Add(waittest.Patience))
		if n, err := b.Read(make([]byte, 100)); n > 0 || err == nil {
			t.Errorf("%d bytes from the client, want the end", n)
		}
	})
	if items, err := collect(t.Context(), newClient(t, ClientOptions{}), to, "1", CallOptions{}); err != nil || len(items) > 0 {
		t.Errorf("items %q, error %v", items, err)
	}
}

// TestFloodOfTheListener has junk, subjects that are unknown, and more silent
// connections than the client keeps, while calls are answered.
func TestFloodOfTheListener(t *testing.T) {
	t.Parallel()
	const limit, flood = 8, 60
	server, client := newServer(t, ServerOptions{}), newClient(t, ClientOptions{})
	client.pending.mu.Lock()
	client.pending.max = limit
	client.pending.mu.Unlock()
	to := serve(t, server, echo)
	for range flood {
		connect(t, client.addr)
	}
	eventually(t, "all but the newest connections are replaced", func() bool { return client.Stats().Evicted == flood-limit })
	expectEcho(t, client, to)
	for _, junk := range []string{"GET / HTTP/1.1\r\n\r\n1234567890", string(appendHead(nil, 1<<20, 0)), string(control([]byte("junk"))),
		string(control([]byte(`{"subject":"x","stream_type":"request"}`)))} {
		conn := connect(t, client.addr)
		_, _ = conn.Write([]byte(junk))
		ended(t, conn)
	}
	conn := connect(t, client.addr)
	_, _ = conn.Write(control([]byte(`{"subject":"` + newUUID() + `","stream_type":"response"}`)))
	ended(t, conn)
	expectEcho(t, client, to)
	if got := client.Stats(); got.UnknownSubjects != 1 || got.BadHandshakes < 4 {
		t.Errorf("counted %+v, want 1 unknown subject and 4 invalid handshakes or more", got)
	}
}

// TestSubjectIsUsedOnce presents the subject of a call a second time.
func TestSubjectIsUsedOnce(t *testing.T) {
	t.Parallel()
	client := newClient(t, ClientOptions{})
	subject, home := client.expect()
	hello := control([]byte(`{"subject":"` + subject + `","stream_type":"response"}`))
	first := connect(t, client.addr)
	_, _ = first.Write(hello)
	eventually(t, "the call has its connection", func() bool { return len(home) == 1 })
	second := connect(t, client.addr)
	_, _ = second.Write(hello)
	ended(t, second)
	client.forget(subject, home)
	ended(t, first)
}

func TestCallsToUnreachableServers(t *testing.T) {
	t.Parallel()
	client := newClient(t, ClientOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := collect(ctx, client, Address{netip.MustParseAddrPort("127.0.0.1:1"), path}, "1", CallOptions{})
	expectError(t, err, context.Canceled)
	if _, err = collect(t.Context(), client, Address{netip.MustParseAddrPort("127.0.0.1:1"), path}, "1", CallOptions{}); err == nil {
		t.Error("a call to a closed port succeeded")
	}
}

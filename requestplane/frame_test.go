package requestplane

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Bytes of a worker of Dynamo 1.6.1, as they were received.
const (
	goldenHandshake = `{"subject":"95f4b803-0c32-4341-b344-ecb311546f16","stream_type":"response"}`
	goldenTooNew    = "82a46461746181a6546f6f4e657783af7265717565737465645f737461727433ad7265717565737465645f656e6432" +
		"b06e65776573745f617661696c61626c6532ae636f6d706c6574655f66696e616cc2"
	goldenFinal    = "81ae636f6d706c6574655f66696e616cc3"
	goldenSentinel = "000000000000000a 0000000000000000 0000000000000000 2273656e74696e656c22"
	goldenPrologue = "000000000000000e 0000000000000000 0000000000000000 7b226572726f72223a6e756c6c7d"
)

func TestGoldenFrames(t *testing.T) {
	t.Parallel()
	var hello bytes.Buffer
	hello.Write(unhex(t, "000000000000004b 0000000000000000 0000000000000000"))
	hello.WriteString(goldenHandshake)
	written := control([]byte(`{"subject":"95f4b803-0c32-4341-b344-ecb311546f16","stream_type":"response"}`))
	if !bytes.Equal(written, hello.Bytes()) {
		t.Errorf("handshake %q, want %q", written, hello.Bytes())
	}
	f, err := readFrame(&hello, maxHandshake, 0)
	if err != nil {
		t.Fatal(err)
	}
	if subject, err := decodeHandshake(f.header); err != nil || subject != "95f4b803-0c32-4341-b344-ecb311546f16" {
		t.Errorf("subject %q, error %v", subject, err)
	}
	for golden, header := range map[string]string{goldenSentinel: sentinel, goldenPrologue: `{"error":null}`} {
		if got := control([]byte(header)); !bytes.Equal(got, unhex(t, golden)) {
			t.Errorf("frame %x, want %s", got, golden)
		}
	}
	if f, err = readFrame(bytes.NewReader(unhex(t, goldenPrologue)), maxHeader, 0); err != nil || decodePrologue(f) != nil {
		t.Errorf("prologue: %v, %v", err, decodePrologue(f))
	}
	if got := ack(""); !bytes.Equal(got, make([]byte, 4)) {
		t.Errorf("acknowledgement %x, want four zeros", got)
	}
}

func TestGoldenItems(t *testing.T) {
	t.Parallel()
	tooNew := unhex(t, goldenTooNew)
	item, final, err := decodeItem(frame{data: tooNew}, Msgpack)
	if err != nil || final || !bytes.HasPrefix(item, []byte("\x81\xa6TooNew")) {
		t.Fatalf("item %q, final %v, error %v", item, final, err)
	}
	if got := prefixes[Msgpack] + string(item) + suffixes[Msgpack]; got != string(tooNew) {
		t.Errorf("item %q, want %q", got, tooNew)
	}
	if got := []byte(finals[Msgpack]); !bytes.Equal(got, unhex(t, goldenFinal)) {
		t.Errorf("final item %x, want %s", got, goldenFinal)
	}
	for codec, final := range finals {
		if item, is, err := decodeItem(frame{data: []byte(final)}, codec); err != nil || item != nil || !is {
			t.Errorf("final item in %s: %q, %v, %v", codec, item, is, err)
		}
	}
}

func TestItems(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		codec     Codec
		data      string
		item      string
		final, ok bool
	}{
		"JSON":                        {JSON, `{"data":{"a":[1]},"complete_final":false}`, `{"a":[1]}`, false, true},
		"JSON, other order and field": {JSON, ` {"x":1,"complete_final":false,"data":2} `, "2", false, true},
		"JSON, last item is final":    {JSON, `{"data":2,"complete_final":true}`, "2", true, true},
		"JSON, null is no item":       {JSON, `{"data":null,"complete_final":true}`, "", true, true},
		"JSON, nothing":               {JSON, `{"data":null,"complete_final":false}`, "", false, false},
		"JSON, not whether final":     {JSON, `{"data":1}`, "", false, false},
		"JSON, truncated":             {JSON, `{"data":1`, "", false, false},
		"JSON, array":                 {JSON, `[1,false]`, "", false, false},
		"JSON, deep":                  {JSON, `{"data":` + strings.Repeat("[", 1<<20), "", false, false},
		"msgpack, other order":        {Msgpack, "\x83\xaecomplete_final\xc2\xa1x\xcf\x01\x02\x03\x04\x05\x06\x07\x08\xa4data\xd9\x01a", "\xd9\x01a", false, true},
		"msgpack, nil is no item":     {Msgpack, "\x82\xa4data\xc0\xaecomplete_final\xc3", "", true, true},
		"msgpack, nothing":            {Msgpack, "\x82\xa4data\xc0\xaecomplete_final\xc2", "", false, false},
		"msgpack, no boolean":         {Msgpack, "\x81\xaecomplete_final\x01", "", false, false},
		"msgpack, bytes after it":     {Msgpack, "\x81\xaecomplete_final\xc3\xc3", "", false, false},
		"msgpack, key is no string":   {Msgpack, "\x81\x91\xa1a\xc3", "", false, false},
		"msgpack, long key":           {Msgpack, "\x81\xdb\xff\xff\xff\xffa", "", false, false},
		"msgpack, huge array":         {Msgpack, "\x82\xa4data\xdd\xff\xff\xff\xff\xaecomplete_final\xc2", "", false, false},
		"msgpack, huge binary":        {Msgpack, "\x82\xa4data\xc6\xff\xff\xff\xff\xaecomplete_final\xc2", "", false, false},
		"msgpack, huge map":           {Msgpack, "\xdf\xff\xff\xff\xff", "", false, false},
		"msgpack, deep":               {Msgpack, "\x82\xa4data" + strings.Repeat("\x91", 8<<20) + "\x01\xaecomplete_final\xc2", strings.Repeat("\x91", 8<<20) + "\x01", false, true},
		"msgpack, never used":         {Msgpack, "\x82\xa4data\xc1\xaecomplete_final\xc2", "", false, false},
		"msgpack, JSON":               {Msgpack, `{"complete_final":true}`, "", false, false},
	} {
		item, final, err := decodeItem(frame{data: []byte(c.data)}, c.codec)
		switch {
		case c.ok != (err == nil) || err != nil && !errors.Is(err, ErrFormat):
			t.Errorf("%s: error %v, want success to be %v", name, err, c.ok)
		case c.ok && (string(item) != c.item || final != c.final):
			t.Errorf("%s: item of %d bytes, final %v, want %d bytes, %v", name, len(item), final, len(c.item), c.final)
		}
	}
}

// TestMsgpackValues skips one value of each kind, and none of their prefixes.
func TestMsgpackValues(t *testing.T) {
	t.Parallel()
	for _, value := range []string{
		"00", "7f", "e0", "c0", "c2", "c3", "80", "81 a161 01", "90", "92 01 02", "a0", "a3 616263",
		"c4 01 00", "c5 0001 00", "c6 00000001 00", "c7 01 05 00", "c8 0001 05 00", "c9 00000001 05 00",
		"ca 00000000", "cb 0000000000000000", "cc 00", "cd 0000", "ce 00000000", "cf 0000000000000000",
		"d0 00", "d1 0000", "d2 00000000", "d3 0000000000000000",
		"d4 05 00", "d5 05 0000", "d6 05 00000000", "d7 05 0000000000000000", "d8 05 00000000000000000000000000000000",
		"d9 01 61", "da 0001 61", "db 00000001 61", "dc 0001 01", "dd 00000001 01", "de 0001 01 02", "df 00000001 01 02",
	} {
		data := unhex(t, value)
		if end := msgpackSkip(append(data, 0xc1), 0); end != len(data) {
			t.Errorf("%s ends at %d, want %d", value, end, len(data))
		}
		for n := range data {
			if end := msgpackSkip(data[:n:n], 0); end >= 0 {
				t.Errorf("%d bytes of %s are a value", n, value)
			}
		}
	}
}

func TestFramesAreLimited(t *testing.T) {
	t.Parallel()
	for _, head := range [][]byte{appendHead(nil, 11, 0), appendHead(nil, 0, 11), appendHead(nil, math.MaxInt, 0), bytes.Repeat([]byte{0xff}, headSize)} {
		_, err := readFrame(io.MultiReader(bytes.NewReader(head), strings.NewReader(strings.Repeat("x", 20))), 10, 10)
		expectError(t, err, ErrTooLarge)
	}
}

func TestTruncatedFrames(t *testing.T) {
	t.Parallel()
	whole := append(appendHead(nil, 2, 3), "abcde"...)
	for n := range whole {
		if _, err := readFrame(bytes.NewReader(whole[:n]), 10, 10); err == nil {
			t.Errorf("%d of %d bytes are a frame", n, len(whole))
		}
		if _, err := splitFrame(whole[:n]); err == nil {
			t.Errorf("%d of %d bytes are a payload", n, len(whole))
		}
	}
	f, err := readFrame(iotest.OneByteReader(bytes.NewReader(whole)), 10, 10)
	if err != nil || string(f.header) != "ab" || string(f.data) != "cde" {
		t.Errorf("frame %q, error %v", f, err)
	}
	if _, err := splitFrame(append(whole, 'f')); err == nil {
		t.Error("bytes after a frame were accepted")
	}
	overflow := binary.BigEndian.AppendUint64(nil, math.MaxUint64)
	overflow = append(binary.BigEndian.AppendUint64(overflow, 6), make([]byte, 13)...)
	if _, err := splitFrame(overflow); err == nil {
		t.Error("a frame was accepted whose lengths overflow")
	}
}

// TestAnnouncedBytesCostNothing announces a frame of the maximum size.
func TestAnnouncedBytesCostNothing(t *testing.T) {
	t.Parallel()
	var reserved int
	_, err := readBytes(strings.NewReader(strings.Repeat("x", 100<<10)), 1<<30, func(n int) error { reserved += n; return nil })
	expectError(t, err, io.ErrUnexpectedEOF)
	if reserved > 256<<10 {
		t.Errorf("%d bytes reserved for 100 KiB that arrived", reserved)
	}
}

func TestRequestRoundTrip(t *testing.T) {
	t.Parallel()
	data, err := encodeRequest(path, map[string]string{"a": "b"}, []byte("{}"), 3)
	if err != nil {
		t.Fatal(err)
	}
	data = append(data, "abc"...)
	req, err := readRequest(bytes.NewReader(data), int64(len(data)), nil)
	if err != nil || req.path != path || req.headers["a"] != "b" {
		t.Fatalf("request %+v, error %v", req, err)
	}
	if f, err := splitFrame(req.payload); err != nil || string(f.header) != "{}" || string(f.data) != "abc" {
		t.Errorf("frame %q, error %v", f, err)
	}
	_, err = readRequest(bytes.NewReader(data), int64(len(data))-1, nil)
	expectError(t, err, ErrTooLarge)
	for n := range data {
		if _, err := readRequest(bytes.NewReader(data[:n]), 1<<20, nil); err == nil {
			t.Errorf("%d of %d bytes are a request", n, len(data))
		}
	}
	for _, headers := range []string{"", "broken", `{"a":1}`} { // Dynamo accepts them too
		odd := append([]byte{0, 1, 'p', 0, byte(len(headers))}, headers...)
		if _, err := readRequest(bytes.NewReader(append(odd, 0, 0, 0, 1, 'x')), 1<<20, nil); err != nil {
			t.Errorf("headers %q: %v", headers, err)
		}
	}
}

func TestControlMessage(t *testing.T) {
	t.Parallel()
	const valid = `{"id":"i","request_type":"single_in","response_type":"many_out","payload_codec":"msgpack",` +
		`"connection_info":{"transport":"tcp_server","info":"{\"address\":\"::1:45019\",\"subject\":\"s\",\"context\":\"i\",\"stream_type\":\"response\"}"}}`
	ticket, err := decodeControl([]byte(valid))
	if err != nil || ticket.id != "i" || ticket.subject != "s" || ticket.codec != Msgpack || ticket.home.String() != "[::1]:45019" {
		t.Fatalf("%+v, error %v", ticket, err)
	}
	if ticket, err = decodeControl([]byte(strings.Replace(valid, `"payload_codec":"msgpack",`, "", 1))); err != nil || ticket.codec != JSON {
		t.Errorf("%+v, error %v, want JSON where there is no codec", ticket, err)
	}
	if _, err := decodeControl([]byte(valid + strings.Repeat(" ", maxControl))); !errors.Is(err, ErrFormat) {
		t.Errorf("a long message: error %v, want ErrFormat", err)
	}
	for from, to := range map[string]string{
		"single_in": "many_in", "many_out": "single_out", "msgpack": "cbor", "tcp_server": "quic-response",
		`\"i\"`: `\"j\"`, `\"response\"`: `\"request\"`, `\"s\"`: `\"\"`, "::1:45019": "localhost:45019", "45019": "0", `{\"address`: `\"address`, `{"id"`: `["id"`,
	} {
		if _, err := decodeControl([]byte(strings.Replace(valid, from, to, 1))); !errors.Is(err, ErrFormat) {
			t.Errorf("%s in place of %s: error %v, want ErrFormat", to, from, err)
		}
	}
}

func FuzzReadRequest(f *testing.F) {
	seed, _ := encodeRequest(path, map[string]string{"a": "b"}, []byte("{}"), 0)
	f.Add(seed)
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		req, err := readRequest(bytes.NewReader(data), 1<<20, nil)
		if err != nil {
			return
		}
		if len(req.path)+len(req.payload) > len(data) {
			t.Errorf("a path of %d and a payload of %d bytes in %d", len(req.path), len(req.payload), len(data))
		}
		if f, err := splitFrame(req.payload); err == nil {
			_, _ = decodeControl(f.header)
		}
	})
}

func FuzzReadFrame(f *testing.F) {
	for _, golden := range []string{goldenPrologue, goldenSentinel} {
		f.Add(unhex(f, golden))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := readFrame(bytes.NewReader(data), 1<<16, 1<<16)
		if err != nil {
			return
		}
		_, _ = decodeHandshake(got.header)
		_ = decodePrologue(got)
		if again := append(append(appendHead(nil, len(got.header), len(got.data)), got.header...), got.data...); !bytes.HasPrefix(data[headSize:], again[headSize:]) {
			t.Errorf("frame %q of %q", again, data)
		}
	})
}

// FuzzItem finds the same item again in the frame that the decoded one is in.
func FuzzItem(f *testing.F) {
	f.Add(unhex(f, goldenTooNew), true)
	f.Add(unhex(f, goldenFinal), true)
	f.Add([]byte(`{"data":{"a":1},"complete_final":false}`), false)
	f.Fuzz(func(t *testing.T, data []byte, msgpack bool) {
		codec := JSON
		if msgpack {
			codec = Msgpack
		}
		item, _, err := decodeItem(frame{data: data}, codec)
		if err != nil || item == nil {
			return
		}
		again, final, err := decodeItem(frame{data: []byte(prefixes[codec] + string(item) + suffixes[codec])}, codec)
		if err != nil || final || !bytes.Equal(again, item) {
			t.Errorf("item %q of %q becomes %q, final %v, error %v", item, data, again, final, err)
		}
	})
}

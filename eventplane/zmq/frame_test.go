package zmq

import (
	"bytes"
	"testing"

	"github.com/dynplane/dynplane/internal/rawzmq"
)

func FuzzDecode(f *testing.F) {
	id := []byte("12345678")
	f.Add(4, id, id, []byte("\x01\x00\x00\x00\x05eventrest"))
	f.Add(4, id, id, []byte("\x01\xff\xff\xff\xff"))
	f.Add(4, id[1:], id, []byte{})
	f.Add(3, id, id, []byte(nil))
	f.Fuzz(func(t *testing.T, count int, id, seq, last []byte) {
		m, reason := decode(&rawzmq.Message{Frames: [frameCount][]byte{nil, id, seq, last}, Count: count})
		if reason != "" {
			return
		}
		again := append(appendHeader(nil, len(m.body)), m.body...)
		if count != frameCount || len(id) != idSize || len(seq) != idSize || !bytes.HasPrefix(last, again) {
			t.Errorf("accepted %d frames: %x %x %x", count, id, seq, last)
		}
		if cap(m.body) != len(m.body) {
			t.Errorf("body of %d bytes: room for %d", len(m.body), cap(m.body))
		}
	})
}

//go:build cgo && !nozmq

package rawzmq

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/dynplane/dynplane/internal/waittest"
	"github.com/dynplane/dynplane/internal/zmtptest"
)

// TestPeersOfOldVersionsAreRefused covers ZMTP 1 and 2. Peers of ZMTP 3 connect,
// whether or not they have a domain for ZAP.
func TestPeersOfOldVersionsAreRefused(t *testing.T) {
	t.Parallel()
	for kind, peer := range map[Kind]string{PUB: "SUB", XPUB: "SUB", SUB: "PUB", XSUB: "PUB"} {
		s, err := open(t).Socket(kind, network)
		s = closing(t, s, err)
		if err := s.Bind("tcp://127.0.0.1:*"); err != nil {
			t.Fatal(err)
		}
		endpoint, err := s.LastEndpoint()
		if err != nil {
			t.Fatal(err)
		}
		for version, greeting := range map[string]string{
			"1.0": "\x01\x00",
			"1.1": "\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x00\x02",
			"2.0": "\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x01\x02\x00\x00",
		} {
			if err := awaitClose(endpoint, greeting); err != nil {
				t.Errorf("a peer of ZMTP %s at a socket of kind %d: %v, want that it is disconnected", version, kind, err)
			}
		}
		zmtptest.Dial(t, endpoint, peer)
	}
}

// awaitClose sends greeting and waits for the end of the connection.
func awaitClose(endpoint, greeting string) error {
	c, err := net.Dial("tcp", strings.TrimPrefix(endpoint, "tcp://"))
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(waittest.Patience))
	if _, err := io.WriteString(c, greeting); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}

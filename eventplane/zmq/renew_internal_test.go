//go:build cgo && !nozmq

package zmq

import (
	"log/slog"
	"testing"
	"time"

	"github.com/dynplane/dynplane/internal/rawzmq"
)

// TestProofsAreRenewed has a connection that is cut and opened again with the same
// descriptor: the answer to the former one may still be unread.
func TestProofsAreRenewed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		proves, proved bool // in the first life
		wait           time.Duration
		renewals       int
	}{
		"cut before the answer":       {renewals: 1},
		"cut after the answer":        {proved: true},
		"cut after it was assumed":    {wait: time.Second, renewals: 1},
		"requested again, then cut":   {proves: true, wait: time.Hour, renewals: 2},
		"certain, cut in good time":   {proves: true, renewals: 1},
		"certain, cut when it proved": {proves: true, proved: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			renewals := 0
			k := &connection{endpoint: "tcp://peer:1", proves: c.proves}
			all := newConnections(nil, slog.New(slog.DiscardHandler))
			all.assumeAfter, all.renew = assumeAfter, func() { renewals++ }
			all.byEndpoint[k.endpoint] = k
			all.pending = 1
			now := time.Now()
			report := func(kind rawzmq.EventKind, value int) {
				all.handleEvent(rawzmq.Event{Kind: kind, Value: value, Endpoint: k.endpoint}, now)
			}
			report(rawzmq.Connected, 7)
			report(rawzmq.HandshakeSucceeded, 0)
			if c.proved {
				all.prove(7)
			}
			all.runDue(now.Add(c.wait))
			if want := c.proved || c.wait > 0 && !c.proves; all.settled() != want {
				t.Errorf("ready is %v, want %v", all.settled(), want)
			}
			report(rawzmq.Disconnected, 7)
			report(rawzmq.ConnectRetried, 0)
			report(rawzmq.Connected, 7)
			report(rawzmq.HandshakeSucceeded, 0)
			if renewals != c.renewals {
				t.Errorf("the probe was renewed %d times, want %d", renewals, c.renewals)
			}
			if all.prove(7); !all.settled() {
				t.Error("not ready after the answer")
			}
		})
	}
}

//go:build cgo && !nozmq

package eventplane_test

import (
	"strings"
	"testing"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/eventplane"
)

// A publisher registers where its history is served, unless it keeps none.
func TestReplayEndpointIsRegistered(t *testing.T) {
	t.Parallel()
	for name, setup := range zmqTransports() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plane, ctx := newPlane(t, setup(t), newDiscovery(t, memory.New())), patient(t)
			for _, history := range []int{0, -1} {
				pub, err := plane.PublisherWithOptions(ctx, backend, "kv-events", eventplane.PublisherOptions{History: history})
				must(t, err)
				var got string
				switch transport := pub.Registration().Instance().Spec.(discovery.EventChannel).Transport.(type) {
				case discovery.ZMQ:
					got = transport.ReplayEndpoint
				case discovery.ZMQBroker:
					got = transport.ReplayEndpoint
				}
				if history < 0 && got != "" || history == 0 && (!strings.HasPrefix(got, "tcp://") || strings.HasPrefix(got, "tcp://0.0.0.0")) {
					t.Errorf("history %d: replay endpoint %q", history, got)
				}
			}
		})
	}
}

package dynamo

import (
	"testing"

	"github.com/dynplane/dynplane/integration/dynamotest"
	"github.com/dynplane/dynplane/integration/natstest"
)

// TestDefaults leaves the transport and the codec to both sides, beside a NATS
// server that only ours are given, and then the codec alone.
func TestDefaults(t *testing.T) {
	t.Parallel()
	for _, version := range []string{dynamotest.Gen2, dynamotest.Gen1} {
		for _, store := range []string{"file", "etcd"} {
			t.Run(version+"/"+store+"/no transport", func(t *testing.T) {
				t.Parallel()
				p := newPlace(t, version, store, "direct")
				p.unset("DYN_EVENT_PLANE")
				p.ours["NATS_SERVER"] = natstest.Run(t).URL()
				t.Run("theirs", func(t *testing.T) { p.receive(t) })
				t.Run("ours", func(t *testing.T) { p.publish(t) })
			})
			t.Run(version+"/"+store+"/NATS without codec", func(t *testing.T) {
				t.Parallel()
				p := newPlace(t, version, store, "NATS")
				p.unset("DYN_EVENT_PLANE_CODEC")
				t.Run("theirs", func(t *testing.T) { p.receive(t) })
				t.Run("ours", func(t *testing.T) { p.publish(t) })
			})
		}
	}
}

// unset removes a variable from both environments.
func (p *place) unset(name string) {
	delete(p.theirs, name)
	delete(p.ours, name)
}

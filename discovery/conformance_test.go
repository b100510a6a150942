package discovery_test

import (
	"testing"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/discoverytest"
	"github.com/dynplane/dynplane/integration/natstest"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	discoverytest.Run(t, func(*testing.T) func() discovery.Store { return discovery.NewMemory().Open })
}

func TestJetStream(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	discoverytest.Run(t, func(t *testing.T) func() discovery.Store {
		t.Helper()
		bucket := "bucket-" + t.Name()[len("TestJetStream/"):]
		return func() discovery.Store {
			store, err := discovery.NewJetStream(server.Connect(t), discovery.JetStreamOptions{Bucket: bucket, Memory: true})
			if err != nil {
				t.Fatal(err)
			}
			return store
		}
	})
}

package natskv_test

import (
	"strings"
	"testing"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/discoverytest"
	"github.com/dynplane/dynplane/discovery/natskv"
	"github.com/dynplane/dynplane/integration/natstest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	discoverytest.Run(t, func(t *testing.T) func() discovery.Store {
		t.Helper()
		bucket := "bucket-" + strings.ReplaceAll(t.Name()[len("TestConformance/"):], ",", "")
		return func() discovery.Store {
			store, err := natskv.New(server.Connect(t), natskv.Options{Bucket: bucket, Memory: true})
			if err != nil {
				t.Fatal(err)
			}
			return store
		}
	})
}

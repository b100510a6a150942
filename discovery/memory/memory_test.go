package memory_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/discoverytest"
	"github.com/dynplane/dynplane/discovery/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	t.Parallel()
	discoverytest.Run(t, func(*testing.T) func() discovery.Store { return memory.New().Open })
}

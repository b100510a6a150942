package soak

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dynplane/dynplane/integration/natstest"
)

var (
	duration = flag.Duration("duration", 20*time.Second, "how long faults go on, at least")
	seed     = flag.Uint64("seed", 0, "the seed of the plan; 0 means a random one")
	frozen   = flag.Bool("frozen", false, "freeze single servers of a cluster as well")
)

func TestMain(m *testing.M) {
	if child, err := natstest.ServeProcess(); child {
		if err != nil {
			fmt.Fprintln(os.Stderr, "server process:", err)
			os.Exit(1)
		}
		return
	}
	if child, err := serveChild(); child {
		if err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m, natstest.IgnoreServer())
}

package etcd

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// roleVar makes the test binary act as an etcd server, or as an owner that waits
// to be killed.
const roleVar = "DYNPLANE_TEST_ROLE"

func TestMain(m *testing.M) {
	roles := map[string]func() error{"server": serve, "owner": own}
	if role, ok := roles[os.Getenv(roleVar)]; ok {
		if err := role(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

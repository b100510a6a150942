package natsversions

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// roleVar makes the test binary act as the guard of a server.
const roleVar = "DYNPLANE_TEST_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(roleVar) == "guard" {
		if err := guard(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

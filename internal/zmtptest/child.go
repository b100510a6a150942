package zmtptest

import (
	"context"
	"os"
	"os/exec"
	"testing"

	"github.com/dynplane/dynplane/internal/waittest"
)

// childVariable names the test that a child process of InChild runs.
const childVariable = "DYNPLANE_TEST_CHILD"

// InChild runs f in a child process: libzmq aborts its process when an assertion
// of its own fails, which would otherwise end all tests. It must be called once
// in a test, which has no subtests.
func InChild(t *testing.T, f func()) {
	t.Helper()
	if os.Getenv(childVariable) == t.Name() { //nolint:forbidigo // set by the parent, which is this function
		f()
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*waittest.Patience)
	defer cancel()
	child := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
	child.Env = append(child.Environ(), childVariable+"="+t.Name())
	if output, err := child.CombinedOutput(); err != nil {
		t.Fatalf("the child process failed: %v\n%s", err, output)
	}
}

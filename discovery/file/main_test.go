//go:build linux || darwin

package file_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/file"
)

// childRoot is the environment variable that makes the test binary run child on
// the root that it names.
const childRoot = "FILE_TEST_ROOT"

func TestMain(m *testing.M) {
	if root := os.Getenv(childRoot); root != "" {
		if err := child(root, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// child runs a worker with the arguments TTL FIRST N: it registers endpoints under
// the ids FIRST to FIRST+N-1, prints ready, and shuts down when its input ends.
func child(root string, args []string) error {
	ttl, err := time.ParseDuration(args[0])
	first, ferr := strconv.ParseUint(args[1], 10, 64)
	n, nerr := strconv.ParseUint(args[2], 10, 64)
	if err := errors.Join(err, ferr, nerr); err != nil {
		return err
	}
	store, err := file.New(file.Options{Root: root, TTL: ttl})
	if err != nil {
		return err
	}
	client := discovery.NewClient(store, discovery.Options{})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for i := range n {
		if _, err := client.RegisterAs(ctx, first+i, endpoint()); err != nil {
			return err
		}
	}
	fmt.Println("ready") //nolint:forbidigo // the parent waits for it
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	return client.Shutdown(ctx)
}

func endpoint() discovery.Endpoint {
	return discovery.Endpoint{
		Scope:     discovery.Scope{Namespace: "ns", Component: "comp", Endpoint: "ep"},
		Transport: discovery.TCP("127.0.0.1:4000/2a/ep"),
	}
}

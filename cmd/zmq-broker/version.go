package main

import (
	"cmp"
	"fmt"
	"io"

	zmqdriver "github.com/dynplane/dynplane/eventplane/zmq"
	"github.com/dynplane/dynplane/internal/buildinfo"
)

// printVersion prints the same lines as dynplane version, as far as they apply.
func printVersion(stdout io.Writer) {
	build := buildinfo.Read()
	libzmq := cmp.Or(zmqdriver.Version(), "none (built without it)")
	_, _ = fmt.Fprintf(stdout, "zmq-broker  %s\ncommit      %s\nlibzmq      %s\ngo          %s\n", build.Version, build.Commit, libzmq, build.Go)
}

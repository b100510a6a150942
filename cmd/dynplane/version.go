package main

import (
	"cmp"

	"github.com/spf13/cobra"

	zmqdriver "github.com/dynplane/dynplane/eventplane/zmq"
	"github.com/dynplane/dynplane/internal/buildinfo"
)

type versions struct {
	Dynplane string `json:"dynplane"`
	Commit   string `json:"commit"`
	LibZMQ   string `json:"libzmq"`
	NATS     string `json:"nats.go"`
	Go       string `json:"go"`
}

func newVersionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the versions of dynplane and of its libraries",
		Long: `Print the version and the commit that dynplane was built from, and the versions
of libzmq, nats.go and Go. A commit ends in +dirty if files were modified; it is
unknown if the build recorded none.`,
		Example: `  dynplane version
  dynplane version -o json`,
		Args: argCount(0, 0),
		RunE: func(*cobra.Command, []string) error {
			v := currentVersions()
			if a.output == "json" {
				return a.writeJSON(v)
			}
			t := newTable(a.stdout)
			t.row("dynplane", v.Dynplane)
			t.row("commit", v.Commit)
			t.row("libzmq", v.LibZMQ)
			t.row("nats.go", v.NATS)
			t.row("go", v.Go)
			return t.Flush()
		},
	}
}

func currentVersions() versions {
	build := buildinfo.Read()
	return versions{
		Dynplane: build.Version,
		Commit:   build.Commit,
		LibZMQ:   cmp.Or(zmqdriver.Version(), "none (built without it)"),
		NATS:     buildinfo.Dependency("github.com/nats-io/nats.go"),
		Go:       build.Go,
	}
}

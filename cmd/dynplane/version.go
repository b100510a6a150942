package main

import (
	"cmp"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	zmqdriver "github.com/dynplane/dynplane/eventplane/zmq"
)

type versions struct {
	Dynplane string `json:"dynplane"`
	LibZMQ   string `json:"libzmq"`
	NATS     string `json:"nats.go"`
	Go       string `json:"go"`
}

func newVersionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Show the versions of dynplane and of what it is built on",
		Example: "  dynplane version -o json",
		Args:    argCount(0, 0),
		RunE: func(*cobra.Command, []string) error {
			v := currentVersions()
			if a.output == "json" {
				return a.writeJSON(v)
			}
			t := newTable(a.stdout)
			t.row("dynplane", v.Dynplane)
			t.row("libzmq", v.LibZMQ)
			t.row("nats.go", v.NATS)
			t.row("go", v.Go)
			return t.Flush()
		},
	}
}

func currentVersions() versions {
	v := versions{
		Dynplane: "unknown",
		LibZMQ:   cmp.Or(zmqdriver.Version(), "none (built without it)"),
		NATS:     "unknown",
		Go:       runtime.Version(),
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Dynplane = cmp.Or(info.Main.Version, v.Dynplane)
	for _, dep := range info.Deps {
		if dep.Path == "github.com/nats-io/nats.go" {
			v.NATS = dep.Version
		}
	}
	return v
}

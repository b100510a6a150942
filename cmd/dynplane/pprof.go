package main

import (
	"fmt"
	"net"

	"github.com/spf13/cobra"

	"github.com/dynplane/dynplane/internal/pprofserver"
)

// pprofFlag adds --pprof to a long-running command and its subcommands.
func (a *app) pprofFlag(cmd *cobra.Command) {
	cmd.PersistentFlags().StringVar(&a.pprof, "pprof", "", "serve net/http/pprof on `HOST:PORT`, such as 127.0.0.1:6060 (default off)")
}

func (a *app) checkPprof() error {
	if _, _, err := net.SplitHostPort(a.pprof); a.pprof != "" && err != nil {
		return usagef("--pprof %q: want HOST:PORT, such as 127.0.0.1:6060", a.pprof)
	}
	return nil
}

// startProfiles serves profiles until stopProfiles if --pprof is set.
func (a *app) startProfiles() (err error) {
	if a.pprof == "" {
		return nil
	}
	if a.profiles, err = pprofserver.Start(a.pprof); err != nil {
		return fmt.Errorf("--pprof: %w", err)
	}
	_, _ = fmt.Fprintf(a.stderr, "dynplane: serving profiles at http://%s/debug/pprof/\n", a.profiles.Addr())
	return nil
}

func (a *app) stopProfiles() error {
	if a.profiles == nil {
		return nil
	}
	return a.profiles.Close()
}

// Command dynplane registers, lists and watches inference workers, and
// publishes and receives their events. See dynplane --help; dynplane demo shows
// the whole system at work.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"
)

func main() { os.Exit(run()) }

// run is the whole program; it returns the exit code.
func run() int {
	// With SIGPIPE handled, even by a channel that is never read, a write to a closed
	// pipe returns an error instead of ending the process, and registrations are
	// removed.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal kills the process, should the shutdown take too long.
	context.AfterFunc(ctx, stop)

	a := &app{
		lookup:   os.LookupEnv,
		stdin:    os.Stdin,
		stdout:   os.Stdout,
		stderr:   os.Stderr,
		terminal: term.IsTerminal(int(os.Stdout.Fd())),

		stderrTerminal: term.IsTerminal(int(os.Stderr.Fd())),
	}
	return a.run(ctx, os.Args[1:])
}

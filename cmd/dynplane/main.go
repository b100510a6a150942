// Command dynplane registers, lists and watches inference workers, and
// publishes and hears their events. See dynplane --help, and dynplane demo for
// all of it at work.
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
	// Being asked for is enough: a write to a closed pipe becomes an error
	// instead of the end of the process, and registrations are taken back.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The second signal kills, should the first one take too long.
	context.AfterFunc(ctx, stop)

	a := &app{
		lookup:   os.LookupEnv,
		stdin:    os.Stdin,
		stdout:   os.Stdout,
		stderr:   os.Stderr,
		terminal: term.IsTerminal(int(os.Stdout.Fd())),
	}
	return a.run(ctx, os.Args[1:])
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/cobra"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/eventplane"
)

// demoScope returns the endpoint of the demo's workers.
func demoScope() discovery.Scope {
	return discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"}
}

const demoTopic = "kv-events"

// eventInterval is the time between two events of a worker: a busy engine
// publishes some hundred per second.
const eventInterval = 2 * time.Millisecond

// workerEndTimeout bounds each of the two shutdowns of a worker.
const workerEndTimeout = time.Second

func newWorkerCommand(a *app) *cobra.Command {
	var number uint16
	cmd := &cobra.Command{
		Use:   "worker",
		Short: "Run one worker of the demo",
		Long: `Run one worker of the demo. It registers an endpoint, its model and a kv-events
channel, prints the path of the channel, and publishes until SIGTERM or the end of
stdin, which comes when the demo exits or is killed.`,
		Example: "  dynplane worker --number 1 --ttl 2s",
		Hidden:  true,
		Args:    argCount(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.worker(cmd.Context(), number)
		},
	}
	cmd.Flags().Uint16Var(&number, "number", 1, "number of the worker")
	a.pprofFlag(cmd)
	return cmd
}

// worker runs until ctx is done or stdin ends.
func (a *app) worker(ctx context.Context, number uint16) error {
	// Ctrl-C reaches all processes of the terminal, and the demo stops its workers
	// itself.
	signal.Ignore(os.Interrupt)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	// This goroutine ends with stdin or, after a signal, with the process.
	go func() {
		defer stop()
		_, _ = io.Copy(io.Discard, a.stdin)
	}()
	err := a.work(ctx, number)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// work registers, publishes until ctx is done, and unregisters.
func (a *app) work(ctx context.Context, number uint16) (err error) {
	client, err := a.discover(ctx)
	if err != nil {
		return err
	}
	// The demo may have been killed, and the server with it: then exiting soon
	// matters more than unregistering.
	end := func(c interface{ Shutdown(context.Context) error }) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), workerEndTimeout)
		defer cancel()
		return c.Shutdown(ctx)
	}
	defer func() { err = errors.Join(err, end(client)) }()
	cfg, err := eventplane.ConfigFromEnv(a.env)
	if err != nil {
		return err
	}
	plane, err := a.plane(cfg, client)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end(plane)) }()

	if err := registerWorker(ctx, client, number); err != nil {
		return err
	}
	pub, err := plane.Publisher(ctx, demoScope(), demoTopic)
	if err != nil {
		return err
	}
	if err := pub.Ready(ctx); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(a.stdout, pub.Registration().Instance().ID().Path()); err != nil {
		return err
	}
	return publishCache(ctx, pub, newCache(client.InstanceID(), uint64(number)))
}

// registerWorker registers the worker's endpoint and model. No client sends
// requests: the port is only a plausible one.
func registerWorker(ctx context.Context, client *discovery.Client, number uint16) error {
	scope := demoScope()
	address := fmt.Sprintf("127.0.0.1:%d/%x/%s", 9000+int(number), client.InstanceID(), scope.Endpoint)
	if _, err := client.Register(ctx, discovery.Endpoint{Scope: scope, Transport: discovery.TCP(address)}); err != nil {
		return err
	}
	model, err := discovery.NewModel(scope, map[string]any{
		"display_name": "demo-model", "source_path": "dynplane/demo-model",
		"context_length": 32768, "kv_cache_block_size": 16,
	}, "")
	if err != nil {
		return err
	}
	_, err = client.Register(ctx, model)
	return err
}

// publishCache publishes the events of a cache until ctx is done.
func publishCache(ctx context.Context, pub *eventplane.Publisher, c *cache) error {
	tick := time.NewTicker(eventInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			ev := c.next()
			ev.Event.SentNS = time.Now().UnixNano()
			if err := pub.Publish(ctx, ev); err != nil {
				return err
			}
		}
	}
}

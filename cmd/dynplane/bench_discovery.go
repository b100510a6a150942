package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/natskv"
	"github.com/dynplane/dynplane/internal/wait"
	"github.com/dynplane/dynplane/natsconn"
)

// bench is one run of bench discovery.
type bench struct {
	benchOptions
	app       *app
	config    natsconn.Config
	namespace string
	stats     func(context.Context) (benchServerStats, error) // nil if there are none
	warnings  *warningCounter

	workers   []*benchClient // of the owners
	readers   []*benchClient // of the watchers
	leases    []benchLease   // by entry
	followers []*benchWatcher
	result    benchResult
}

// benchClient is a client of discovery on a connection of its own.
type benchClient struct {
	nc       *nats.Conn
	client   *discovery.Client
	killedAt atomic.Pointer[time.Time]
}

// benchLease is the registration of an entry, and whether its lease was lost.
type benchLease struct {
	*discovery.Registration
	lost bool
}

// benchDiscovery runs the bench, prints the result and returns an error if a
// promise was broken.
func (a *app) benchDiscovery(ctx context.Context, o benchOptions) (err error) {
	b := &bench{
		benchOptions: o, app: a, warnings: newWarningCounter(),
		namespace: fmt.Sprintf("bench-%08x", rand.Uint32()),
	}
	closeServer, err := b.openServer()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeServer()) }()
	if err := b.run(ctx); err != nil {
		return fmt.Errorf("bench: %w", hint(err))
	}
	b.summarize()
	if a.output == "json" {
		err = a.writeJSON(b.result)
	} else {
		err = b.result.writeTable(a.stdout)
	}
	return errors.Join(err, b.result.verdict())
}

// run runs the phases. It always ends with the shutdown of all clients.
func (b *bench) run(ctx context.Context) (err error) {
	watching, stop := context.WithCancel(ctx)
	var following sync.WaitGroup
	defer func() {
		stop()
		following.Wait()
		err = errors.Join(err, b.closeWatchers(ctx))
		err = errors.Join(err, b.phase(context.WithoutCancel(ctx), "unregister", b.unregister))
	}()
	if err := b.dial(ctx); err != nil {
		return err
	}
	if err := b.phase(ctx, "register", b.register); err != nil {
		return err
	}
	following.Go(func() {
		for wait.Sleep(watching, 200*time.Millisecond) == nil {
			b.checkLeases()
		}
	})
	err = b.phase(ctx, "sync", func(ctx context.Context) error {
		for _, w := range b.followers {
			following.Go(func() { w.follow(watching, b) })
		}
		return b.await(ctx, "listed the entries", func(w *benchWatcher) <-chan struct{} { return w.synced })
	})
	if err != nil || len(b.result.Unfinished) > 0 {
		return err
	}
	if err := b.phase(ctx, "rest", b.settle); err != nil {
		return err
	}
	if b.killed() == 0 {
		return nil
	}
	return b.phase(ctx, "removal", func(ctx context.Context) error {
		for _, c := range b.workers[:b.killed()] {
			now := time.Now()
			c.killedAt.Store(&now)
			c.nc.Close()
		}
		return b.await(ctx, "removed the entries of killed clients", func(w *benchWatcher) <-chan struct{} { return w.gone })
	})
}

// settle lets the time at rest pass, and counts what watchers receive meanwhile.
func (b *bench) settle(ctx context.Context) error {
	for _, w := range b.followers {
		w.resting = w.nc.Stats().InMsgs
	}
	err := wait.Sleep(ctx, b.rest)
	for _, w := range b.followers {
		w.resting, w.rested = w.nc.Stats().InMsgs-w.resting, true
	}
	return err
}

// phase runs a part of the bench and records what it cost.
func (b *bench) phase(ctx context.Context, name string, run func(context.Context) error) error {
	p := benchPhase{Name: name}
	var before benchServerStats
	var err error
	if b.stats != nil {
		if before, err = b.stats(ctx); err != nil {
			return err
		}
	}
	begun, cpu := time.Now(), cpuSeconds()
	if err := run(ctx); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	p.Seconds, p.CPUSeconds = seconds(time.Since(begun)), inMillis(cpuSeconds()-cpu)
	if b.stats != nil {
		after, err := b.stats(ctx)
		if err != nil {
			return err
		}
		server := after.since(before)
		p.Server = &server
	}
	b.result.Phases = append(b.result.Phases, p)
	_, err = fmt.Fprintf(b.app.stderr, "%-10s %8.2f s\n", name, p.Seconds)
	return err
}

// await waits until all watchers have reached a state. Those that have not when
// the patience is over are part of the result.
func (b *bench) await(ctx context.Context, what string, state func(*benchWatcher) <-chan struct{}) error {
	patient, cancel := context.WithTimeout(ctx, b.patience)
	defer cancel()
	late := 0
	for _, w := range b.followers {
		err := w.wait(patient, state(w))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, context.DeadlineExceeded) {
			late++
		} else if err != nil {
			return err
		}
	}
	if late > 0 {
		b.result.Unfinished = append(b.result.Unfinished,
			fmt.Sprintf("%d of %d watchers have not %s within %v", late, len(b.followers), what, b.patience))
	}
	return nil
}

// dial opens the connections of all clients and watchers.
func (b *bench) dial(ctx context.Context) error {
	all := make([]*benchClient, b.clients+b.watcherClients)
	err := inParallel(ctx, len(all), b.parallel, func(ctx context.Context, i int) error {
		c := &benchClient{}
		log := slog.New(warningHandler{b.warnings, func() bool { return c.killedAt.Load() == nil }})
		config := b.config
		config.Logger = log
		nc, err := natsconn.Connect(ctx, config)
		if err != nil {
			return err
		}
		c.nc, all[i] = nc, c
		store, err := natskv.New(nc, natskv.Options{
			Bucket: b.app.bucket, TTL: b.app.ttl, Replicas: b.app.replicas, Memory: b.app.storage == "memory", Logger: log,
		})
		if err != nil {
			return err
		}
		c.client = discovery.NewClient(store, discovery.Options{Logger: log})
		return nil
	})
	for i, c := range all {
		switch {
		case c == nil:
		case c.client == nil:
			c.nc.Close()
		case i < b.clients:
			b.workers = append(b.workers, c)
		default:
			b.readers = append(b.readers, c)
		}
	}
	if err != nil {
		return err
	}
	for i := range b.watchers {
		b.followers = append(b.followers, newBenchWatcher(b.readers[i%len(b.readers)]))
	}
	return nil
}

func (b *bench) register(ctx context.Context) error {
	b.leases = make([]benchLease, b.owners*b.entries)
	return inParallel(ctx, b.owners*b.entries, b.parallel, func(ctx context.Context, i int) error {
		owner, entry := i/b.entries, i%b.entries
		id := uint64(owner) + 1
		reg, err := b.workers[b.clientOf(owner)].client.RegisterAs(ctx, id, discovery.Endpoint{
			Scope:     discovery.Scope{Namespace: b.namespace, Component: "backend", Endpoint: fmt.Sprintf("generate-%d", entry)},
			Transport: discovery.TCP(fmt.Sprintf("10.%d.%d.%d:41231/%x/generate-%d", owner>>16, owner>>8&255, owner&255, id, entry)),
			Device:    discovery.DeviceCUDA, RequestCodec: "msgpack",
		})
		b.leases[i].Registration = reg
		return err
	})
}

// checkLeases records which leases of living clients are lost now.
func (b *bench) checkLeases() {
	for i := range b.leases {
		l := &b.leases[i]
		health, _ := l.Health()
		// In this order, since the client may be killed meanwhile.
		if !health.Healthy && b.workers[b.clientOf(i/b.entries)].killedAt.Load() == nil {
			l.lost = true
		}
	}
}

func (b *bench) closeWatchers(ctx context.Context) error {
	return inParallel(context.WithoutCancel(ctx), len(b.readers), b.parallel, func(ctx context.Context, i int) error {
		defer b.readers[i].nc.Close()
		return b.app.shutdown(ctx, b.readers[i].client)
	})
}

// unregister shuts the owners' clients down.
func (b *bench) unregister(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, max(b.patience, endTimeout))
	defer cancel()
	return inParallel(ctx, len(b.workers), b.parallel, func(ctx context.Context, i int) error {
		c := b.workers[i]
		defer c.nc.Close()
		if c.killedAt.Load() != nil {
			// Its entries are gone, and with its connection it cannot remove any.
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			_ = c.client.Shutdown(ctx)
			return nil
		}
		return c.client.Shutdown(ctx)
	})
}

// inParallel calls f with each index below n, in some goroutines. It returns the
// first error, which cancels the other calls.
func inParallel(ctx context.Context, n, parallel int, f func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var running sync.WaitGroup
	for range min(n, parallel) {
		running.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := f(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	running.Wait()
	return context.Cause(ctx)
}

package soak

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery/natskv"
	"github.com/dynplane/dynplane/integration/natstest"
)

func theSeed() uint64 {
	if *seed != 0 {
		return *seed
	}
	return rand.Uint64N(1 << 32)
}

// TestFaults proves that watches show no living owner as removed, no ghost and no
// stale value, whatever happens to a server.
func TestFaults(t *testing.T) {
	t.Parallel()
	plan := theSeed()
	cases := []struct {
		name    string
		options natskv.Options
	}{
		{"file", natskv.Options{TTL: 5 * time.Second}},
		{"memory", natskv.Options{TTL: 6 * time.Second, Memory: true}},
	}
	if *duration < time.Minute { // there is time for one of them
		cases = cases[plan%2:][:1]
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, plan, c.options, []*natstest.Process{natstest.RunProcess(t)})
			w.run(singleFaults)
		})
	}
}

// TestFrozenServer freezes a server for less and for more than a TTL. Leases expire
// meanwhile, some of them just before the end, so that their purges are not late.
func TestFrozenServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1, natskv.Options{TTL: 5 * time.Second, Memory: true}, []*natstest.Process{natstest.RunProcess(t)})
	for i, d := range []time.Duration{4 * time.Second, 7 * time.Second} {
		w.pause(w.options.TTL) // the heartbeats spread
		w.freeze(w.servers, d)
		w.compare(i + 1)
	}
	w.end()
}

// TestClusterFaults proves the same of a cluster of three servers.
func TestClusterFaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t, theSeed(), natskv.Options{TTL: 10 * time.Second, Replicas: 3}, natstest.ProcessCluster(t, 3))
	faults := clusterFaults
	if *frozen {
		faults = slices.Concat(faults, frozenServers)
	}
	w.run(faults)
}

// run alternates between faults and a comparison of everything, for the duration.
func (w *world) run(faults []fault) {
	w.t.Logf("repeat with make soak SEED=%d RUN='%s'", w.seed, w.t.Name())
	random, network := w.randomOf(1), w.randomOf(2)
	begun := time.Now()
	for round := 1; round == 1 || time.Since(begun) < *duration && !w.t.Failed(); round++ {
		w.round(faults, random, network)
		w.compare(round)
	}
	w.end()
}

func (w *world) round(faults []fault, random, network *rand.Rand) {
	ctx, stop := context.WithCancel(w.ctx)
	defer stop()
	var churn sync.WaitGroup
	for _, o := range w.owners {
		churn.Go(func() { o.churn(ctx, w.ctx) })
	}
	churn.Go(func() { w.partitions(ctx, network) })
	for range 3 - w.options.Replicas/3 - random.IntN(2) { // fewer in a cluster, whose TTL is longer
		w.pause(time.Duration(random.Int64N(int64(w.options.TTL))))
		f, d := faults[random.IntN(len(faults))], w.length(random)
		w.t.Logf("%s %s, for %v", time.Now().Format("15:04:05.000"), f.name, d)
		f.run(w, random, d)
	}
	w.pause(time.Duration(random.Int64N(int64(w.options.TTL))))
	stop()
	churn.Wait()
	for _, o := range w.owners {
		churn.Go(func() { o.settle(w.ctx) })
	}
	churn.Wait()
}

// compare waits until all observers agree with the owners.
func (w *world) compare(round int) {
	begun := time.Now()
	var wrong []string
	logged := 0
	for ; time.Since(begun) < w.history.settling(); w.pause(200 * time.Millisecond) {
		if wrong = w.differences(); len(wrong) == 0 {
			break
		}
		if since := time.Since(begun); since > time.Duration(logged+1)*10*time.Second {
			logged++
			w.t.Logf("%v after the last fault: %s", since.Round(time.Second), wrong[0])
		}
	}
	for _, text := range wrong {
		w.history.violation("%v after the last fault: %s", time.Since(begun).Round(time.Second), text)
	}
	w.history.review()
	living, _ := w.history.living()
	events := 0
	for _, o := range w.observers {
		o.mu.Lock()
		events += o.events
		o.mu.Unlock()
	}
	w.t.Logf("%s round %d: %d registrations, %d events; all agree after %v",
		time.Now().Format("15:04:05.000"), round, len(living), events, time.Since(begun).Round(10*time.Millisecond))
}

func (w *world) differences() (wrong []string) {
	living, err := w.history.living()
	if err != nil {
		wrong = append(wrong, err.Error())
	}
	for _, o := range w.observers {
		if text := o.difference(living); text != "" {
			wrong = append(wrong, text)
		}
	}
	if len(wrong) > 0 {
		return wrong
	}
	for _, o := range w.observers {
		if text := o.list(w.ctx, living); text != "" {
			wrong = append(wrong, text)
		}
	}
	return wrong
}

// end shuts the owners down: each must remove what it has registered.
func (w *world) end() {
	for _, o := range w.owners {
		for _, h := range o.handles {
			w.history.doom(h)
		}
		ctx, cancel := context.WithTimeout(w.ctx, w.history.settling())
		if err := o.client.Shutdown(ctx); err != nil {
			w.history.violation("%s: shutdown: %v", o.name, err)
		}
		cancel()
		o.waits.Wait()
	}
	w.compare(0)
}

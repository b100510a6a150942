package natskv_test

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/natskv"
	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/waittest"
)

// followed is what one watch has reported: the address of each instance.
type followed map[uint64]string

// apply returns an error if the event does not follow from the former ones.
func (f followed) apply(ev discovery.Event) error {
	id := ev.Instance.InstanceID
	former, known := f[id]
	switch ev.Type {
	case discovery.Removed:
		if !known {
			return fmt.Errorf("%v, which was not there", ev)
		}
		delete(f, id)
	case discovery.Updated, discovery.Added:
		address := ev.Instance.Spec.(discovery.Endpoint).Transport.Address
		if known != (ev.Type == discovery.Updated) || address == former {
			return fmt.Errorf("%v with %q after %q", ev, address, former)
		}
		f[id] = address
	}
	return nil
}

// until follows a watch up to the event that ends it.
func (f followed) until(ctx context.Context, c *discovery.Client, end func(discovery.Event) bool) error {
	for ev, err := range c.WatchWithOptions(ctx, inNamespace("ns"), discovery.WatchOptions{Updates: true}) {
		if err == nil {
			err = f.apply(ev)
		}
		if err != nil || end(ev) {
			return err
		}
	}
	return nil
}

// TestManyWatchesOfOneClient begins 300 watches while registrations come, change and
// go, and ends half of them early. Each other one arrives at the same state.
func TestManyWatchesOfOneClient(t *testing.T) {
	t.Parallel()
	const watches, entries, last = 300, 2000, 1 << 20
	nc := natstest.Run(t).Connect(t)
	worker := newClient(t, nc, natskv.Options{})
	regs := make([]*discovery.Registration, entries)
	want := followed{}
	for i := range regs {
		regs[i] = register(t, worker, uint64(i)+1, endpoint("ns"))
		want[uint64(i)+1] = endpoint("ns").Transport.Address
	}
	client := newClient(t, nc, natskv.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Patience)
	defer cancel()
	var synced atomic.Int64
	results := make([]followed, watches)
	var following sync.WaitGroup
	for i := range watches {
		following.Go(func() {
			results[i] = followed{}
			err := results[i].until(ctx, client, func(ev discovery.Event) bool {
				if ev.Type == discovery.Synced {
					synced.Add(1)
				}
				return i%2 == 1 && len(results[i]) > i || ev.Instance.InstanceID == last
			})
			if err != nil {
				t.Errorf("watch %d: %v", i, err)
			}
		})
	}
	for i, reg := range regs[:entries/4] {
		switch spec := endpoint("ns"); i % 3 {
		case 0:
			delete(want, uint64(i)+1)
			if err := reg.Unregister(ctx); err != nil {
				t.Fatal(err)
			}
		case 1:
			spec.Transport = discovery.TCP(fmt.Sprint(i))
			want[uint64(i)+1] = spec.Transport.Address
			if err := reg.Update(ctx, spec); err != nil {
				t.Fatal(err)
			}
		}
	}
	waittest.Eventually(t, "the watches are synced", func() bool { return synced.Load() >= watches/2 })
	if n := consumers(t, nc); n > 2 {
		t.Errorf("%d watches of one query have %d consumers", watches, n)
	}
	register(t, worker, last, endpoint("ns"))
	want[last] = endpoint("ns").Transport.Address
	following.Wait()
	for i, got := range results {
		if i%2 == 0 && !maps.Equal(got, want) {
			t.Errorf("watch %d ended with %d entries, want the %d that are registered", i, len(got), len(want))
		}
	}
	waittest.Eventually(t, "no consumer is left", func() bool { return consumers(t, nc) == 0 })
}

// Synced of a watch that shares another one waits for what was registered before.
func TestSharedWatchBeginsUpToDate(t *testing.T) {
	t.Parallel()
	nc := natstest.Run(t).Connect(t)
	worker, client := newClient(t, nc, natskv.Options{}), newClient(t, nc, natskv.Options{})
	first := newWatch(t, client, inNamespace("ns"))
	first.expect(discovery.Synced, 0) // there is no bucket
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Patience)
	defer cancel()
	for i := range uint64(200) {
		if i > 0 {
			register(t, worker, i, endpoint("ns"))
		}
		got := followed{}
		if err := got.until(ctx, client, func(ev discovery.Event) bool { return ev.Type == discovery.Synced }); err != nil {
			t.Fatal(err)
		}
		if len(got) != int(i) {
			t.Fatalf("a watch after %d registrations is synced with %d", i, len(got))
		}
	}
}

package natsversions

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery/natskv"
	"github.com/dynplane/dynplane/internal/waittest"
)

const (
	replicatedTTL = 10 * time.Second
	livingOwners  = 300
	dyingOwners   = 30
	perConnection = 30 // owners that share one
)

// ofOwner are the endpoints that each owner registers.
var ofOwner = []string{"generate", "clear", "embed"}

func TestClusterLosesALeader(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		version string
		stream  string // whose leader is lost
		stopped time.Duration
	}{
		{"write stream, killed", newest, writeStream, 0},
		{"write stream, killed, oldest server", oldest, writeStream, 0},
		{"write stream, stopped", newest, writeStream, 12 * time.Second},
		{"bucket, killed", newest, readStream, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			servers := cluster(t, c.version)
			f := startOwners(t, urls(servers))
			leader := f.reader.leader(t, servers, c.stream)
			both := leader == f.reader.leader(t, servers, writeStream) && leader == f.reader.leader(t, servers, readStream)
			wait := f.registerMeanwhile()
			at := time.Now()
			if c.stopped == 0 {
				leader.kill()
			} else {
				leader.signal(syscall.SIGSTOP)
			}
			f.die()
			if c.stopped > 0 {
				outage(c.stopped)
				leader.signal(syscall.SIGCONT)
			}
			// The bucket may follow the write stream late, and the watch holds what is late.
			purged := f.awaitDeadPurged(at, writeStream, "dynplane.entry.dynplane")
			copied := f.awaitDeadPurged(at, readStream, "$KV.dynplane")
			late := f.awaitDeadRemoved(at)
			waits := wait()
			if c.stopped == 0 {
				leader.start()
			}
			f.reader.awaitListed(t, len(f.living)*len(ofOwner)+len(waits))
			f.expectNoFalseRemoval()
			t.Logf("after the TTL of the dead: last purge %v, in the bucket %v, last removal %v; %d registrations, the slowest took %v; the lost server led both streams: %v",
				purged, copied, late, len(waits), slices.Max(waits).Round(time.Millisecond), both)
		})
	}
}

// owners are living and dying owners of a cluster, and an open watch.
type owners struct {
	t             *testing.T
	url           string
	reader        client
	living, dying []uint64
	toDie         client
	watch         *watch
}

func startOwners(t *testing.T, url string) *owners {
	t.Helper()
	o := natskv.Options{TTL: replicatedTTL, Replicas: 3}
	f := &owners{
		t: t, url: url, reader: newClient(t, url, o), toDie: newClient(t, url, o),
		living: upTo(1, livingOwners), dying: upTo(livingOwners+1, livingOwners+dyingOwners),
	}
	f.watch = startWatch(t, f.reader)
	var wg sync.WaitGroup
	register := func(c client, ids []uint64) {
		for _, name := range ofOwner {
			wg.Go(func() { c.register(t, name, ids...) })
		}
	}
	register(f.toDie, f.dying)
	for ids := range slices.Chunk(f.living, perConnection) {
		register(newClient(t, url, o), ids)
	}
	wg.Wait()
	for _, name := range ofOwner {
		f.watch.awaitAdded(name, append(f.living, f.dying...)...)
	}
	return f
}

func (f *owners) die() { f.toDie.nc.Close() }

// registerMeanwhile registers one instance after the other until the caller calls
// the result, which returns how long each of them took.
func (f *owners) registerMeanwhile() (end func() []time.Duration) {
	c := newClient(f.t, f.url, natskv.Options{TTL: replicatedTTL, Replicas: 3})
	var waits []time.Duration
	stop, done := context.WithCancel(f.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for id := uint64(10_000); stop.Err() == nil; id++ {
			begun := time.Now()
			c.register(f.t, "meanwhile", id)
			waits = append(waits, time.Since(begun))
			outage(250 * time.Millisecond)
		}
	})
	return func() []time.Duration {
		done()
		wg.Wait()
		return waits
	}
}

// awaitDeadPurged waits until a stream has the purges of the dead, and returns how
// long after their TTL that was, counted from a time.
func (f *owners) awaitDeadPurged(since time.Time, stream, prefix string) (late time.Duration) {
	f.t.Helper()
	js := f.reader.jetStream(f.t)
	waittest.Eventually(f.t, "the dead are purged in "+stream, func() bool {
		ctx, cancel := context.WithTimeout(f.t.Context(), 2*time.Second)
		defer cancel()
		s, err := js.Stream(ctx, stream)
		if err != nil {
			return false
		}
		for _, name := range ofOwner {
			for _, id := range f.dying {
				msg, err := s.GetLastMsgForSubject(ctx, fmt.Sprintf("%s.endpoints.dynamo.backend.%s.%x", prefix, name, id))
				if err != nil || msg.Header.Get("KV-Operation") != "PURGE" {
					return false
				}
			}
		}
		return true
	})
	return (time.Since(since) - replicatedTTL).Round(time.Millisecond)
}

// awaitDeadRemoved returns how long after their TTL, counted from a time, the last
// of the dead was removed.
func (f *owners) awaitDeadRemoved(since time.Time) (late time.Duration) {
	f.t.Helper()
	for _, name := range ofOwner {
		for _, id := range f.dying {
			late = max(late, f.watch.awaitRemoved(name, id).Sub(since)-replicatedTTL)
		}
	}
	return late.Round(time.Millisecond)
}

func (f *owners) expectNoFalseRemoval() {
	f.t.Helper()
	for _, name := range ofOwner {
		f.watch.expect(name, 0, f.living...)
		f.watch.expect(name, 1, f.dying...)
	}
}

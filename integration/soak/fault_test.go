package soak

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/dynplane/dynplane/integration/natstest"
)

// fault is one that a plan can choose. run returns when it is over.
type fault struct {
	name string
	run  func(w *world, random *rand.Rand, d time.Duration)
}

var singleFaults = []fault{
	{"stop", func(w *world, _ *rand.Rand, d time.Duration) { w.down(w.servers, d, (*natstest.Process).Stop, false) }},
	{"kill", func(w *world, _ *rand.Rand, d time.Duration) { w.down(w.servers, d, (*natstest.Process).Kill, false) }},
	{"freeze", func(w *world, _ *rand.Rand, d time.Duration) { w.freeze(w.servers, d) }},
	{"wipe", func(w *world, _ *rand.Rand, d time.Duration) { w.down(w.servers, d, (*natstest.Process).Stop, true) }},
	{"delete the bucket", func(w *world, _ *rand.Rand, _ time.Duration) { w.deleteStreams("KV_" + bucket) }},
	{"delete the write stream", func(w *world, _ *rand.Rand, _ time.Duration) { w.deleteStreams("DYNPLANE_" + bucket) }},
	{"delete both streams", func(w *world, _ *rand.Rand, _ time.Duration) {
		w.deleteStreams("DYNPLANE_"+bucket, "KV_"+bucket)
	}},
}

var clusterFaults = []fault{
	{"stop one", func(w *world, r *rand.Rand, d time.Duration) { w.down(w.one(r), d, (*natstest.Process).Stop, false) }},
	{"kill one", func(w *world, r *rand.Rand, d time.Duration) { w.down(w.one(r), d, (*natstest.Process).Kill, false) }},
	{"kill the leader", func(w *world, r *rand.Rand, d time.Duration) { w.down(w.leader(r), d, (*natstest.Process).Kill, false) }},
	{"kill all", func(w *world, _ *rand.Rand, d time.Duration) { w.down(w.servers, d, (*natstest.Process).Kill, false) }},
	{"wipe all", func(w *world, _ *rand.Rand, d time.Duration) { w.down(w.servers, d, (*natstest.Process).Stop, true) }},
}

// frozenServers are chosen only with -frozen: docs/guarantees.md excepts them.
var frozenServers = []fault{
	{"freeze the leader", func(w *world, r *rand.Rand, d time.Duration) { w.freeze(w.leader(r), d) }},
	{"freeze one", func(w *world, r *rand.Rand, d time.Duration) { w.freeze(w.one(r), d) }},
}

// length is how long a fault lasts: half of them shorter than a TTL.
func (w *world) length(random *rand.Rand) time.Duration {
	ttl := w.options.TTL
	if random.IntN(2) == 0 {
		return ttl/20 + time.Duration(random.Int64N(int64(ttl*9/10)))
	}
	return ttl + time.Duration(random.Int64N(int64(ttl)))
}

func (w *world) one(random *rand.Rand) []*natstest.Process {
	return w.servers[random.IntN(len(w.servers)):][:1]
}

// leader returns the server that leads the write stream, or a random one if there
// is no leader.
func (w *world) leader(random *rand.Rand) []*natstest.Process {
	found := w.one(random) // in any case, so that the plan does not depend on it
	ctx, cancel := context.WithTimeout(w.ctx, 2*time.Second)
	defer cancel()
	stream, err := w.admin.Stream(ctx, "DYNPLANE_"+bucket)
	if err != nil || stream.CachedInfo().Cluster == nil {
		return found
	}
	for i, server := range w.servers {
		if server.Name() == stream.CachedInfo().Cluster.Leader {
			return w.servers[i:][:1]
		}
	}
	return found
}

// down ends servers, all at once, and starts them after d.
func (w *world) down(servers []*natstest.Process, d time.Duration, end func(*natstest.Process), wipe bool) {
	for _, server := range servers {
		end(server)
		if wipe {
			server.Wipe()
		}
	}
	w.pause(d)
	for _, server := range servers {
		server.Start()
	}
}

func (w *world) freeze(servers []*natstest.Process, d time.Duration) {
	for _, server := range servers {
		server.Freeze()
	}
	w.pause(d)
	for _, server := range servers {
		server.Thaw()
	}
}

func (w *world) deleteStreams(names ...string) {
	for _, name := range names {
		ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
		if err := w.admin.DeleteStream(ctx, name); err != nil {
			w.t.Logf("delete stream %s: %v", name, err) // such as after an earlier fault
		}
		cancel()
	}
}

func (w *world) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-w.ctx.Done():
	}
}

// partitions stalls and cuts links until ctx is done.
func (w *world) partitions(ctx context.Context, random *rand.Rand) {
	for {
		l := w.partition[random.IntN(len(w.partition))]
		cut, before, d := random.IntN(2) == 0, time.Duration(random.Int64N(int64(w.options.TTL))), w.length(random)
		select {
		case <-time.After(before):
		case <-ctx.Done():
			return
		}
		w.t.Logf("%s partition of %s for %v (cut: %v)", time.Now().Format("15:04:05.000"), l.name, d, cut)
		if l.owner != nil {
			l.owner.isolate(true)
		}
		for _, p := range l.proxies {
			if cut {
				p.Cut()
			} else {
				p.Stall()
			}
		}
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
		for _, p := range l.proxies {
			p.Resume()
		}
		if l.owner != nil {
			l.owner.isolate(false)
		}
	}
}

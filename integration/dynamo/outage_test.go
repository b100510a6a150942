package dynamo

import (
	"fmt"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/integration/dynamotest"
	"github.com/dynplane/dynplane/internal/waittest"
)

// outage is how long a server is down, while a worker publishes.
const outage = 3 * time.Second

// streaming starts a worker and the stream of its events in a place.
func (p *place) streaming(t *testing.T) (*stream, *view) {
	t.Helper()
	store, plane := p.openOurs(t)
	v := watchAll(t, store)
	worker := p.start(t, "worker.py")
	p.checkRegistrations(t, store, worker.Await("ready", 1).WorkerID)
	return p.startStream(t, plane, worker), v
}

// TestBrokerRestart kills the broker while a worker publishes.
func TestBrokerRestart(t *testing.T) {
	t.Parallel()
	for _, version := range []string{dynamotest.Gen2, dynamotest.Gen1} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, version, "file", "broker by URL")
			s, _ := p.streaming(t)
			s.publish(1500)
			p.brokers[0].Kill()
			rest(t, outage)
			p.brokers[0].Start()
			s.published()
			s.finish(t)
		})
	}
}

// TestBrokersInTurn kills one of two brokers after the other while a worker
// publishes: ours lose nothing. The worker rests while a broker starts, since
// events that are only on the slower path until then may be too late.
func TestBrokersInTurn(t *testing.T) {
	t.Parallel()
	p := newPlace(t, dynamotest.Gen2, "file", "two brokers")
	s, _ := p.streaming(t)
	for _, b := range p.brokers {
		s.publish(500)
		rest(t, time.Second)
		b.Kill()
		s.published()
		b.Start()
		p.connect(t, s.worker, s.in)
	}
	if lost := s.finish(t); lost.ours > 0 {
		t.Errorf("ours lost %d events", lost.ours)
	}
}

// TestNATSRestart stops the NATS server while a worker publishes.
func TestNATSRestart(t *testing.T) {
	t.Parallel()
	for _, version := range []string{dynamotest.Gen2, dynamotest.Gen1} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, version, "file", "NATS")
			s, _ := p.streaming(t)
			s.publish(1500)
			p.nats.Stop()
			rest(t, outage)
			p.nats.Start()
			s.published()
			s.finish(t)
		})
	}
}

// TestEtcdLongOutage keeps the etcd server down until a real worker ends itself,
// which it does when its lease of 30 s must have expired. Its removal is reported
// once etcd is back, and no removal of a worker of ours: it takes its lease up again.
func TestEtcdLongOutage(t *testing.T) {
	t.Parallel()
	p := newPlace(t, dynamotest.Gen2, "etcd", "direct")
	worker, v := p.watched(t, openStore(t, p.ours))
	p.startOurs(t)
	const ours = 4 // registrations: endpoint, model, channel, source
	waittest.Eventually(t, "both workers are shown", func() bool {
		present, _ := v.counts()
		return present == p.registrations()+ours
	})
	down := time.Now()
	p.etcd.Kill()
	rest(t, 30*time.Second)
	worker.Await("stopped", 1)
	t.Logf("the worker ended itself after %v", time.Since(down).Round(time.Second))
	p.etcd.start(p.etcd.Line)
	up := time.Now()
	var present, removed int
	waittest.Eventually(t, "the real worker is removed", func() bool {
		present, removed = v.counts()
		return removed >= p.registrations()
	})
	t.Logf("it is removed %v after the restart", time.Since(up).Round(time.Second))
	if present != ours || removed != p.registrations() {
		t.Errorf("%d registrations, want %d of ours; %d removals, want %d of the real worker", present, ours, removed, p.registrations())
	}
}

// TestEtcdRestart kills the etcd server while a worker publishes to its
// subscribers directly: no event is lost, and no worker is shown as removed.
func TestEtcdRestart(t *testing.T) {
	t.Parallel()
	for _, outage := range []time.Duration{5 * time.Second, 12 * time.Second} {
		t.Run(fmt.Sprint(outage), func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, dynamotest.Gen2, "etcd", "direct")
			s, v := p.streaming(t)
			waittest.Eventually(t, "the worker is shown", func() bool {
				present, _ := v.counts()
				return present >= p.registrations()
			})
			s.publish(1500)
			p.etcd.Kill()
			rest(t, outage)
			p.etcd.start(p.etcd.Line)
			s.published()
			if lost := s.finish(t); lost.ours > 0 {
				t.Errorf("ours lost %d events", lost.ours)
			}
			// A registration after the outage shows that the watch works, and that
			// what it could have removed before is still there.
			store, _ := p.openOurs(t)
			const id = 77
			register(t, store, id, discovery.Endpoint{Scope: generate, Transport: discovery.TCP("127.0.0.1:9/4d/generate")})
			waittest.Eventually(t, "the watch continues", func() bool {
				present, _ := v.counts()
				return present == p.registrations()+1
			})
			if _, removed := v.counts(); removed > 0 {
				t.Errorf("%d false removals", removed)
			}
		})
	}
}

package eventplane_test

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/memory"
	"github.com/dynplane/dynplane/eventplane"
)

// registered returns how many channels and sources are registered.
func registered(t *testing.T, d *discovery.Client) (channels, sources []discovery.Instance) {
	t.Helper()
	channels, err := d.List(patient(t), discovery.Query{Kind: discovery.KindEventChannel})
	must(t, err)
	sources, err = d.List(patient(t), discovery.Query{Kind: discovery.KindEventSource})
	must(t, err)
	return channels, sources
}

func TestPublisherRegistersItsSource(t *testing.T) {
	t.Parallel()
	for name, setup := range transports() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, d := patient(t), newDiscovery(t, memory.New())
			plane := newPlane(t, setup(t), d)
			scope := discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"}
			pub, err := plane.PublisherWithOptions(ctx, scope, "kv-events", eventplane.PublisherOptions{
				Source: func(publisher uint64) any {
					return discovery.KVSource{Endpoint: scope, WorkerID: 7, Rank: 1, PublisherID: publisher}
				},
			})
			must(t, err)
			channels, sources := registered(t, d)
			if len(channels) != 1 || len(sources) != 1 {
				t.Fatalf("registered %v and %v: want a channel and a source", channels, sources)
			}
			if channels[0].InstanceID != pub.ID() || sources[0].InstanceID != pub.ID() {
				t.Errorf("registered under %d and %d: want %d", channels[0].InstanceID, sources[0].InstanceID, pub.ID())
			}
			var source discovery.KVSource
			spec := sources[0].Spec.(discovery.EventSource)
			must(t, json.Unmarshal(spec.Metadata, &source))
			if spec.Scope != scope || spec.Topic != "kv-events" || source.Endpoint != scope ||
				source.WorkerID != 7 || source.Rank != 1 || source.PublisherID != pub.ID() {
				t.Errorf("source %+v with metadata %+v", spec, source)
			}
			must(t, pub.Shutdown(ctx))
			if channels, sources := registered(t, d); len(channels)+len(sources) > 0 {
				t.Errorf("after shutdown %v and %v: want none", channels, sources)
			}
		})
	}
}

func TestPublisherWithoutItsSource(t *testing.T) {
	t.Parallel()
	registry := memory.New()
	d, other := newDiscovery(t, registry), newDiscovery(t, registry)
	for name, setup := range transports() {
		plane := newPlane(t, setup(t), d)
		_, err := plane.PublisherWithOptions(patient(t), backend, "kv-events", eventplane.PublisherOptions{
			Source: func(uint64) any { return make(chan int) },
		})
		if err == nil {
			t.Errorf("%s: no error for metadata that is not JSON", name)
		}
		_, err = plane.PublisherWithOptions(patient(t), backend, "kv-events", eventplane.PublisherOptions{
			Source: func(publisher uint64) any {
				_, err := other.RegisterAs(patient(t), publisher, discovery.EventSource{Scope: backend, Topic: "kv-events", Metadata: json.RawMessage(`1`)})
				must(t, err)
				return 2
			},
		})
		if !errors.Is(err, discovery.ErrSourceConflict) {
			t.Errorf("%s: error %v: want ErrSourceConflict", name, err)
		}
		if channels, _ := registered(t, d); len(channels) > 0 {
			t.Errorf("%s: left %v: want no channel", name, channels)
		}
	}
}

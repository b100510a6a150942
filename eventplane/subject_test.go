package eventplane

import (
	"strings"
	"testing"

	"github.com/dynplane/dynplane/discovery"
)

func TestSubjects(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		scope                  discovery.Scope
		topic                  string
		wire                   WireFormat
		prefix, nats, viaProxy string
	}{
		{discovery.Scope{Namespace: "ns"}, "kv_metrics", WireGen2, "namespace.ns", "namespace.ns.kv_metrics", "namespace.ns.kv_metrics"},
		{discovery.Scope{Namespace: "ns"}, "kv_metrics", WireGen1, "namespace.ns", "namespace.ns.kv_metrics", "kv_metrics"},
		{discovery.Scope{Namespace: "dynamo", Component: "backend"}, "kv-events", WireGen1, "namespace.dynamo.component.backend", "namespace.dynamo.component.backend.kv-events", "kv-events"},
		{
			discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"}, "kv-events", WireGen2,
			"namespace.dynamo.component.backend.endpoint.generate",
			"namespace.dynamo.component.backend.endpoint.generate.kv-events",
			"namespace.dynamo.component.backend.endpoint.generate.kv-events",
		},
		{
			discovery.Scope{Namespace: "ns.one", Component: "worker/*"}, "kv.events/*", WireGen2,
			"namespace.ns%2Eone.component.worker%2F%2A", "namespace.ns%2Eone.component.worker%2F%2A.kv%2Eevents%2F%2A",
			"namespace.ns%2Eone.component.worker%2F%2A.kv%2Eevents%2F%2A",
		},
		{discovery.Scope{Namespace: "n/ö%"}, "t", WireGen1, "namespace.n/ö%", "namespace.n/ö%.t", "t"},
	} {
		r, err := newRoute(tc.scope, tc.topic, tc.wire)
		if err != nil {
			t.Error(err)
			continue
		}
		prefix, subject, err := r.natsSubject()
		if err != nil || prefix != tc.prefix || subject != tc.nats || r.brokerSubject() != tc.viaProxy || r.directSubject() != tc.topic {
			t.Errorf("%v %v: %q, %q, %v, broker %q, direct %q", r, tc.wire, prefix, subject, err, r.brokerSubject(), r.directSubject())
		}
	}
}

func TestRefusedNames(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		scope discovery.Scope
		topic string
		wire  WireFormat
		want  string
	}{
		{discovery.Scope{}, "t", WireGen2, "namespace"},
		{discovery.Scope{Namespace: "ns", Endpoint: "e"}, "t", WireGen2, "component"},
		{discovery.Scope{Namespace: "ns"}, "", WireGen2, "topic"},
		{discovery.Scope{Namespace: "ns", Component: "c", Endpoint: "e"}, "t", WireGen1, "gen1"},
		{discovery.Scope{Namespace: "n.s"}, "t", WireGen1, "'.'"},
		{discovery.Scope{Namespace: "ns", Component: "c c"}, "t", WireGen1, "' '"},
		{discovery.Scope{Namespace: "ns"}, "*", WireGen1, "'*'"},
		{discovery.Scope{Namespace: "ns"}, "a>", WireGen1, "'>'"},
		{discovery.Scope{Namespace: "ns"}, "a\r\nPUB x", WireGen1, `'\r'`},
	} {
		r, err := newRoute(tc.scope, tc.topic, tc.wire)
		if err == nil {
			_, _, err = r.natsSubject()
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v %q %v: error %v: want %s in it", tc.scope, tc.topic, tc.wire, err, tc.want)
		}
	}
}

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
		wire                   Wire
		prefix, nats, viaProxy string
	}{
		{discovery.Scope{Namespace: "ns"}, "kv_metrics", Gen2, "namespace.ns", "namespace.ns.kv_metrics", "namespace.ns.kv_metrics"},
		{discovery.Scope{Namespace: "ns"}, "kv_metrics", Gen1, "namespace.ns", "namespace.ns.kv_metrics", "kv_metrics"},
		{discovery.Scope{Namespace: "dynamo", Component: "backend"}, "kv-events", Gen1, "namespace.dynamo.component.backend", "namespace.dynamo.component.backend.kv-events", "kv-events"},
		{
			discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"}, "kv-events", Gen2,
			"namespace.dynamo.component.backend.endpoint.generate",
			"namespace.dynamo.component.backend.endpoint.generate.kv-events",
			"namespace.dynamo.component.backend.endpoint.generate.kv-events",
		},
		{
			discovery.Scope{Namespace: "ns.one", Component: "worker/*"}, "kv.events/*", Gen2,
			"namespace.ns%2Eone.component.worker%2F%2A", "namespace.ns%2Eone.component.worker%2F%2A.kv%2Eevents%2F%2A",
			"namespace.ns%2Eone.component.worker%2F%2A.kv%2Eevents%2F%2A",
		},
		{discovery.Scope{Namespace: "n/ö%"}, "t", Gen1, "namespace.n/ö%", "namespace.n/ö%.t", "t"},
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
		wire  Wire
		want  string
	}{
		{discovery.Scope{}, "t", Gen2, "namespace"},
		{discovery.Scope{Namespace: "ns", Endpoint: "e"}, "t", Gen2, "component"},
		{discovery.Scope{Namespace: "ns"}, "", Gen2, "topic"},
		{discovery.Scope{Namespace: "ns", Component: "c", Endpoint: "e"}, "t", Gen1, "gen1"},
		{discovery.Scope{Namespace: "n.s"}, "t", Gen1, "'.'"},
		{discovery.Scope{Namespace: "ns", Component: "c c"}, "t", Gen1, "' '"},
		{discovery.Scope{Namespace: "ns"}, "*", Gen1, "'*'"},
		{discovery.Scope{Namespace: "ns"}, "a>", Gen1, "'>'"},
		{discovery.Scope{Namespace: "ns"}, "a\r\nPUB x", Gen1, `'\r'`},
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

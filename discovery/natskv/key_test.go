package natskv

import (
	"testing"

	"github.com/dynplane/dynplane/discovery"
)

// someKeys are ids with their keys.
var someKeys = []struct {
	id  discovery.ID
	key string
}{
	{discovery.ID{Kind: discovery.KindEndpoint, Scope: discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"}, Instance: 0x2a}, "endpoints.dynamo.backend.generate.2a"},
	{discovery.ID{Kind: discovery.KindEndpoint, Scope: discovery.Scope{Namespace: "a/b", Component: "c%d", Endpoint: "e f"}, Instance: 1<<64 - 1}, "endpoints.a=2Fb.c=25d.e=20f.ffffffffffffffff"},
	{discovery.ID{Kind: discovery.KindModel, Scope: discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"}, Instance: 1}, "models.dynamo.backend.generate.1"},
	{discovery.ID{Kind: discovery.KindModel, Scope: discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"}, Suffix: "my/lora", Instance: 1}, "models.dynamo.backend.generate.1.my=2Flora"},
	{discovery.ID{Kind: discovery.KindEventChannel, Scope: discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: ""}, Topic: "kv-events"}, "channels.dynamo.backend.=.kv-events.0"},
	{discovery.ID{Kind: discovery.KindEventChannel, Scope: discovery.Scope{Namespace: "dynamo", Component: "", Endpoint: ""}, Topic: "kv-events", Instance: 10}, "channels.dynamo.=.=.kv-events.a"},
	{discovery.ID{Kind: discovery.KindEventChannel, Scope: discovery.Scope{Namespace: "ns.one", Component: "b", Endpoint: "e"}, Topic: "kv.events/*", Instance: 10}, "channels.ns=2Eone.b.e.kv=2Eevents=2F=2A.a"},
	{discovery.ID{Kind: discovery.KindEventChannel, Scope: discovery.Scope{Namespace: "=", Component: ">", Endpoint: ""}, Topic: "ü"}, "channels.=3D.=3E.=.=C3=BC.0"},
}

func TestKeysAreReadAsTheyAreWritten(t *testing.T) {
	t.Parallel()
	for _, c := range someKeys {
		if got := encodeKey(c.id); got != c.key {
			t.Errorf("key of %+v is %q, want %q", c.id, got, c.key)
		}
		if id, err := decodeKey(c.key); err != nil || id != c.id {
			t.Errorf("key %q is read as %+v, %v", c.key, id, err)
		}
	}
}

func TestBadKeys(t *testing.T) {
	t.Parallel()
	for _, key := range []string{
		"", ".", "junk", "endpoints", "endpoints.a.b.c", "endpoints.a.b.c.1.x", "Endpoints.a.b.c.1",
		"models.a.b.c.1.x.y", "models.a.b.c.1.=", "models.a.b.c.1.", "channels.a.b.c.1", "channels.a.b.c.=.1",
		"endpoints.=.b.c.1", "endpoints.a.=.c.1", "endpoints.a.b.=.1", "endpoints.a.b.c.xx", "endpoints.a.b.c.=",
		"endpoints.a.b.c.01", "endpoints..b.c.1", "endpoints.a=2fb.b.c.1", "endpoints.a=41.b.c.1", "endpoints.a=2.b.c.1",
		"endpoints.a=FF.b.c.1", "endpoints.a b.b.c.1",
	} {
		if id, err := decodeKey(key); err == nil {
			t.Errorf("key %q is read as %+v", key, id)
		}
	}
}

func TestFilterOfAQuery(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		q      discovery.Query
		filter string
	}{
		{discovery.Query{}, "=.*.*.*.>"},
		{discovery.Query{Kind: discovery.KindEndpoint}, "endpoints.*.*.*.>"},
		{discovery.Query{Kind: discovery.KindEndpoint, Scope: discovery.Scope{Namespace: "dynamo"}}, "endpoints.dynamo.*.*.>"},
		{discovery.Query{Kind: discovery.KindEndpoint, Scope: discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: ""}}, "endpoints.dynamo.backend.*.>"},
		{discovery.Query{Kind: discovery.KindEndpoint, Scope: discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"}}, "endpoints.dynamo.backend.generate.>"},
		{discovery.Query{Kind: discovery.KindEndpoint, Scope: discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "gen"}}, "endpoints.dynamo.backend.gen.>"},
		{discovery.Query{Kind: discovery.KindModel, Scope: discovery.Scope{Namespace: "a.b"}}, "models.a=2Eb.*.*.>"},
		{discovery.Query{Kind: discovery.KindEventChannel}, "channels.*.*.*.*.*"},
		{discovery.Query{Kind: discovery.KindEventChannel, Topic: "kv-events"}, "channels.*.*.*.kv-events.*"},
		{discovery.Query{Kind: discovery.KindEventChannel, Scope: discovery.Scope{Namespace: "dynamo"}, Topic: "kv-events"}, "channels.dynamo.*.*.kv-events.*"},
		{discovery.Query{Kind: discovery.KindEventChannel, Scope: discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: ""}, Topic: "kv-events"}, "channels.dynamo.backend.*.kv-events.*"},
		{discovery.Query{Kind: discovery.KindEventChannel, Scope: discovery.Scope{Namespace: "dynamo", Component: "backend", Endpoint: "generate"}}, "channels.dynamo.backend.generate.*.*"},
		{discovery.Query{Kind: discovery.KindEventChannel, Topic: "kv"}, "channels.*.*.*.kv.*"},
	} {
		if got := keyFilter(c.q); got != c.filter {
			t.Errorf("%+v has the filter %q, want %q", c.q, got, c.filter)
		}
	}
}

// FuzzEncodeKey checks that every id with a path has a key, which is read as
// that id.
func FuzzEncodeKey(f *testing.F) {
	for _, c := range someKeys {
		f.Add(byte(c.id.Kind), c.id.Path())
	}
	f.Fuzz(func(t *testing.T, kind byte, path string) {
		id, err := discovery.ParseID(discovery.Kind(kind), path)
		if err != nil {
			return
		}
		if again, err := decodeKey(encodeKey(id)); err != nil || again != id {
			t.Errorf("%q: %+v has the key %q, which is read as %+v, %v", path, id, encodeKey(id), again, err)
		}
	})
}

func FuzzDecodeKey(f *testing.F) {
	for _, c := range someKeys {
		f.Add(c.key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if id, err := decodeKey(key); err == nil && encodeKey(id) != key {
			t.Errorf("%q is read as %+v, whose key is %q", key, id, encodeKey(id))
		}
	})
}

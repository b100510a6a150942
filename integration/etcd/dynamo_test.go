package etcd

import (
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dynplane/dynplane/discovery"
)

// Entries as Dynamo's workers write them, of both generations.
const (
	dynamoEndpoint = `{"type":"Endpoint","component":"backend","endpoint":"generate","namespace":"dynamo","instance_id":10,` +
		`"transport":{"tcp":"10.0.0.7:41231/a/generate"},"device_type":"cuda","request_plane_codec":"msgpack"}`
	dynamoModel = `{"type":"Model","namespace":"dynamo","component":"backend","endpoint":"generate","instance_id":10,` +
		`"card_json":{"display_name":"m","source_path":"org/m"},"model_suffix":"lora"}`
	olderChannel = `{"type":"EventChannel","namespace":"dynamo","component":"backend","topic":"kv-events","instance_id":11,` +
		`"transport":{"kind":"Zmq","config":{"endpoint":"tcp://10.0.0.7:41877"}}}`
	newerChannel = `{"type":"EventChannel","scope":{"kind":"endpoint","endpoint":{"namespace":"dynamo","component":"ba.ck","name":"generate"}},` +
		`"topic":"kv-events","instance_id":12,"transport":{"kind":"Zmq","config":{"endpoint":"tcp://10.0.0.7:41878"}}}`
	source = `{"type":"EventSource","scope":{"kind":"component","namespace":"dynamo","component":"backend"},` +
		`"topic":"kv-events","publisher_id":13,"metadata":{"publisher_id":13}}`
)

var dynamoEntries = map[string]string{
	"v1/instances/dynamo/backend/generate/a":                                                       dynamoEndpoint,
	"v1/mdc/dynamo/backend/generate/a/lora":                                                        dynamoModel,
	"v1/event_channels/dynamo/backend/kv-events/b":                                                 olderChannel,
	"v1/event_channels/namespace/dynamo/component/ba%2Eck/endpoint/generate/topic/kv-events/c":     newerChannel,
	"v1/event_sources/namespace/dynamo/component/backend/topic/kv-events/d":                        source,
	"v1/instances_of_another/dynamo/backend/generate/e":                                            "not ours",
	"v1/event_channels_too/namespace/dynamo/component/backend/endpoint/generate/topic/kv-events/f": "not ours",
}

// writeDynamo writes all of dynamoEntries under one lease.
func writeDynamo(t *testing.T, raw *clientv3.Client, ttl int64) clientv3.LeaseID {
	t.Helper()
	lease, err := raw.Grant(t.Context(), ttl)
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range dynamoEntries {
		if _, err := raw.Put(t.Context(), key, value, clientv3.WithLease(lease.ID)); err != nil {
			t.Fatal(err)
		}
	}
	return lease.ID
}

func TestOtherWriter(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		ttl  int64
		die  func(*clientv3.Client, clientv3.LeaseID) error
	}{
		{"revokes", 60, func(raw *clientv3.Client, lease clientv3.LeaseID) error {
			_, err := raw.Revoke(t.Context(), lease)
			return err
		}},
		{"expires", 1, func(*clientv3.Client, clientv3.LeaseID) error { return nil }},
		{"is deleted", 60, func(raw *clientv3.Client, _ clientv3.LeaseID) error {
			_, err := raw.Delete(t.Context(), "v1/", clientv3.WithPrefix())
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := runServer(t)
			client, raw := newClient(t, s.url(), nil), s.raw()
			watches := map[*watch][]string{}
			for kind, ids := range map[discovery.Kind][]string{
				discovery.KindEndpoint: {"10"}, discovery.KindModel: {"10"},
				discovery.KindEventChannel: {"11", "12"}, discovery.KindEventSource: {"13"},
			} {
				watches[startWatch(t, client, discovery.Query{Kind: kind})] = ids
			}
			lease := writeDynamo(t, raw, c.ttl)
			for w, ids := range watches {
				for _, id := range ids {
					w.await("+" + id)
				}
			}
			began := time.Now()
			if err := c.die(raw, lease); err != nil {
				t.Fatal(err)
			}
			for w, ids := range watches {
				want := []string{"synced"}
				for _, id := range ids {
					w.await("-" + id)
					want = append(want, "+"+id, "-"+id)
				}
				w.expect(want...)
			}
			if took := time.Since(began); took >= hold {
				t.Errorf("removed after %v, want no removal to be held back", took)
			}
			if bad := client.Stats().InvalidEntries; bad != 0 {
				t.Errorf("%d bad entries, want none", bad)
			}
		})
	}
}

// TestKeysAndValuesAreThoseOfDynamo checks the raw keys and values that Dynamo reads, and their lease.
func TestKeysAndValuesAreThoseOfDynamo(t *testing.T) {
	t.Parallel()
	s := runServer(t)
	client, raw := newClient(t, s.url(), nil), s.raw()
	scope := discovery.Scope{Namespace: "ns.one", Component: "backend", Endpoint: "generate"}
	specs := map[string]discovery.Spec{
		"v1/instances/ns.one/backend/generate/2a": discovery.Endpoint{Scope: scope, Transport: discovery.TCP("h:1/2a/generate")},
		"v1/event_channels/namespace/ns%2Eone/component/backend/endpoint/generate/topic/kv%2Fx/2a": discovery.EventChannel{
			Scope: scope, Topic: "kv/x", Transport: discovery.ZMQ{Endpoint: "tcp://h:1"}},
	}
	for key, spec := range specs {
		reg := register(t, client, 42, spec)
		resp, err := raw.Get(t.Context(), key)
		if err != nil || len(resp.Kvs) != 1 {
			t.Fatalf("%s: %v, %v", key, resp, err)
		}
		kv := resp.Kvs[0]
		want, err := reg.Instance().MarshalJSON()
		if err != nil || string(kv.Value) != string(want) {
			t.Errorf("%s has %s, want %s (%v)", key, kv.Value, want, err)
		}
		lease, err := raw.TimeToLive(t.Context(), clientv3.LeaseID(kv.Lease))
		if err != nil || lease.GrantedTTL != 2 {
			t.Errorf("%s hangs on a lease of %+v (%v), want one of 2 s", key, lease, err)
		}
	}
}

func TestInvalidEntriesAreSkipped(t *testing.T) {
	t.Parallel()
	s := runServer(t)
	client, raw := newClient(t, s.url(), nil), s.raw()
	register(t, client, 1, worker)
	before := startWatch(t, client, endpoints)
	put := func(key, value string) {
		t.Helper()
		if _, err := raw.Put(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	for i, key := range []string{"", "x", "a/b/c/xyz", "a/b/c/1/2/3", "a//c/1", "\xff/b/c/1", "dynamo/backend/generate/FFFFFFFFFFFFFFFFFF"} {
		put("v1/instances/"+key, dynamoEndpoint)
		put(keyOf(uint64(100+i)), []string{"", "{", "null", "[]", `{"type":"Endpoint"}`, dynamoEndpoint, "\x00"}[i])
	}
	put("v1/event_channels/namespace/a%2/topic/t/1", olderChannel)
	put(keyOf(10), dynamoEndpoint)
	before.await("+10")
	before.expect("synced", "+1", "+10")
	if bad := client.Stats().InvalidEntries; bad != 14 {
		t.Errorf("%d bad entries, want 14", bad)
	}
	in, err := client.List(t.Context(), endpoints)
	if err != nil || len(in) != 2 {
		t.Errorf("listed %d, %v; want 2", len(in), err)
	}
	startWatch(t, client, channels).expect("synced")
	// No removal follows an invalid entry that is deleted.
	if _, err := raw.Delete(t.Context(), "v1/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	before.await("-1", "-10")
	before.expect("synced", "+1", "+10", "-1", "-10")
}

// TestListingOfManyPages lists more entries than fit into one page, while they change.
func TestListingOfManyPages(t *testing.T) {
	t.Parallel()
	const entries, perTxn = 1700, 100
	s := runServer(t)
	client, raw := newClient(t, s.url(), nil), s.raw()
	fill(t, raw, entries, perTxn)
	in, err := client.List(t.Context(), endpoints)
	if err != nil || len(in) != entries {
		t.Errorf("listed %d, %v; want %d", len(in), err, entries)
	}
}

package etcd

import (
	"fmt"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// BenchmarkList compares a list of 10,000 endpoints with one Get of all of them.
func BenchmarkList(b *testing.B) {
	const entries, perTxn = 10_000, 100
	s := runServer(b)
	client, raw := newClient(b, s.url(), nil), s.raw()
	fill(b, raw, entries, perTxn)
	b.Run("dynplane", func(b *testing.B) {
		for b.Loop() {
			if in, err := client.List(b.Context(), endpoints); err != nil || len(in) != entries {
				b.Fatal(len(in), err)
			}
		}
	})
	b.Run("raw", func(b *testing.B) {
		for b.Loop() {
			if resp, err := raw.Get(b.Context(), "v1/instances/", clientv3.WithPrefix()); err != nil || len(resp.Kvs) != entries {
				b.Fatal(err)
			}
		}
	})
}

// fill writes endpoints without a lease.
func fill(tb testing.TB, raw *clientv3.Client, entries, perTxn int) {
	tb.Helper()
	for from := 0; from < entries; from += perTxn {
		var ops []clientv3.Op
		for id := from; id < from+perTxn; id++ {
			ops = append(ops, clientv3.OpPut(keyOf(uint64(id)), fmt.Sprintf(
				`{"type":"Endpoint","component":"backend","endpoint":"generate","namespace":"dynamo","instance_id":%d,"transport":{"tcp":"h:1"}}`, id)))
		}
		if _, err := raw.Txn(tb.Context()).Then(ops...).Commit(); err != nil {
			tb.Fatal(err)
		}
	}
}

// BenchmarkRegister compares registering and unregistering with a put and a delete.
func BenchmarkRegister(b *testing.B) {
	s := runServer(b)
	client, raw := newClient(b, s.url(), nil), s.raw()
	b.Run("dynplane", func(b *testing.B) {
		for b.Loop() {
			if err := register(b, client, 1, worker).Unregister(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("raw", func(b *testing.B) {
		lease, err := raw.Grant(b.Context(), 60)
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if _, err := raw.Put(b.Context(), keyOf(2), "{}", clientv3.WithLease(lease.ID)); err != nil {
				b.Fatal(err)
			}
			if _, err := raw.Delete(b.Context(), keyOf(2)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

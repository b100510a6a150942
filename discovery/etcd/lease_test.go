package etcd

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/internal/wait"
)

func TestKeysOfIDs(t *testing.T) {
	t.Parallel()
	channel := discovery.EventChannel{Scope: discovery.Scope{Namespace: "ns", Component: "c"}, Topic: "t"}.ID(42)
	ofEndpoint := discovery.EventChannel{Scope: discovery.Scope{Namespace: "ns", Component: "c", Endpoint: "e"}, Topic: "t"}.ID(42)
	endpoint := discovery.Endpoint{Scope: discovery.Scope{Namespace: "ns", Component: "c", Endpoint: "e"}}.ID(42)
	for _, c := range []struct {
		id         discovery.ID
		wire       discovery.WireFormat
		key, other string
	}{
		{channel, discovery.WireGen2, "v1/event_channels/namespace/ns/component/c/topic/t/2a", "v1/event_channels/ns/c/t/2a"},
		{channel, discovery.WireGen1, "v1/event_channels/ns/c/t/2a", "v1/event_channels/namespace/ns/component/c/topic/t/2a"},
		{endpoint, discovery.WireGen2, "v1/instances/ns/c/e/2a", ""},
		{ofEndpoint, discovery.WireGen2, "v1/event_channels/namespace/ns/component/c/endpoint/e/topic/t/2a", ""},
		{ofEndpoint, discovery.WireGen1, "", ""},
	} {
		key, other, err := newStore(Options{Wire: c.wire}).keysOf(c.id)
		if key != c.key || other != c.other || (err == nil) != (c.key != "") {
			t.Errorf("%v: %q, %q, %v; want %q, %q", c.id, key, other, err, c.key, c.other)
		}
	}
}

func TestBatchesFitIntoATransaction(t *testing.T) {
	t.Parallel()
	s := newStore(Options{})
	var leases []*lease
	for i := range 200 {
		leases = append(leases, &lease{key: fmt.Sprint(i), value: strings.Repeat("v", 100*(i/100))})
	}
	leases = append(leases, &lease{key: "large", value: strings.Repeat("v", bytesPerTxn+1)}, &lease{key: "last"})
	var sizes []int
	for _, batch := range s.batches(leases) {
		sizes = append(sizes, len(batch))
	}
	if want := []int{64, 64, 64, 8, 1, 1}; !slices.Equal(sizes, want) {
		t.Errorf("batches of %v, want %v", sizes, want)
	}
}

// TestRefusalEndsALeaseAfterHalfATTL: a role may be changed in several steps.
func TestRefusalEndsALeaseAfterHalfATTL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r refusal
		for _, c := range []struct {
			err   error
			lasts bool
		}{
			{context.DeadlineExceeded, false},
			{rpctypes.ErrPermissionDenied, false},
			{rpctypes.ErrPermissionDenied, false},
			{context.DeadlineExceeded, false},
			{rpctypes.ErrAuthFailed, true},
		} {
			if got := r.lasts(c.err, 10*time.Second); got != c.lasts {
				t.Errorf("%v after %v: %v, want %v", c.err, time.Since(r.since), got, c.lasts)
			}
			_ = wait.Sleep(t.Context(), 2*time.Second)
		}
	})
}

package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"sort"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/kube"
	"github.com/dynplane/dynplane/internal/waittest"
)

// TestCallsOfAStore runs its cases in namespaces of one cluster.
func TestCallsOfAStore(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	for _, test := range []struct {
		name string
		run  func(place)
	}{
		{"get update and if absent", getUpdateAndIfAbsent},
		{"last registration wins", lastRegistrationWins},
		{"canceled registers", canceledRegisters},
		{"unanswered calls", unansweredCalls},
		{"shutdown during an outage", shutdownDuringAnOutage},
		{"object of another pod", objectOfAnotherPod},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(c.in(t))
		})
	}
}

var endpointScope = discovery.Scope{Namespace: "ns", Component: "c", Endpoint: "ep"}

func valueOf(p place, id uint64, address string) []byte {
	p.Helper()
	value, err := discovery.Instance{InstanceID: id, Spec: discovery.Endpoint{Scope: endpointScope, Transport: discovery.TCP(address)}}.MarshalJSON()
	if err != nil {
		p.Fatal(err)
	}
	return value
}

// hasAddress reports whether a value is that of an address. Kubernetes sorts the
// fields of JSON.
func hasAddress(value []byte, address string) bool {
	var in discovery.Instance
	return json.Unmarshal(value, &in) == nil && reflect.DeepEqual(in.Spec.(discovery.Endpoint).Transport, discovery.TCP(address))
}

func idOf(id uint64) discovery.ID { return discovery.Endpoint{Scope: endpointScope}.ID(id) }

// store opens a store of the pod NAME=1 at an API server.
func (p place) store(host, pod, uid string) *kube.Store {
	p.Helper()
	config := p.config()
	if host != "" {
		config.Host = host
	}
	s, err := kube.New(kube.Options{Config: config, Namespace: p.namespace, PodName: pod, PodUID: uid})
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() { _ = s.Shutdown(context.Background()) })
	return s
}

func (p place) lease(s *kube.Store, id uint64, address string) discovery.Lease {
	p.Helper()
	l, err := s.Register(p.Context(), idOf(id), valueOf(p, id, address), discovery.RegisterOptions{})
	if err != nil {
		p.Fatal(err)
	}
	return l
}

// registered returns the ids in the object of a pod, or nil if there is none.
func (p place) registered(pod string) []string {
	p.Helper()
	obj, err := p.client.Resource(workers).Namespace(p.namespace).Get(p.Context(), pod, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		p.Fatal(err)
	}
	endpoints, _, _ := unstructured.NestedMap(obj.Object, "spec", "data", "endpoints")
	var ids []string
	for path := range endpoints {
		ids = append(ids, path)
	}
	sort.Strings(ids)
	return ids
}

func (p place) expectRegistered(pod string, ids ...uint64) {
	p.Helper()
	want := make([]string, len(ids))
	for i, id := range ids {
		want[i] = fmt.Sprintf("ns/c/ep/%x", id)
	}
	sort.Strings(want)
	waittest.Eventually(p.T, fmt.Sprintf("%v in the object of %s", want, pod), func() bool { return reflect.DeepEqual(p.registered(pod), want) })
}

func getUpdateAndIfAbsent(p place) {
	a, b, reader := p.store("", "a", "1"), p.store("", "b", "2"), p.store("", "", "")
	l := p.lease(a, 1, "first")
	expect := func(s *kube.Store, want string) {
		p.Helper()
		got, err := s.Get(p.Context(), idOf(1))
		if want == "" && !errors.Is(err, discovery.ErrNotFound) || want != "" && (err != nil || !hasAddress(got, want)) {
			p.Errorf("get: %s, %v, want %q", got, err, want)
		}
	}
	expect(a, "first") // its own pod need not be ready
	expect(reader, "")
	p.ready("a=1", "b=2")
	expect(reader, "first")
	w := p.watch(p.open(kube.Options{}), endpointQuery)
	w.expect("+1", "synced")
	before, _ := l.Health()
	if err := l.Update(p.Context(), valueOf(p, 1, "second")); err != nil {
		p.Fatal(err)
	}
	w.expect("+1") // and not -1
	expect(reader, "second")
	if after, _ := l.Health(); !after.Healthy || !after.LastBeat.After(before.LastBeat) {
		p.Errorf("health %+v after an update, %+v before", after, before)
	}
	for _, s := range []*kube.Store{a, b} {
		if _, err := s.Register(p.Context(), idOf(1), valueOf(p, 1, "x"), discovery.RegisterOptions{IfAbsent: true}); !errors.Is(err, discovery.ErrExists) {
			p.Errorf("register if absent: %v, want ErrExists", err)
		}
	}
	if _, err := b.Register(p.Context(), idOf(2), valueOf(p, 2, "x"), discovery.RegisterOptions{IfAbsent: true}); err != nil {
		p.Errorf("register if absent: %v", err)
	}
	if err := l.Unregister(p.Context()); err != nil {
		p.Fatal(err)
	}
	if err := l.Update(p.Context(), valueOf(p, 1, "third")); !errors.Is(err, discovery.ErrClosed) {
		p.Errorf("update of a lease that has ended: %v, want ErrClosed", err)
	}
	p.expectRegistered("b", 2)
}

func lastRegistrationWins(p place) {
	const atOnce = 8
	s := p.store("", "a", "1")
	leases := make([]discovery.Lease, atOnce)
	var wg sync.WaitGroup
	for n := range atOnce {
		wg.Go(func() { leases[n] = p.lease(s, 1, fmt.Sprint(n)) })
	}
	wg.Wait()
	living := -1
	for n, l := range leases {
		if !l.(interface{ Ended() bool }).Ended() {
			if living >= 0 {
				p.Errorf("two living leases")
			}
			living = n
		} else if err := l.Wait(p.Context()); !errors.Is(err, discovery.ErrTakenOver) {
			p.Errorf("a former lease ended with %v", err)
		}
	}
	if got, err := s.Get(p.Context(), idOf(1)); err != nil || !hasAddress(got, fmt.Sprint(living)) {
		p.Errorf("%s, %v; want that of lease %d", got, err, living)
	}
}

// canceledRegisters cancels registrations at random moments: the object contains
// exactly those that have succeeded.
func canceledRegisters(p place) {
	const attempts = 80
	seed := uint64(time.Now().UnixNano())
	p.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var mu sync.Mutex
	below := func(limit time.Duration) time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return time.Duration(random.Int64N(int64(limit)))
	}
	f := &faulty{delay: func() time.Duration { return below(15 * time.Millisecond) }}
	s := p.store(p.serve(f), "a", "1")
	p.lease(s, attempts, "x")
	want := []uint64{attempts}
	for id := range uint64(attempts) {
		timeout := below(40 * time.Millisecond)
		if id%5 == 0 {
			timeout = 0
		}
		ctx, cancel := context.WithTimeout(p.Context(), timeout)
		_, err := s.Register(ctx, idOf(id), valueOf(p, id, "x"), discovery.RegisterOptions{})
		cancel()
		if err == nil {
			want = append(want, id)
		} else if !errors.Is(err, context.DeadlineExceeded) {
			p.Errorf("register: %v", err)
		}
		if got := len(p.registered("a")); got != len(want) {
			p.Errorf("after %v: %d registrations, want %d", err, got, len(want))
		}
	}
	p.expectRegistered("a", want...)
}

// unansweredCalls executes writes without an answer. Those that fail are undone,
// and a removal that fails is repeated until it has succeeded.
func unansweredCalls(p place) {
	f := &faulty{}
	s := p.store(p.serve(f), "a", "1")
	f.cut.Store(true)
	ctx, cancel := context.WithTimeout(p.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := s.Register(ctx, idOf(1), valueOf(p, 1, "x"), discovery.RegisterOptions{}); err == nil {
		p.Fatal("a write without an answer has succeeded")
	}
	f.cut.Store(false)
	waittest.Eventually(p.T, "the object is removed", func() bool { return p.registered("a") == nil })
	kept, going := p.lease(s, 2, "x"), p.lease(s, 3, "x")
	f.cut.Store(true)
	ctx, cancel = context.WithTimeout(p.Context(), 300*time.Millisecond)
	defer cancel()
	if err := kept.Update(ctx, valueOf(p, 2, "y")); err == nil {
		p.Fatal("a write without an answer has succeeded")
	}
	for range 2 {
		if err := going.Unregister(ctx); err == nil {
			p.Fatal("a write without an answer has succeeded")
		}
	}
	f.cut.Store(false)
	if err := going.Unregister(p.Context()); err != nil {
		p.Errorf("unregister: %v", err)
	}
	if got := p.registered("a"); len(got) != 1 {
		p.Errorf("registered %v, want one", got)
	}
	waittest.Eventually(p.T, "the former value", func() bool {
		got, err := s.Get(p.Context(), idOf(2))
		return err == nil && hasAddress(got, "x")
	})
}

// shutdownDuringAnOutage: calls end at once, and a later Shutdown continues.
func shutdownDuringAnOutage(p place) {
	f := &faulty{}
	host := p.serve(f)
	s, empty := p.store(host, "a", "1"), p.store(host, "b", "2")
	l := p.lease(s, 1, "x")
	held := make(chan struct{})
	f.held.Store(&held)
	if err := empty.Shutdown(p.Context()); err != nil {
		p.Errorf("shutdown without registrations: %v", err)
	}
	w, err := s.Watch(p.Context(), endpointQuery)
	if err != nil {
		p.Fatal(err)
	}
	errs := make(chan error, 3)
	go func() {
		_, err := s.Register(p.Context(), idOf(2), valueOf(p, 2, "x"), discovery.RegisterOptions{})
		errs <- err
	}()
	go func() { _, err := s.Get(p.Context(), idOf(1)); errs <- err }()
	go func() { _, err := w.Next(p.Context()); errs <- err }()
	<-time.After(200 * time.Millisecond) // the requests are under way
	ended := make(chan error, 2)
	for range 2 {
		go func() {
			ctx, cancel := context.WithTimeout(p.Context(), 6*time.Second)
			defer cancel()
			ended <- s.Shutdown(ctx)
		}()
	}
	for range 3 {
		select {
		case err := <-errs:
			if !errors.Is(err, discovery.ErrClosed) {
				p.Errorf("a call ended with %v, want ErrClosed", err)
			}
		case err := <-ended:
			p.Fatalf("shutdown ended (%v) before the calls", err)
		}
	}
	for range 2 {
		if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
			p.Errorf("shutdown without an answer: %v, want a time-out", err)
		}
	}
	close(held)
	if err := l.Unregister(p.Context()); err != nil {
		p.Errorf("unregister: %v", err)
	}
	if err := s.Shutdown(p.Context()); err != nil || p.registered("a") != nil {
		p.Errorf("shutdown: %v, %v are registered", err, p.registered("a"))
	}
}

// objectOfAnotherPod: an object that was deleted is written again with the next
// change; one that a new pod of the same name has made is left alone.
func objectOfAnotherPod(p place) {
	s := p.store("", "a", "1")
	l := p.lease(s, 1, "x")
	p.remove(workers, "a")
	p.lease(s, 2, "x")
	p.expectRegistered("a", 1, 2)
	p.remove(workers, "a")
	p.worker("a", "other", 7, "")
	if err := l.Update(p.Context(), valueOf(p, 1, "y")); !errors.Is(err, discovery.ErrTakenOver) {
		p.Errorf("update: %v, want ErrTakenOver", err)
	}
	if err := l.Wait(p.Context()); !errors.Is(err, discovery.ErrTakenOver) {
		p.Errorf("the lease ended with %v, want ErrTakenOver", err)
	}
	if err := s.Shutdown(p.Context()); err != nil {
		p.Error(err)
	}
	p.expectRegistered("a", 7)
}

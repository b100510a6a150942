package kube

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/discoverytest"
	"github.com/dynplane/dynplane/discovery/kube"
)

// TestRestartOfTheAPIServer kills the API server under an open watch. Changes that are made
// meanwhile, through another API server of the same etcd, are reported, and
// nothing else.
func TestRestartOfTheAPIServer(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	p := c.in(t)
	p.worker("a", "1", 7, "")
	p.worker("b", "2", 8, "")
	p.ready("a=1", "b=2")
	writer := p.open(kube.Options{PodName: "w", PodUID: "5"})
	w := p.watch(p.open(kube.Options{}), endpointQuery)
	w.expect("+7", "+8", "synced")

	registered := make(chan error, 1)
	c.replaceAPI(t, func() {
		go func() { // retried until a server responds, for 10 s at most
			_, err := writer.RegisterAs(p.Context(), 20, discovery.Endpoint{
				Scope: discovery.Scope{Namespace: "ns", Component: "c", Endpoint: "ep"}, Transport: discovery.TCP("10.0.0.9:1"),
			})
			registered <- err
		}()
		<-time.After(time.Second)
	})
	if err := <-registered; err != nil {
		t.Fatal(err)
	}
	p.ready("a=1", "b=2", "w=5")
	w.expect("+20")

	for _, hold := range []bool{false, true} {
		id := uint64(30)
		if hold {
			id = 40
		}
		c.restartAPI(t, hold, func() {
			p.elsewhere(func(p place) {
				p.worker("a", "1", id, "")
				p.worker("gone", "9", 99, "")
				p.ready("a=1", "gone=9", "w=5")
				p.ready("a=1", "w=5")
				p.remove(workers, "gone")
			})
			p.compact()
		})
		removed := []string{"-7", "-8"}
		if hold {
			removed = []string{"-30", "-50"}
		}
		w.expectAll(append(removed, fmt.Sprintf("+%d", id))...)
		if !hold {
			// A watch that has received an event resumes after it.
			p.worker("z", "8", 50, "")
			p.ready("a=1", "w=5", "z=8")
			w.expect("+50")
		}
	}
	if c.expired.Load() == 0 {
		t.Error("no watch met a version that was too old")
	}
	if err := writer.Shutdown(t.Context()); err != nil { // before the servers stop
		t.Fatal(err)
	}
	w.expect("-20")
}

// elsewhere calls write with another API server of the same etcd.
func (p place) elsewhere(write func(place)) {
	p.Helper()
	other := &cluster{etcd: p.etcd}
	other.startAPI(p.T)
	other.openFront(p.T)
	client, err := dynamic.NewForConfig(other.config())
	if err != nil {
		p.Fatal(err)
	}
	other.client = client
	succeeds(p.T, "another API server serves", func(ctx context.Context) error {
		_, err := client.Resource(workers).Namespace(p.namespace).List(ctx, metav1.ListOptions{})
		return err
	})
	write(place{p.T, other, p.namespace})
	other.closeFront()
	other.api.Kill()
}

// compact removes the history of etcd.
func (p place) compact() {
	p.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{p.etcd}, Logger: zap.NewNop()})
	if err != nil {
		p.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	got, err := client.Get(p.Context(), "/")
	if err == nil {
		_, err = client.Compact(p.Context(), got.Header.Revision, clientv3.WithCompactPhysical())
	}
	if err != nil {
		p.Fatal(err)
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	discoverytest.Run(t, func(t *testing.T) func() discovery.Store {
		p := c.in(t)
		pods := 0
		return func() discovery.Store {
			pods++
			name := "pod-" + strconv.Itoa(pods)
			p.apply(slices, fmt.Sprintf(`{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4","metadata":{"name":%q,
				"labels":{"nvidia.com/dynamo-discovery-backend":"kubernetes","nvidia.com/dynamo-discovery-enabled":"true"}},
				"endpoints":[{"addresses":["10.0.0.7"],"conditions":{"ready":true},"targetRef":{"kind":"Pod","name":%q,"uid":"1"}}]}`, name, name))
			store, err := kube.New(kube.Options{Config: c.config(), Namespace: p.namespace, PodName: name, PodUID: "1"})
			if err != nil {
				t.Fatal(err)
			}
			return store
		}
		// Kubernetes keeps numbers exact only up to 53 bits. The registrations of a
		// pod are in its own object, so another pod cannot take them over. The rest is
		// until the store has them.
	}, "ids of 64 bits", "a registration is taken over",
		"if absent", "if absent beside another owner", "an update in place", "an update after the end", "an update after a take-over", "a canceled register", "the same id at once")
}

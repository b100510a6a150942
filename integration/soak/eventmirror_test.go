package soak

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/dynplane/dynplane/discovery"
	filestore "github.com/dynplane/dynplane/discovery/file"
	"github.com/dynplane/dynplane/internal/latencyproxy"
	"github.com/dynplane/dynplane/internal/waittest"
)

// farSide is the world as those see it who reach everything through links that can be
// stalled and cut: registrations are copied into a store of their own, with the
// endpoints replaced.
type farSide struct {
	t         *testing.T
	near, far *discovery.Client

	mu      sync.Mutex
	proxies map[string]*latencyproxy.Proxy // by target
}

func newFarSide(t *testing.T, near, far string) *farSide {
	t.Helper()
	s := &farSide{t: t, proxies: map[string]*latencyproxy.Proxy{}}
	s.near, s.far = openFiles(t, near), openFiles(t, far)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.mirror(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		for _, client := range []*discovery.Client{s.near, s.far} {
			end, stop := context.WithTimeout(context.Background(), waittest.Patience)
			if err := client.Shutdown(end); err != nil {
				t.Errorf("shutdown of the mirror: %v", err)
			}
			stop()
		}
		for _, p := range s.proxies {
			_ = p.Close()
		}
	})
	return s
}

func openFiles(t *testing.T, dir string) *discovery.Client {
	t.Helper()
	store, err := filestore.New(filestore.Options{Root: dir, TTL: eventTTL})
	if err != nil {
		t.Fatal(err)
	}
	return discovery.NewClient(store, discovery.Options{})
}

// mirror copies registrations until ctx is done.
func (s *farSide) mirror(ctx context.Context) {
	copies := map[discovery.ID]*discovery.Registration{}
	for ev, err := range s.near.Watch(ctx, discovery.Query{Kind: discovery.KindEventChannel}) {
		if err != nil {
			if ctx.Err() == nil {
				s.t.Errorf("mirror: %v", err)
			}
			return
		}
		switch id := ev.Instance.ID(); ev.Type {
		case discovery.Added:
			channel := ev.Instance.Spec.(discovery.EventChannel)
			channel.Transport = s.translate(channel.Transport)
			reg, err := s.far.RegisterAs(ctx, id.Instance, channel)
			if err != nil {
				s.t.Errorf("mirror %s: %v", id.Path(), err)
				continue
			}
			copies[id] = reg
		case discovery.Removed:
			if reg := copies[id]; reg != nil {
				if err := reg.Unregister(ctx); err != nil && ctx.Err() == nil {
					s.t.Errorf("mirror %s: %v", id.Path(), err)
				}
				delete(copies, id)
			}
		}
	}
}

// translate replaces the endpoints of a transport.
func (s *farSide) translate(t discovery.Transport) discovery.Transport {
	switch t := t.(type) {
	case discovery.ZMQ:
		t.Endpoint, t.ReplayEndpoint = s.endpoint(t.Endpoint), s.endpoint(t.ReplayEndpoint)
		return t
	case discovery.ZMQBroker:
		t.XSubEndpoints, t.XPubEndpoints = s.endpoints(t.XSubEndpoints), s.endpoints(t.XPubEndpoints)
		t.ReplayEndpoint = s.endpoint(t.ReplayEndpoint)
		return t
	}
	return t
}

func (s *farSide) endpoints(near []string) (far []string) {
	for _, endpoint := range near {
		far = append(far, s.endpoint(endpoint))
	}
	return far
}

// endpoint returns the far end of the link to an endpoint, such as tcp://127.0.0.1:5555.
func (s *farSide) endpoint(near string) string {
	scheme, target, ok := strings.Cut(near, "://")
	if !ok {
		return near
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.proxies[target]
	if p == nil {
		var err error
		if p, err = latencyproxy.Start(target, 0); err != nil {
			s.t.Errorf("link to %s: %v", near, err)
			return near
		}
		s.proxies[target] = p
	}
	return fmt.Sprintf("%s://%s", scheme, p.Addr())
}

// each calls f for all links.
func (s *farSide) each(f func(*latencyproxy.Proxy)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.proxies {
		f(p)
	}
}

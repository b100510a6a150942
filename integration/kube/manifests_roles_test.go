package kube

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/kube"
)

// requests records the requests to an API server, named as roles name them.
type requests struct {
	mu   sync.Mutex
	seen sets.Set[string]
}

func (r *requests) add(info *request.RequestInfo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen.Insert(permission(info.Verb, info.APIGroup, info.Resource))
	if info.Verb == "patch" {
		r.seen.Insert(permission("create", info.APIGroup, info.Resource)) // an apply may create the object
	}
}

// recorder records the requests of a connection. It refuses listings within a
// watch, as older API servers do, since those need no permission to list.
type recorder struct {
	http.RoundTripper
	requests *requests
}

func (r recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	read := request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}
	info, err := read.NewRequestInfo(req)
	if err != nil {
		return nil, err
	}
	r.requests.add(info)
	if req.URL.Query().Has("sendInitialEvents") {
		answer := httptest.NewRecorder()
		fail(answer, http.StatusUnprocessableEntity, "Invalid", "sendInitialEvents is refused here")
		return answer.Result(), nil
	}
	return r.RoundTripper.RoundTrip(req)
}

// WrappedRoundTripper lets client-go find the idle connections to close.
func (r recorder) WrappedRoundTripper() http.RoundTripper { return r.RoundTripper }

func permission(verb, group, resource string) string {
	return fmt.Sprintf("%s %s/%s", verb, group, resource)
}

// permissions returns what a role allows.
func permissions(role *rbacv1.Role) sets.Set[string] {
	out := sets.New[string]()
	for _, rule := range role.Rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					out.Insert(permission(verb, group, resource))
				}
			}
		}
	}
	return out
}

// TestManifestsRoles: the roles allow the requests of the store and nothing else
// but get, which reveals no more than list.
func TestManifestsRoles(t *testing.T) {
	t.Parallel()
	roles := of[*rbacv1.Role](render(t))
	c := startCluster(t)
	channel := discovery.EventChannel{
		Scope: discovery.Scope{Namespace: "dynamo", Component: "backend"}, Topic: "kv-events",
		Transport: discovery.ZMQ{Endpoint: "tcp://10.0.0.7:5555"},
	}
	for role, use := range map[string]func(*testing.T, *requests){
		"dynplane-reader": func(t *testing.T, r *requests) {
			for _, mode := range []kube.Mode{kube.ModePod, kube.ModeContainer} {
				client := openRecorded(t, c, r, kube.Options{Mode: mode})
				if _, err := client.List(t.Context(), discovery.Query{Kind: discovery.KindEventChannel}); err != nil {
					t.Fatal(err)
				}
			}
		},
		"dynplane-worker": func(t *testing.T, r *requests) {
			client := openRecorded(t, c, r, kube.Options{PodName: "worker-0", PodUID: "uid-0"})
			if _, err := client.Register(t.Context(), channel); err != nil {
				t.Fatal(err)
			}
			if err := client.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		made := &requests{seen: sets.New[string]()}
		use(t, made)
		allowed := permissions(roles[role])
		if missing := made.seen.Difference(allowed); len(missing) > 0 {
			t.Errorf("%s does not allow %v", role, sets.List(missing))
		}
		for p := range allowed.Difference(made.seen) {
			if !made.seen.Has(strings.Replace(p, "get ", "list ", 1)) {
				t.Errorf("%s allows %s, which is not used", role, p)
			}
		}
	}
}

func openRecorded(t *testing.T, c *cluster, r *requests, o kube.Options) *discovery.Client {
	t.Helper()
	o.Config, o.Namespace = c.config(), "dynplane"
	o.Config.Wrap(func(next http.RoundTripper) http.RoundTripper { return recorder{next, r} })
	store, err := kube.New(o)
	if err != nil {
		t.Fatal(err)
	}
	client := discovery.NewClient(store, discovery.Options{InstanceID: o.InstanceID()})
	t.Cleanup(func() { _ = client.Shutdown(context.WithoutCancel(t.Context())) })
	return client
}

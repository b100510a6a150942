package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/dynplane/dynplane/integration/dynamotest"
	"github.com/dynplane/dynplane/internal/waittest"
)

var (
	definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	workers     = schema.GroupVersionResource{Group: "nvidia.com", Version: "v1alpha1", Resource: "dynamoworkermetadatas"}
	slices      = schema.GroupVersionResource{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"}
)

// endpointSlices makes the API server for custom resources serve EndpointSlices.
const endpointSlices = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: endpointslices.discovery.k8s.io
  annotations:
    api-approved.kubernetes.io: https://github.com/kubernetes/enhancements/tree/master/keps/sig-network/0752-endpointslices
spec:
  group: discovery.k8s.io
  scope: Namespaced
  names: {kind: EndpointSlice, listKind: EndpointSliceList, plural: endpointslices, singular: endpointslice}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

// cluster is an API server over an etcd. Clients reach it through a proxy with a
// fixed address, the front, which serves pods itself.
type cluster struct {
	etcd    string // its URL
	api     *dynamotest.Process
	pods    *podServer
	backend atomic.Pointer[httputil.ReverseProxy]
	gate    sync.RWMutex // held for writing while requests must wait
	expired atomic.Int64 // responses with the status 410, version too old
	address string
	front   *http.Server
	serving sync.WaitGroup
	client  dynamic.Interface
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{pods: newPodServer()}
	start(t, "etcd", &c.etcd, t.TempDir())
	c.startAPI(t)
	c.openFront(t)
	t.Cleanup(func() { c.closeFront() })
	config := c.config()
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(httpClient.CloseIdleConnections)
	if c.client, err = dynamic.NewForConfigAndClient(config, httpClient); err != nil {
		t.Fatal(err)
	}
	crd, err := os.ReadFile(filepath.Join("..", "..", "examples", "kubernetes", "crd.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, definition := range []string{string(crd), endpointSlices} {
		obj := fromYAML(t, definition)
		if _, err := c.client.Resource(definitions).Create(t.Context(), obj, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, resource := range []schema.GroupVersionResource{workers, slices} {
		succeeds(t, "the API server serves "+resource.Resource, func(ctx context.Context) error {
			_, err := c.client.Resource(resource).List(ctx, metav1.ListOptions{})
			return err
		})
	}
	return c
}

// config returns the settings of clients.
func (c *cluster) config() *rest.Config { return &rest.Config{Host: "http://" + c.address, QPS: -1} }

// startAPI starts the API server.
func (c *cluster) startAPI(t *testing.T) {
	t.Helper()
	var at apiServer
	c.api = start(t, "apiserver", &at, c.etcd, t.TempDir())
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(at.CA)
	target, err := url.Parse(at.Host)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: at.ServerName, MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	c.backend.Store(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Header.Set("Authorization", "Bearer "+at.Token)
		},
		Transport:     transport,
		FlushInterval: -1,
		ModifyResponse: func(resp *http.Response) error {
			resp.Body = &expiryCounter{resp.Body, &c.expired}
			return nil
		},
		ErrorLog:     slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // connections are closed on purpose
		ErrorHandler: cutOff,
	})
}

// cutOff closes a connection without a response.
func cutOff(w http.ResponseWriter, _ *http.Request, _ error) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	_ = conn.Close()
}

// openFront starts the front, on its former address if it had one.
func (c *cluster) openFront(t *testing.T) {
	t.Helper()
	if c.address == "" {
		c.address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", c.address)
	if err != nil {
		t.Fatal(err)
	}
	c.address = listener.Addr().String()
	c.front = &http.Server{Handler: c}
	front := c.front
	c.serving.Go(func() { _ = front.Serve(listener) })
}

// restartAPI kills the API server, calls meanwhile, and starts another. Until
// then connections are refused, or, with hold, requests wait until the cache of
// the new server serves watches.
func (c *cluster) restartAPI(t *testing.T, hold bool, meanwhile func()) {
	t.Helper()
	if hold {
		c.gate.Lock()
		defer c.gate.Unlock()
		c.api.Kill()
		meanwhile()
		c.startAPI(t)
		for _, r := range []schema.GroupVersionResource{workers, slices} {
			path := fmt.Sprintf("/apis/%s/%s/%s?resourceVersion=0", r.Group, r.Version, r.Resource)
			succeeds(t, path, func(context.Context) error {
				answer := httptest.NewRecorder()
				c.backend.Load().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
				if answer.Code != http.StatusOK {
					return errors.New(answer.Body.String())
				}
				return nil
			})
		}
		return
	}
	c.api.Kill()
	c.closeFront()
	meanwhile()
	c.startAPI(t)
	c.openFront(t)
}

// replaceAPI starts another API server and kills the first. In between, while
// meanwhile runs, connections are refused. The other server is ready before, so
// that this takes no longer than meanwhile.
func (c *cluster) replaceAPI(t *testing.T, meanwhile func()) {
	t.Helper()
	former := c.api
	c.startAPI(t)
	former.Kill()
	c.closeFront()
	meanwhile()
	c.openFront(t)
}

// expiryCounter counts the responses with the status 410, version too old.
type expiryCounter struct {
	io.ReadCloser
	count *atomic.Int64
}

func (e *expiryCounter) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	if bytes.Contains(p[:n], []byte(`"code":410`)) {
		e.count.Add(1)
	}
	return n, err
}

func (c *cluster) closeFront() {
	_ = c.front.Close()
	c.serving.Wait()
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/api/v1/namespaces/") && strings.HasSuffix(r.URL.Path, "/pods") {
		c.pods.ServeHTTP(w, r)
		return
	}
	c.gate.RLock()
	backend := c.backend.Load()
	c.gate.RUnlock()
	backend.ServeHTTP(w, r)
}

func fromYAML(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	obj := &unstructured.Unstructured{}
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err == nil {
		err = obj.UnmarshalJSON(raw)
	}
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return obj
}

// succeeds waits until a call returns no error.
func succeeds(t *testing.T, what string, try func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Patience)
	defer cancel()
	var err error
	defer func() {
		if err != nil {
			t.Logf("%s: %v", what, err)
		}
	}()
	waittest.Eventually(t, what, func() bool {
		err = try(ctx)
		return err == nil
	})
}

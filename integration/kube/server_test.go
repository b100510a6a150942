package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"k8s.io/apiextensions-apiserver/pkg/cmd/server/options"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/rest"

	"github.com/dynplane/dynplane/integration/dynamotest"
	"github.com/dynplane/dynplane/integration/natstest"
)

// roleVar makes the test binary act as one of the servers.
const roleVar = "DYNPLANE_TEST_ROLE"

func TestMain(m *testing.M) {
	var serve func() error
	switch os.Getenv(roleVar) {
	case "etcd":
		serve = serveEtcd
	case "apiserver":
		serve = serveAPI
	default:
		goleak.VerifyTestMain(m, natstest.IgnoreServer())
		return
	}
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// start runs the test binary in a role until the test ends, and decodes the line that
// it prints as soon as it serves. It ends when its standard input is closed, which also
// happens when the tests die.
func start(t *testing.T, role string, out any, args ...string) *dynamotest.Process {
	t.Helper()
	p := dynamotest.Run(t, append(os.Environ(), roleVar+"="+role), os.Args[0], args...)
	t.Cleanup(p.Kill)
	if err := json.Unmarshal([]byte(p.Line), out); err != nil {
		t.Fatalf("start %s: it printed %q: %v", role, p.Line, err)
	}
	return p
}

func serveEtcd() error {
	config := embed.NewConfig()
	config.Dir = os.Args[1]
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	config.UnsafeNoFsync = true
	config.ListenClientUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	config.AdvertiseClientUrls = config.ListenClientUrls
	config.ListenPeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	config.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:1"}} // it has no peers
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	server, err := embed.StartEtcd(config)
	if err != nil {
		return err
	}
	defer server.Close()
	<-server.Server.ReadyNotify()
	return announce("http://" + server.Clients[0].Addr().String())
}

// apiServer holds the settings for clients of an API server.
type apiServer struct {
	Host, Token, ServerName string
	CA                      []byte
}

// dummyKubeconfig takes the place of the API server to which this one would
// delegate authorization.
const dummyKubeconfig = `apiVersion: v1
kind: Config
current-context: none
clusters: [{name: none, cluster: {server: "http://127.0.0.1:1"}}]
contexts: [{name: none, context: {cluster: none, user: none}}]
users: [{name: none, user: {token: none}}]
`

// serveAPI is the main function of an API server. Its arguments are the URL of
// etcd and a directory.
func serveAPI() error {
	etcd, dir := os.Args[1], os.Args[2]
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(kubeconfig, []byte(dummyKubeconfig), 0o600); err != nil {
		return err
	}
	o := options.NewCustomResourceDefinitionsServerOptions(os.Stderr, os.Stderr)
	flags := pflag.NewFlagSet("apiserver", pflag.ContinueOnError)
	o.AddFlags(flags)
	if err := flags.Parse([]string{
		"--etcd-servers=" + etcd,
		"--cert-dir=" + dir,
		"--bind-address=127.0.0.1",
		"--authentication-skip-lookup",
		"--authentication-kubeconfig=" + kubeconfig,
		"--authorization-kubeconfig=" + kubeconfig,
		"--kubeconfig=" + kubeconfig,
		// These need a complete API server.
		"--enable-priority-and-fairness=false",
		"--disable-admission-plugins=NamespaceLifecycle,MutatingAdmissionWebhook,ValidatingAdmissionWebhook," +
			"ValidatingAdmissionPolicy,MutatingAdmissionPolicy",
	}); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	serving := o.RecommendedOptions.SecureServing
	serving.Listener, serving.BindPort = listener, listener.Addr().(*net.TCPAddr).Port
	serving.ExternalAddress = net.IPv4(127, 0, 0, 1)
	if err := o.ServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return err
	}
	if err := o.Complete(); err != nil {
		return err
	}
	if err := o.Validate(); err != nil {
		return err
	}
	config, err := o.Config()
	if err != nil {
		return err
	}
	server, err := config.Complete().New(genericapiserver.NewEmptyDelegate())
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- server.GenericAPIServer.PrepareRun().RunWithContext(context.Background()) }()
	loopback := server.GenericAPIServer.LoopbackClientConfig
	if err := waitHealthy(loopback, ended); err != nil {
		return err
	}
	return announce(apiServer{
		Host: loopback.Host, Token: loopback.BearerToken,
		ServerName: loopback.ServerName, CA: loopback.CAData,
	})
}

func waitHealthy(config *rest.Config, ended <-chan error) error {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	for {
		resp, err := client.Get(config.Host + "/healthz")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == 200 {
				return nil
			}
		}
		select {
		case err := <-ended:
			return fmt.Errorf("the API server ended: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// announce prints the settings for clients, and returns when standard input is
// closed.
func announce(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintln(os.Stdout, string(line))
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

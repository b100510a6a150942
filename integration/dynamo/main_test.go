package dynamo

import (
	"fmt"
	"io"
	"net/url"
	"os"
	"testing"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/dynplane/dynplane/integration/natstest"
)

// roleVar makes the test binary act as an etcd server.
const roleVar = "DYNPLANE_TEST_ROLE"

// bin is the directory of the programs that the tests build.
var bin string

func TestMain(m *testing.M) {
	if os.Getenv(roleVar) == "etcd" {
		if err := serveEtcd(os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	dir, err := os.MkdirTemp("", "dynplane-interop")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	bin = dir
	goleak.VerifyTestMain(m, natstest.IgnoreServer(), goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// serveEtcd runs an etcd server until standard input ends. It prints its address.
func serveEtcd(dir, listen string) error {
	config := embed.NewConfig()
	config.Dir = dir
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	config.UnsafeNoFsync = true
	config.ListenClientUrls = []url.URL{{Scheme: "http", Host: listen}}
	config.AdvertiseClientUrls = config.ListenClientUrls
	config.ListenPeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	config.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:1"}} // it has no peers
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	server, err := embed.StartEtcd(config)
	if err != nil {
		return err
	}
	<-server.Server.ReadyNotify()
	fmt.Fprintln(os.Stdout, server.Clients[0].Addr())
	_, err = io.Copy(io.Discard, os.Stdin)
	server.Close()
	return err
}

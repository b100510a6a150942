package dynamo

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/dynplane/dynplane/integration/dynamotest"
)

// etcdServer is an etcd server that can be killed and started again. It ends after
// the clients that were opened later than it was started for the first time.
type etcdServer struct {
	*dynamotest.Process
	t   *testing.T
	dir string
}

func runEtcd(t *testing.T) *etcdServer {
	t.Helper()
	s := &etcdServer{t: t, dir: filepath.Join(t.TempDir(), "etcd")}
	s.start("127.0.0.1:0")
	t.Cleanup(func() { s.Kill() })
	return s
}

func (s *etcdServer) start(listen string) {
	s.t.Helper()
	s.Process = dynamotest.Run(s.t, append(os.Environ(), roleVar+"=etcd"), os.Args[0], s.dir, listen)
}

// brokerProgram builds zmq-broker when it is first used.
var brokerProgram = sync.OnceValues(func() (string, error) { return dynamotest.BuildBroker(bin) })

func runBroker(t *testing.T, env map[string]string) *dynamotest.Broker {
	t.Helper()
	program, err := brokerProgram()
	if err != nil {
		t.Fatal(err)
	}
	return dynamotest.RunBroker(t, program, env)
}

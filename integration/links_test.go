package integration

import (
	"os/exec"
	"strings"
	"testing"
)

// TestHeavyClientsStayOutOfTheWay: a program that uses NATS alone links no
// client of another backend.
func TestHeavyClientsStayOutOfTheWay(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", "../discovery", "../discovery/mirror", "../eventplane", "../broker", "../codec", "../natsconn").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for pkg := range strings.Lines(string(out)) {
		for _, heavy := range []string{"go.etcd.io/", "k8s.io/", "google.golang.org/grpc", "github.com/fsnotify/", "nats-server/"} {
			if strings.Contains(pkg, heavy) {
				t.Errorf("%s is linked", strings.TrimSpace(pkg))
			}
		}
	}
}

package integration

import (
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/dynplane/dynplane"

// thirdParty returns the packages outside of this module and the standard
// library that a program with the given packages of ours links.
func thirdParty(t *testing.T, packages ...string) []string {
	t.Helper()
	args := []string{"list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}"}
	for _, pkg := range packages {
		args = append(args, module+"/"+pkg)
	}
	out, err := exec.Command("go", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, out)
	}
	var found []string
	for pkg := range strings.FieldsSeq(string(out)) {
		if pkg != module && !strings.HasPrefix(pkg, module+"/") {
			found = append(found, pkg)
		}
	}
	return found
}

func TestProgramsLinkOnlyTheClientsTheyUse(t *testing.T) {
	t.Parallel()
	t.Run("discovery and the memory store link nothing", func(t *testing.T) {
		t.Parallel()
		if found := thirdParty(t, "discovery", "discovery/memory", "discovery/mirror"); len(found) > 0 {
			t.Errorf("linked: %q", found)
		}
	})
	t.Run("the file store links its file-event library", func(t *testing.T) {
		t.Parallel()
		for _, pkg := range thirdParty(t, "discovery", "discovery/file") {
			if !strings.HasPrefix(pkg, "github.com/fsnotify/fsnotify") && pkg != "golang.org/x/sys/unix" {
				t.Errorf("linked: %s", pkg)
			}
		}
	})
	t.Run("a program on NATS links no client of another store", func(t *testing.T) {
		t.Parallel()
		for _, pkg := range thirdParty(t, "discovery/natskv", "discovery/mirror", "eventplane", "broker", "codec", "natsconn") {
			for _, heavy := range []string{"go.etcd.io/", "k8s.io/", "google.golang.org/grpc", "github.com/fsnotify/", "nats-server/"} {
				if strings.Contains(pkg, heavy) {
					t.Errorf("linked: %s", pkg)
				}
			}
		}
	})
}

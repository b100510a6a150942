package natsversions

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

const (
	oldest  = "2.14.0"
	newest  = "2.15.2"
	refused = "2.12.15"
)

// supported are the versions that must pass: the first and the last patch of each
// minor version.
var supported = []string{oldest, "2.14.9", "2.15.0", newest}

var builds sync.Map // of a version to its func() (string, error)

// binary returns the path of the nats-server program of a version. Programs are
// kept in the user's cache; the first caller builds.
func binary(tb testing.TB, version string) string {
	tb.Helper()
	once, _ := builds.LoadOrStore(version, sync.OnceValues(func() (string, error) { return build(version) }))
	path, err := once.(func() (string, error))()
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// build builds into a directory of its own and renames the result, so that a
// program that exists is complete.
func build(version string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(cache, "dynplane", "nats-server-v"+version, "nats-server")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	temporary, err := os.MkdirTemp(filepath.Dir(path), "build")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(temporary) }()
	install := exec.Command("go", "install", "github.com/nats-io/nats-server/v2@v"+version)
	install.Env = append(os.Environ(), "GOBIN="+temporary, "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if out, err := install.CombinedOutput(); err != nil {
		return "", fmt.Errorf("natsversions: build nats-server %s: %w\n%s", version, err, out)
	}
	return path, os.Rename(filepath.Join(temporary, "nats-server"), path)
}

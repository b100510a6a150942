package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/internal/logtest"
	"github.com/dynplane/dynplane/natsconn"
)

// runHub runs the command and returns the line that it prints when it is ready, and
// a function that stops it and returns its exit code.
func runHub(t *testing.T, args ...string) (line string, stop func() int) {
	t.Helper()
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	code := make(chan int, 1)
	var errs logtest.Buffer
	go func() {
		a := &app{lookup: lookupIn(nil), stdout: w, stderr: &errs}
		code <- a.run(ctx, append([]string{"hub", "--listen", "127.0.0.1:0"}, args...))
		_ = w.Close()
	}()
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatalf("no line on stdout: %v, exit code %d: %s", err, <-code, errs.String())
	}
	return strings.TrimSuffix(line, "\n"), func() int {
		cancel()
		return <-code
	}
}

func jetStream(t *testing.T, url string) jetstream.JetStream {
	t.Helper()
	nc, err := natsconn.Connect(t.Context(), natsconn.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func TestHub(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	url, stop := runHub(t, "--store-dir", dir)
	ctx := t.Context()
	if _, err := jetStream(t, url).CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "kept"}); err != nil {
		t.Fatalf("the hub is not ready at %s: %v", url, err)
	}
	var errs bytes.Buffer
	second := &app{lookup: lookupIn(nil), stdout: io.Discard, stderr: &errs}
	if code := second.run(ctx, []string{"hub", "--listen", strings.TrimPrefix(url, "nats://")}); code != exitFailure ||
		!strings.Contains(errs.String(), "address already in use") {
		t.Errorf("a second hub on %s: exit code %d, %q", url, code, errs.String())
	}
	if code := stop(); code != 0 {
		t.Errorf("interrupted: exit code %d", code)
	}

	line, stop := runHub(t, "--store-dir", dir, "-o", "json")
	var again struct{ URL string }
	if err := json.Unmarshal([]byte(line), &again); err != nil {
		t.Fatalf("-o json: %q: %v", line, err)
	}
	if _, err := jetStream(t, again.URL).KeyValue(ctx, "kept"); err != nil {
		t.Errorf("the store was not kept: %v", err)
	}
	stop()
}

func TestHubRemovesTemporaryStore(t *testing.T) {
	t.Parallel()
	h, err := startHub(hubOptions{host: "127.0.0.1", log: (&app{stderr: io.Discard}).logger()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(h.temporary); err != nil {
		t.Error(err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(h.temporary); !os.IsNotExist(err) {
		t.Errorf("%s is left behind: %v", h.temporary, err)
	}
}

func TestHubUsage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args, want string
		code       int
	}{
		{"--listen 4222", "want HOST:PORT", exitUsage},
		{"--listen 127.0.0.1:65536", "want 0 (a free port) to 65535", exitUsage},
		{"--listen 127.0.0.1:nats", "want 0 (a free port) to 65535", exitUsage},
		{"now", "want dynplane hub", exitUsage},
		{"--server nats://127.0.0.1:4222", "--server: the hub is a server", exitUsage},
		{"--storage memory", "--storage: the hub is a server", exitUsage},
		{"--listen 127.0.0.1:0 --store-dir /dev/null/x", "storage directory", exitFailure},
	} {
		t.Run(c.args, func(t *testing.T) {
			t.Parallel()
			var errs bytes.Buffer
			a := &app{lookup: lookupIn(nil), stdout: io.Discard, stderr: &errs}
			if code := a.run(t.Context(), append([]string{"hub"}, strings.Fields(c.args)...)); code != c.code ||
				!strings.Contains(errs.String(), c.want) {
				t.Errorf("exit code %d, %q: want %d, %q", code, errs.String(), c.code, c.want)
			}
		})
	}
}

// The hub prints an address that clients can connect to, even if it listens on a
// wildcard.
func TestHubReachableHost(t *testing.T) {
	t.Parallel()
	a := &app{lookup: lookupIn([]string{"DYN_EVENT_PLANE_HOST=192.0.2.7"})}
	for host, want := range map[string]string{
		"": "192.0.2.7", "0.0.0.0": "192.0.2.7", "::": "192.0.2.7",
		"127.0.0.1": "127.0.0.1", "::1": "::1", "localhost": "localhost",
	} {
		if got, err := a.reachableHost(host); got != want || err != nil {
			t.Errorf("%q: got %q, %v, want %q", host, got, err, want)
		}
	}
}

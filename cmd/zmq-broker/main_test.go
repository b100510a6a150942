//go:build cgo && !nozmq

package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/dynplane/dynplane/internal/logtest"
	"github.com/dynplane/dynplane/internal/waittest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func noEnv(string) (string, bool) { return "", false }

func TestPprof(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	var stderr logtest.Buffer
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"-xsub-bind", "tcp://127.0.0.1:0", "-xpub-bind", "tcp://127.0.0.1:0", "--pprof", "127.0.0.1:0"}, noEnv, io.Discard, &stderr)
	}()
	var url string
	waittest.Eventually(t, "the broker logs the URL of its profiles", func() bool {
		url = regexp.MustCompile(`http://127\.0\.0\.1:\d+/debug/pprof/`).FindString(stderr.String())
		return url != ""
	})
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url + "goroutine?debug=1")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), "goroutine profile:") {
		t.Errorf("status %d, %v, %.100q, want a goroutine profile", resp.StatusCode, err, body)
	}
	cancel()
	if got := <-code; got != 0 {
		t.Errorf("exit code %d, want 0:\n%s", got, stderr.String())
	}
}

func TestPprofErrors(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for addr, c := range map[string]struct {
		code int
		want string
	}{
		"6060":                {2, `-pprof "6060": want HOST:PORT`},
		taken.Addr().String(): {1, "zmq-broker: pprof: listen tcp " + taken.Addr().String()},
	} {
		var stderr logtest.Buffer
		if code := run(t.Context(), []string{"-pprof", addr}, noEnv, io.Discard, &stderr); code != c.code || !strings.Contains(stderr.String(), c.want) {
			t.Errorf("%s: exit code %d, want %d and %q in:\n%s", addr, code, c.code, c.want, stderr.String())
		}
	}
}

// Invalid variables are errors before the ports are bound: that of -xsub-bind
// is taken here.
func TestBadEnvironment(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, want := range map[string]string{
		"DYN_EVENT_PLANE_HOST":  `DYN_EVENT_PLANE_HOST: host "no-such": want an IP address`,
		"DYN_DISCOVERY_BACKEND": `DYN_DISCOVERY_BACKEND "no-such": want one of`,
		"NATS_SERVER":           `-server (NATS_SERVER) "no-such": wrong scheme`,
	} {
		var stderr logtest.Buffer
		lookup := func(variable string) (string, bool) {
			if variable == name {
				return "no-such", true
			}
			return "", false
		}
		args := []string{"-xsub-bind", "tcp://" + taken.Addr().String(), "-xpub-bind", "tcp://127.0.0.1:0"}
		if code := run(t.Context(), args, lookup, io.Discard, &stderr); code != 2 || !strings.Contains(stderr.String(), want) {
			t.Errorf("%s: exit code %d, want 2 and %q in:\n%s", name, code, want, stderr.String())
		}
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	invalid := func(name string) (string, bool) { return "junk", name == "ZMQ_BROKER_XSUB_BIND" }
	code := run(t.Context(), []string{"-version"}, invalid, &stdout, &stderr)
	want := regexp.MustCompile(`^zmq-broker  .+\ncommit      .+\nlibzmq      \d+\.\d+\.\d+\ngo          go1\..+\n$`)
	if code != 0 || !want.MatchString(stdout.String()) || stderr.Len() > 0 {
		t.Errorf("exit code %d, stdout %q, stderr %q, want the versions", code, &stdout, &stderr)
	}
}

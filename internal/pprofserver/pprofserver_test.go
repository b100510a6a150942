package pprofserver_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/dynplane/dynplane/internal/pprofserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, addr string) *pprofserver.Server {
	t.Helper()
	s, err := pprofserver.Start(addr)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestProfilesAreServed(t *testing.T) {
	t.Parallel()
	s := start(t, "127.0.0.1:0")
	for path, want := range map[string]string{
		"":                     "heap",
		"goroutine?debug=1":    "goroutine profile:",
		"profile?seconds=1":    "",
		"cmdline":              os.Args[0],
		"heap?debug=1":         "heap profile:",
		"symbol?0x0000000000a": "num_symbols",
	} {
		if code, body := get(t, "http://"+s.Addr()+"/debug/pprof/"+path); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: status %d and %.100q, want 200 and %q", path, code, body, want)
		}
	}
	if code, _ := get(t, "http://"+s.Addr()+"/"); code != http.StatusNotFound {
		t.Errorf("/: status %d, want 404", code)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", s.Addr()); err == nil {
		_ = c.Close()
		t.Error("it still listens after Close")
	}
}

func TestEmptyHostIsLoopback(t *testing.T) {
	t.Parallel()
	s := start(t, ":0")
	if !strings.HasPrefix(s.Addr(), "127.0.0.1:") {
		t.Errorf("listens on %s, want 127.0.0.1", s.Addr())
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestCloseEndsProfilesInProgress(t *testing.T) {
	t.Parallel()
	s := start(t, "127.0.0.1:0")
	c, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET /debug/pprof/trace?seconds=3600 HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil { // the trace has begun
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
}

func TestStartFails(t *testing.T) {
	t.Parallel()
	taken := start(t, "127.0.0.1:0")
	defer taken.Close()
	for addr, want := range map[string]string{
		"6060":            `pprof: address "6060": want HOST:PORT`,
		"":                `pprof: address "": want HOST:PORT`,
		"127.0.0.1:70000": "pprof: listen tcp: address 70000: invalid port",
		taken.Addr():      "address already in use",
	} {
		s, err := pprofserver.Start(addr)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", addr, err, want)
		}
		if err == nil {
			_ = s.Close()
		}
	}
}

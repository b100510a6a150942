package natsversions

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/discovery/natskv"
)

const ttl = 2 * time.Second

// onSupported runs a test on every supported version.
func onSupported(t *testing.T, test func(*testing.T, string)) {
	for _, version := range supported {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			test(t, version)
		})
	}
}

func TestLifecycle(t *testing.T) {
	t.Parallel()
	onSupported(t, func(t *testing.T, version string) {
		s := run(t, version)
		o := natskv.Options{TTL: ttl}
		reader, living, dying := newClient(t, s.url(), o), newClient(t, s.url(), o), newClient(t, s.url(), o)
		w := startWatch(t, reader) // before there is a bucket
		living.register(t, "generate", 1)
		dying.register(t, "generate", 2)
		leaves, err := living.RegisterAs(t.Context(), 3, endpoint("generate"))
		if err != nil {
			t.Fatal(err)
		}
		former, err := dying.RegisterAs(t.Context(), 4, endpoint("generate"))
		if err != nil {
			t.Fatal(err)
		}
		w.awaitAdded("generate", 1, 2, 3, 4)
		reader.awaitListed(t, 4)

		living.register(t, "generate", 4)
		if err := former.Wait(t.Context()); !errors.Is(err, discovery.ErrTakenOver) {
			t.Errorf("the former owner receives %v, want ErrTakenOver", err)
		}
		if err := leaves.Unregister(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.awaitRemoved("generate", 3)

		died := time.Now()
		dying.nc.Close()
		// The promise is TTL + 1 s; this machine may be busy with other tests.
		if took := w.awaitRemoved("generate", 2).Sub(died); took > ttl+4*time.Second {
			t.Errorf("removed after %v with a TTL of %v", took, ttl)
		}
		outage(2 * ttl) // several heartbeats
		reader.awaitListed(t, 2)
		w.expect("generate", 0, 1, 4)
		w.expect("generate", 1, 2, 3)
	})
}

func TestServerRestart(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name               string
		down               time.Duration
		kill, wipe, memory bool
	}{
		{name: "shorter than the TTL", down: ttl / 4},
		{name: "longer than the TTL", down: 3 * ttl},
		{name: "killed", down: 3 * ttl, kill: true},
		{name: "store lost", down: ttl / 4, wipe: true},
		{name: "memory bucket", down: 3 * ttl, memory: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			onSupported(t, func(t *testing.T, version string) {
				s := run(t, version)
				f := startFault(t, s.url(), natskv.Options{TTL: ttl, Memory: c.memory})
				end := s.stop
				if c.kill {
					end = s.kill
				}
				end()
				f.dying.nc.Close()
				if c.wipe {
					s.wipe()
				}
				outage(c.down)
				s.start()
				f.expectRepaired(time.Now())
			})
		})
	}
}

func TestStreamsDeleted(t *testing.T) {
	t.Parallel()
	for _, streams := range [][]string{{readStream}, {writeStream}, {readStream, writeStream}} {
		t.Run(strings.Join(streams, " and "), func(t *testing.T) {
			t.Parallel()
			onSupported(t, func(t *testing.T, version string) {
				s := run(t, version)
				f := startFault(t, s.url(), natskv.Options{TTL: ttl})
				js := f.reader.jetStream(t)
				for _, stream := range streams {
					if err := js.DeleteStream(t.Context(), stream); err != nil {
						t.Fatal(err)
					}
				}
				f.dying.nc.Close()
				f.expectRepaired(time.Now())
			})
		})
	}
}

func TestOlderServerIsRefused(t *testing.T) {
	t.Parallel()
	s := run(t, refused)
	c := newClient(t, s.url(), natskv.Options{TTL: ttl})
	_, err := c.Register(t.Context(), endpoint("generate"))
	want := "NATS server " + refused + " at " + s.url() + ": want " + minor(oldest) + " or later"
	if !errors.Is(err, natskv.ErrBucket) || !strings.Contains(err.Error(), want) {
		t.Errorf("register on an older server: %v, want ErrBucket with %q", err, want)
	}
}

func TestReadmeNamesTheServers(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	last := len(supported) - 1
	want := fmt.Sprintf("version %s or later (`make natsversions` tests %s and %s)",
		minor(oldest), strings.Join(supported[:last], ", "), supported[last])
	if !strings.Contains(string(readme), want) {
		t.Errorf("README does not contain %q", want)
	}
}

// minor returns a version without its patch.
func minor(version string) string { return version[:strings.LastIndex(version, ".")] }

// fault is a test of 20 living owners, 1 dying one and an open watch.
type fault struct {
	t                     *testing.T
	reader, living, dying client
	watch                 *watch
	ttl                   time.Duration
}

func startFault(t *testing.T, url string, o natskv.Options) *fault {
	t.Helper()
	f := &fault{t: t, reader: newClient(t, url, o), living: newClient(t, url, o), dying: newClient(t, url, o), ttl: o.TTL}
	f.living.register(t, "generate", upTo(1, 20)...)
	f.dying.register(t, "generate", 100)
	f.watch = startWatch(t, f.reader)
	f.watch.awaitAdded("generate", append(upTo(1, 20), 100)...)
	return f
}

// expectRepaired requires that only the dead owner is removed, and that the living
// ones continue.
func (f *fault) expectRepaired(up time.Time) {
	f.t.Helper()
	// A removal after a fault is held for a TTL and the time to reconnect.
	if took := f.watch.awaitRemoved("generate", 100).Sub(up); took > 2*f.ttl+20*time.Second {
		f.t.Errorf("the dead owner was removed %v after the fault, with a TTL of %v", took, f.ttl)
	}
	f.living.register(f.t, "generate", 200)
	f.watch.awaitAdded("generate", 200)
	f.reader.awaitListed(f.t, 21)
	f.watch.expect("generate", 0, upTo(1, 20)...)
	f.watch.expect("generate", 1, 100)
}

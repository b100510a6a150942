package natskv

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/dynplane/dynplane/integration/natstest"
	"github.com/dynplane/dynplane/internal/waittest"
)

func TestStreamsThatCannotHoldLeases(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	s := openStore(t, server.Connect(t), Options{})
	if err := errors.Join(s.checkWriteStream(s.opt.writeConfig(7)), s.checkReadStream(s.opt.readConfig(7))); err != nil {
		t.Errorf("our own: %v", err)
	}
	type change = func(*jetstream.StreamConfig)
	both := map[string]change{
		"AllowMsgTTL":       func(c *jetstream.StreamConfig) { c.AllowMsgTTL = false },
		"AllowDirect":       func(c *jetstream.StreamConfig) { c.AllowDirect = false },
		"MaxMsgsPerSubject": func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 5 },
		"MaxMsgs":           func(c *jetstream.StreamConfig) { c.MaxMsgs = 5 },
		"MaxBytes":          func(c *jetstream.StreamConfig) { c.MaxBytes = 1 << 20 },
		"MaxAge":            func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour },
		"MaxMsgSize":        func(c *jetstream.StreamConfig) { c.MaxMsgSize = 100 },
		"sealed":            func(c *jetstream.StreamConfig) { c.Sealed = true },
		"NoAck":             func(c *jetstream.StreamConfig) { c.NoAck = true },
		"retention":         func(c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy },
		"mirror":            func(c *jetstream.StreamConfig) { c.Mirror = &jetstream.StreamSource{Name: "X"} },
	}
	write := map[string]change{
		"AllowMsgSchedules":                func(c *jetstream.StreamConfig) { c.AllowMsgSchedules = false },
		"AllowRollup":                      func(c *jetstream.StreamConfig) { c.AllowRollup = false },
		"SubjectTransform":                 func(c *jetstream.StreamConfig) { c.SubjectTransform = &jetstream.SubjectTransformConfig{} },
		"subject dynplane.lease.dynplane.": func(c *jetstream.StreamConfig) { c.Subjects = c.Subjects[:1] },
	}
	read := map[string]change{
		"source DYNPLANE_dynplane": func(c *jetstream.StreamConfig) { c.Sources = nil },
		"source DYNPLANE_dynplane ": func(c *jetstream.StreamConfig) {
			c.Sources = []*jetstream.StreamSource{{Name: c.Sources[0].Name}}
		},
	}
	maps.Copy(write, both)
	maps.Copy(read, both)
	check := func(changes map[string]change, config jetstream.StreamConfig, of func(jetstream.StreamConfig) error) {
		for what, change := range changes {
			c := config
			change(&c)
			err := of(c)
			if !errors.Is(err, ErrBucket) {
				t.Errorf("%s: got %v, want ErrBucket", what, err)
				continue
			}
			for _, part := range []string{strings.TrimSpace(what), s.nc.ConnectedServerVersion(), `"dynplane"`, c.Name} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%s: %v does not name %q", what, err, part)
				}
			}
		}
	}
	check(write, s.opt.writeConfig(7), s.checkWriteStream)
	check(read, s.opt.readConfig(7), s.checkReadStream)
	config := s.opt.writeConfig(7)
	config.Replicas, s.opt.TTL = 3, 5*time.Second
	if err := s.checkWriteStream(config); !errors.Is(err, ErrBucket) || !strings.Contains(err.Error(), "TTL 5s with 3 replicas: want at least 10s") {
		t.Errorf("a short TTL with replicas: %v", err)
	}
}

func TestCompareVersions(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]bool{
		"2.14.0": true, "2.14.0-RC.1": true, "2.15.2": true, "3.0.0": true, "2.100.1": true,
		"2.13.9": false, "2.9.25": false, "1.99.0": false, "2": false, "dev": false,
	} {
		if got := compareVersions(version, minServer) >= 0; got != want {
			t.Errorf("%s is new enough: %v", version, got)
		}
	}
}

// TestOwnersThatReplaceABucketAtOnce: one that has found a stale bucket does not delete
// the new one of another owner.
func TestOwnersThatReplaceABucketAtOnce(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	s := openStore(t, server.Connect(t), Options{TTL: time.Hour})
	late := openStore(t, server.Connect(t), Options{TTL: time.Hour})
	registerOne(t, s)
	if err := s.js.DeleteStream(t.Context(), s.opt.writeStream()); err != nil {
		t.Fatal(err)
	}
	if err := s.ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	replaced, err := s.info(t.Context(), s.opt.readStream())
	if err != nil {
		t.Fatal(err)
	}
	want := s.opt.readConfig(s.firstSequence())
	if isStale(replaced, want) {
		t.Fatal("the bucket is that of the deleted write stream")
	}
	if _, err := late.replaceBucket(t.Context(), want); !errors.Is(err, errContended) {
		t.Errorf("replacing it during the claim of another owner: %v", err)
	}
	waittest.Eventually(t, "the claim has expired", func() bool {
		_, err := late.replaceBucket(t.Context(), want)
		return err == nil
	})
	if info, err := s.info(t.Context(), s.opt.readStream()); err != nil || !info.Created.Equal(replaced.Created) {
		t.Errorf("the new bucket was replaced again: %v", err)
	}
}

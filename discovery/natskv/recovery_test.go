package natskv

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/dynplane/dynplane/discovery"
	"github.com/dynplane/dynplane/integration/natstest"
)

func TestRecover(t *testing.T) {
	t.Parallel()
	server := natstest.Run(t)
	for _, c := range []struct {
		name  string
		fault func(*testing.T, *Store, *lease)
		again bool // it has to be written again
		ended error
		there bool // in the end
	}{
		{"nothing is wrong", func(*testing.T, *Store, *lease) {}, false, nil, true},
		{"an acknowledgement was lost", func(t *testing.T, _ *Store, l *lease) {
			t.Helper()
			if _, err := l.write(t.Context(), t.Context(), nil, l.store.opt.TTL); err != nil {
				t.Error(err)
			}
		}, false, nil, true},
		{"purged", func(t *testing.T, s *Store, l *lease) {
			t.Helper()
			writeEntry(t, s, l.key, "PURGE", "")
		}, true, nil, true},
		{"deleted", func(t *testing.T, s *Store, l *lease) {
			t.Helper()
			writeEntry(t, s, l.key, "DEL", "")
		}, true, nil, true},
		{"overwritten by another client", func(t *testing.T, s *Store, l *lease) {
			t.Helper()
			writeEntry(t, s, l.key, "", "junk")
		}, true, nil, true},
		{"overwritten by a message with an unknown operation", func(t *testing.T, s *Store, l *lease) {
			t.Helper()
			writeEntry(t, s, l.key, "PUT", "")
		}, true, nil, true},
		{"the bucket was deleted", func(t *testing.T, s *Store, _ *lease) {
			t.Helper()
			for _, stream := range []string{s.opt.readStream(), s.opt.writeStream()} {
				if err := s.js.DeleteStream(t.Context(), stream); err != nil {
					t.Error(err)
				}
			}
			if err := s.ensure(t.Context()); err != nil {
				t.Error(err)
			}
		}, true, nil, true},
		{"taken over by another owner", func(t *testing.T, s *Store, _ *lease) {
			t.Helper()
			registerOne(t, openStore(t, s.nc, s.opt))
		}, false, discovery.ErrTakenOver, true},
		{"registered again by the same client", func(t *testing.T, s *Store, _ *lease) {
			t.Helper()
			registerOne(t, s)
		}, false, discovery.ErrTakenOver, true},
		{"unregistered", func(t *testing.T, _ *Store, l *lease) {
			t.Helper()
			if err := l.Unregister(t.Context()); err != nil {
				t.Error(err)
			}
		}, false, discovery.ErrClosed, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			bucket := strings.ReplaceAll(c.name, " ", "-")
			s := openStore(t, server.Connect(t), Options{Bucket: bucket, TTL: time.Hour, Memory: true})
			l := registerOne(t, s)
			c.fault(t, s, l)
			again, err := l.recover(t.Context())
			if err != nil || again != c.again {
				t.Fatalf("written again: %v, %v; want %v", again, err, c.again)
			}
			if owner, there := present(t, s, l); there != c.there || there && (owner == l.owner) != (c.ended == nil) {
				t.Errorf("the entry is there: %v, and ours: %v", there, owner == l.owner)
			}
			if l.Ended() != (c.ended != nil) {
				t.Errorf("the lease has ended: %v", l.Ended())
			}
			if c.ended != nil {
				if err := l.Wait(t.Context()); !errors.Is(err, c.ended) {
					t.Errorf("the lease has ended with %v, want %v", err, c.ended)
				}
			}
			if c.ended != nil {
				return
			}
			if err := beat(t, s, l); err != nil {
				t.Errorf("the next heartbeat: %v", err)
			}
			l.setSequence(1, l.value) // as if the acknowledgement of the last write had been lost
			if err := l.Unregister(t.Context()); err != nil {
				t.Error(err)
			}
			if _, there := present(t, s, l); there {
				t.Error("the entry is there after it was given back")
			}
		})
	}
}

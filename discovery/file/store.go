package file

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"

	"github.com/dynplane/dynplane/discovery"
)

// Store is the discovery.Store on files. It is safe for concurrent use.
type Store struct {
	opt   Options
	log   *slog.Logger
	pulse pulse

	closed   chan struct{}
	shutdown sync.Once
	deaf     sync.Once // that the kernel tells us nothing is said once

	mu      sync.Mutex
	leases  map[string]*lease   // by path
	dirs    map[string]struct{} // in use: where the keeper removes what expired
	stop    context.CancelFunc  // of the keeper; nil until the first use
	stopped chan struct{}
}

// New makes a store. It touches no file before the first use. The error wraps
// errors.ErrUnsupported on systems other than Linux and macOS.
func New(o Options) (*Store, error) {
	if !supported {
		return nil, fmt.Errorf("file: want Linux or macOS, whose directories can be locked: %w", errors.ErrUnsupported)
	}
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("file: %w", err)
	}
	s := &Store{
		opt: o, log: o.Logger,
		closed: make(chan struct{}),
		leases: map[string]*lease{}, dirs: map[string]struct{}{},
	}
	s.pulse = pulse{patience: s.interval() + o.TTL/3, calmAfter: o.TTL}
	return s, nil
}

// dir returns the directory of a kind, or "" if there is no such kind: nothing
// is ever found there.
func (s *Store) dir(kind discovery.Kind) string {
	bucket, err := discovery.DynamoBucket(kind)
	if err != nil {
		return ""
	}
	return filepath.Join(s.opt.Root, filepath.FromSlash(bucket))
}

// use notes a directory for the keeper, which it starts at the first one.
func (s *Store) use(dir string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosed() {
		return discovery.ErrClosed
	}
	s.dirs[dir] = struct{}{}
	if s.stop == nil {
		ctx, cancel := context.WithCancel(context.Background())
		s.stop, s.stopped = cancel, make(chan struct{})
		go s.keepAlive(ctx)
	}
	return nil
}

func (s *Store) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// Shutdown implements discovery.Store. It waits at most a second or so for a
// lock that another process does not let go; what it could not remove then goes
// when it expires, and the error says so.
func (s *Store) Shutdown(ctx context.Context) (err error) {
	s.shutdown.Do(func() { err = s.shutDown(ctx) })
	return err
}

func (s *Store) shutDown(ctx context.Context) error {
	s.mu.Lock()
	close(s.closed)
	stop := s.stop
	s.mu.Unlock()
	if stop != nil {
		stop()
		<-s.stopped
	}
	s.mu.Lock()
	leases := slices.Collect(maps.Values(s.leases))
	s.mu.Unlock()
	// After one wait for a lock in vain, the others are tried once each.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed, last := 0, error(nil)
	for _, l := range leases {
		if err := l.Unregister(ctx); err != nil {
			failed, last = failed+1, err
			cancel()
		}
	}
	if failed == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d registrations stay until they expire, within %v: %w", failed, len(leases), s.opt.TTL, last)
}

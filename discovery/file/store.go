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

// Store implements [discovery.Store] on files. It is safe for concurrent use.
type Store struct {
	opt   Options
	log   *slog.Logger
	clock clockMonitor

	closed       chan struct{}
	shutdown     sync.Once
	warnNoEvents sync.Once // the kernel's limit on watches is logged once

	mu      sync.Mutex
	leases  map[string]*lease   // by path
	dirs    map[string]struct{} // with registrations of this store; the keep-alive removes expired files there
	stop    context.CancelFunc  // of the keep-alive; nil until the first use
	stopped chan struct{}
}

// New returns a store. It does not access the file system before the store is
// used. On systems other than Linux and macOS the error wraps
// errors.ErrUnsupported.
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
	s.clock = clockMonitor{maxPause: s.heartbeatInterval() + o.TTL/3, distrust: o.TTL}
	return s, nil
}

// dir returns the directory of a kind, or "" for an unknown kind, in which no
// file is ever found.
func (s *Store) dir(kind discovery.Kind) string {
	bucket, err := discovery.DynamoBucket(kind)
	if err != nil {
		return ""
	}
	return filepath.Join(s.opt.Root, filepath.FromSlash(bucket))
}

// start starts the keep-alive unless it runs, and adds to its directories the
// one of a registration. dir is empty for a watch: a store that only reads must
// not remove files, since a worker of Dynamo that was paused for longer than its
// TTL never writes its file again.
func (s *Store) start(dir string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosed() {
		return discovery.ErrClosed
	}
	if dir != "" {
		s.dirs[dir] = struct{}{}
	}
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

// Shutdown implements discovery.Store. It waits about a second for a directory
// that another process keeps locked. Files that it cannot remove stay until
// they expire, and the error counts them.
func (s *Store) Shutdown(ctx context.Context) (err error) {
	s.shutdown.Do(func() { err = s.shutdownOnce(ctx) })
	return err
}

// shutdownOnce stops the keep-alive first, so that a file that is being removed is
// not written again.
func (s *Store) shutdownOnce(ctx context.Context) error {
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
	// After the first failure, such as a directory that stays locked, each of
	// the others is tried once without waiting.
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

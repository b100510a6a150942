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
	"github.com/dynplane/dynplane/internal/wait"
)

// Store implements [discovery.Store] on files. It is safe for concurrent use.
type Store struct {
	opt   Options
	log   *slog.Logger
	clock clockMonitor

	life         context.Context // until a Shutdown begins
	endLife      context.CancelFunc
	running      sync.WaitGroup // the keep-alive
	calls        sync.WaitGroup // that write; none begins after a Shutdown has
	removing     chan struct{}  // of capacity one; held by the Shutdown that removes the files
	finished     bool           // a Shutdown has succeeded; guarded by removing
	warnNoEvents sync.Once      // the kernel's limit on watches is logged once

	mu      sync.Mutex
	leases  map[string]*lease   // by path
	leaving map[*lease]struct{} // that have ended, and whose files must be removed
	dirs    map[string]struct{} // with registrations of this store; the keep-alive removes expired files there
	started bool                // the keep-alive
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
		opt: o, log: o.Logger, removing: make(chan struct{}, 1),
		leases: map[string]*lease{}, leaving: map[*lease]struct{}{}, dirs: map[string]struct{}{},
	}
	s.life, s.endLife = context.WithCancel(context.Background())
	s.clock = clockMonitor{maxPause: s.heartbeatInterval() + o.TTL/3, distrust: o.TTL}
	return s, nil
}

// dir returns the directory of a kind.
func (s *Store) dir(kind discovery.Kind) (string, error) {
	bucket, err := discovery.DynamoBucket(kind)
	if err != nil {
		return "", err
	}
	return filepath.Join(s.opt.Root, filepath.FromSlash(bucket)), nil
}

// pathOf returns the file of an id, and the one under its key in the other
// generation of Dynamo, or "" if there is none.
func (s *Store) pathOf(id discovery.ID) (path, other string, err error) {
	dir, err := s.dir(id.Kind)
	if err != nil {
		return "", "", err
	}
	wires := []discovery.WireFormat{s.opt.Wire, discovery.WireGen1, discovery.WireGen2}
	for i, wire := range wires {
		var name string
		key, err := discovery.DynamoKey(id, wire)
		if err == nil {
			name, err = encodeKey(key)
		}
		switch full := filepath.Join(dir, name); {
		case i == 0 && err != nil:
			return "", "", fmt.Errorf("%w: %w", discovery.ErrUnstorable, err)
		case i == 0:
			path = full
		case err == nil && full != path:
			other = full
		}
	}
	return path, other, nil
}

// Get implements discovery.Store. If the id has files of both generations, it
// returns the value of the one that this store would write.
func (s *Store) Get(ctx context.Context, id discovery.ID) ([]byte, error) {
	if s.isClosed() {
		return nil, discovery.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	path, other, err := s.pathOf(id)
	if err != nil {
		return nil, err
	}
	for _, path := range []string{path, other} {
		if path == "" || !s.present(path) {
			continue
		}
		value, err := read(path)
		if ignoreNotExist(err) != nil {
			return nil, err
		}
		if err == nil {
			return value, nil
		}
	}
	return nil, fmt.Errorf("file %s: %w", path, discovery.ErrNotFound)
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
	if !s.started {
		s.started = true
		s.running.Go(func() { s.keepAlive(s.life) })
	}
	return nil
}

// call begins a call that writes, which a Shutdown waits for, and returns a
// context for it that ends with ctx, and when a Shutdown begins.
func (s *Store) call(ctx context.Context) (_ context.Context, done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosed() {
		return nil, nil, discovery.ErrClosed
	}
	s.calls.Add(1)
	ctx, cancel := wait.Until(ctx, s.life)
	return ctx, func() { cancel(); s.calls.Done() }, nil
}

// closedOr returns ErrClosed for the error of a call that a Shutdown has ended.
func (s *Store) closedOr(err error) error {
	if err != nil && s.isClosed() {
		return discovery.ErrClosed
	}
	return err
}

// isClosed reports whether a Shutdown has begun.
func (s *Store) isClosed() bool { return s.life.Err() != nil }

// Shutdown implements discovery.Store. It waits a few seconds for a directory that
// another process keeps locked. Files that it cannot remove stay until they
// expire, or a later call removes them, and the error counts them.
func (s *Store) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.endLife() // under the lock, so that no call begins afterwards
	s.mu.Unlock()
	select {
	case s.removing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.removing }()
	if s.finished {
		return nil
	}
	s.running.Wait() // so that a file that is being removed is not written again
	s.calls.Wait()
	s.mu.Lock()
	for _, l := range s.leases {
		l.leave(discovery.ErrClosed)
	}
	leaving := slices.Collect(maps.Keys(s.leaving))
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, s.opt.TTL)
	defer cancel()
	if failed, err := s.removeLeaving(ctx, leaving); failed > 0 {
		return fmt.Errorf("%d of %d registrations stay until they expire, within %v: %w", failed, len(leaving), s.opt.TTL, err)
	}
	s.finished = true
	return nil
}

// removeLeaving removes files. After the first failure, such as a directory that
// stays locked, each of the others is tried once without waiting.
func (s *Store) removeLeaving(ctx context.Context, leaving []*lease) (failed int, failure error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, l := range leaving {
		if err := l.remove(ctx); err != nil {
			failed++
			if failure == nil {
				failure = err
			}
			cancel()
		}
	}
	return failed, failure
}

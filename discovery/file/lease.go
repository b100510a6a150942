package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/dynplane/dynplane/discovery"
)

// lease is a file that this store wrote. The store keeps it open: until it is
// closed, its inode is not reused, so the file under its name is the same one
// if and only if both have the same inode.
type lease struct {
	*discovery.LeaseState
	store     *Store
	dir, name string
	value     []byte

	mu   sync.Mutex // held by one operation on the file at a time
	file *os.File
}

func (l *lease) path() string { return filepath.Join(l.dir, l.name) }

// Register implements discovery.Store. An existing file of the same id is
// replaced, which is how Dynamo changes a value.
func (s *Store) Register(ctx context.Context, id discovery.ID, value []byte, _ discovery.RegisterOptions) (discovery.Lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	key, err := discovery.DynamoKey(id, s.opt.Wire)
	if err != nil {
		return nil, err
	}
	name, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	if len(value) > maxValue {
		return nil, fmt.Errorf("value of %d bytes: want at most %d", len(value), maxValue)
	}
	l := &lease{store: s, dir: s.dir(id.Kind), name: name, value: value, LeaseState: discovery.NewLeaseState(time.Now())}
	if err := s.start(l.dir); err != nil {
		return nil, err
	}
	if l.file, err = publish(ctx, l.dir, name, value, true); err != nil {
		return nil, err
	}
	former, err := s.keep(l)
	if err != nil {
		err = errors.Join(err, l.remove(ctx))
		l.file.Close()
		return nil, err
	}
	if former != nil {
		former.takenOver()
	}
	return l, nil
}

// keep hands a lease to the keep-alive and returns the lease that it replaces,
// or nil.
func (s *Store) keep(l *lease) (former *lease, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosed() {
		return nil, discovery.ErrClosed
	}
	former = s.leases[l.path()]
	s.leases[l.path()] = l
	return former, nil
}

// forget takes a lease from the keep-alive.
func (s *Store) forget(l *lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leases[l.path()] == l {
		delete(s.leases, l.path())
	}
}

// Unregister implements discovery.Lease. The lease ends even if the file cannot
// be removed.
func (l *lease) Unregister(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Ended() {
		return nil
	}
	defer l.end(discovery.ErrClosed)
	if err := l.remove(ctx); err != nil {
		return fmt.Errorf("%w; the file stays until it expires, within %v", err, l.store.opt.TTL)
	}
	return nil
}

func (l *lease) takenOver() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end(discovery.ErrTakenOver)
}

// end requires l.mu.
func (l *lease) end(err error) {
	if l.Ended() {
		return
	}
	l.End(err)
	l.file.Close()
	l.store.forget(l)
}

// remove removes the file unless another process has replaced it. It requires
// l.mu, or that no other goroutine can reach the lease yet.
func (l *lease) remove(ctx context.Context) error {
	unlock, err := lock(ctx, l.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the directory was removed, and the file with it
	}
	if err != nil {
		return err
	}
	defer unlock()
	if ours, err := l.isOurs(); err != nil || !ours {
		return ignoreNotExist(err)
	}
	return ignoreNotExist(os.Remove(l.path()))
}

// isOurs reports whether the file under the lease's name is the one that the
// store wrote, with its content unchanged. The error wraps fs.ErrNotExist if
// there is no file. isOurs requires l.mu.
func (l *lease) isOurs() (bool, error) {
	found, err := os.Lstat(l.path())
	if err != nil {
		return false, err
	}
	ours, err := l.file.Stat()
	if err != nil {
		return false, err
	}
	if !os.SameFile(found, ours) || ours.Size() != int64(len(l.value)) {
		return false, nil
	}
	content := make([]byte, len(l.value))
	if _, err := l.file.ReadAt(content, 0); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return string(content) == string(l.value), nil
}

// heartbeat touches the file. If the file is missing, heartbeat writes it again
// and reports so; if another process has replaced it, the lease ends.
func (l *lease) heartbeat(ctx context.Context) (rewritten bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Ended() {
		return false, nil
	}
	ours, err := l.isOurs()
	if ours {
		err = os.Chtimes(l.path(), time.Time{}, time.Now())
	}
	if errors.Is(err, fs.ErrNotExist) {
		file, perr := publish(ctx, l.dir, l.name, l.value, false)
		if perr == nil {
			l.file.Close()
			l.file = file
			return true, nil
		}
		if err = perr; errors.Is(err, fs.ErrExist) { // another process was faster
			ours, err = false, nil
		}
	}
	if err != nil {
		return false, fmt.Errorf("heartbeat of %s: %w", l.path(), err)
	}
	if !ours {
		l.store.log.Warn("file: another owner took over a registration; it is no longer kept alive here", "path", l.path())
		l.end(discovery.ErrTakenOver)
	}
	return false, nil
}

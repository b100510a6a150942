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
	"syscall"
	"time"

	"github.com/dynplane/dynplane/discovery"
)

// lease is a file that this store wrote. The store keeps it open: until it is
// closed, its inode is not reused, so the file under its name is the same one
// if and only if both have the same inode.
type lease struct {
	*discovery.LeaseState
	store *Store
	path  string

	// mu is held while the file is examined, touched, replaced or removed, and
	// not while the directory's lock is awaited.
	mu      sync.Mutex
	value   []byte
	file    *os.File
	beat    time.Time // the last heartbeat or write
	refused time.Time // since when the file cannot be touched or written, whatever is retried; zero if it can
	removed bool      // the file does not exist any more, or is another owner's
}

func (l *lease) dir() string { return filepath.Dir(l.path) }

// Register implements discovery.Store. An existing file of the same id is
// replaced, which is how Dynamo changes a value. Waiting for the lock of the
// directory ends with ctx; once the file has been written, Register succeeds.
func (s *Store) Register(ctx context.Context, id discovery.ID, value []byte, o discovery.RegisterOptions) (discovery.Lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	path, other, err := s.pathOf(id)
	if err == nil {
		err = checkValue(value)
	}
	if err != nil {
		return nil, err
	}
	ctx, done, err := s.call(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	now := time.Now()
	l := &lease{store: s, path: path, value: value, beat: now, LeaseState: discovery.NewLeaseState(now)}
	if err := s.start(l.dir()); err != nil {
		return nil, err
	}
	var former *lease
	err = publish(ctx, path, value, func(temp *os.File) error {
		if o.IfAbsent && (s.lease(path) != nil || other != "" && s.present(other)) {
			return discovery.ErrExists
		}
		err := os.Link(temp.Name(), path)
		if errors.Is(err, fs.ErrExist) {
			if o.IfAbsent && s.present(path) {
				return discovery.ErrExists
			}
			err = os.Rename(temp.Name(), path)
		}
		if err != nil {
			return err
		}
		// While the directory is locked, so that of several registrations the one
		// that is kept is the last one written.
		l.file = temp
		former = s.keep(l)
		return nil
	})
	if err != nil {
		return nil, s.closedOr(err)
	}
	if former != nil {
		former.takenOver()
	}
	return l, nil
}

func checkValue(value []byte) error {
	if len(value) > maxValue {
		return fmt.Errorf("%w: value of %d bytes: want at most %d", discovery.ErrUnstorable, len(value), maxValue)
	}
	return nil
}

// lease returns the registration of a path, or nil.
func (s *Store) lease(path string) *lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leases[path]
}

// keep hands a lease to the keep-alive and returns the lease that it replaces,
// or nil.
func (s *Store) keep(l *lease) (former *lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	former = s.leases[l.path]
	s.leases[l.path] = l
	return former
}

// Update implements discovery.Lease. It replaces the file by a rename.
func (l *lease) Update(ctx context.Context, value []byte) error {
	if err := checkValue(value); err != nil {
		return err
	}
	ctx, done, err := l.store.call(ctx)
	if err != nil {
		return err
	}
	defer done()
	return l.store.closedOr(l.write(ctx, value))
}

// write replaces the file of the lease, or creates it if it is missing. If another
// process has written it, or the lease has ended, the error is the cause.
func (l *lease) write(ctx context.Context, value []byte) error {
	err := publish(ctx, l.path, value, func(temp *os.File) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.Ended() {
			return l.Wait(context.Background())
		}
		ours, err := l.isOurs()
		switch {
		case errors.Is(err, fs.ErrNotExist):
			err = os.Link(temp.Name(), l.path)
			if errors.Is(err, fs.ErrExist) { // another process does not lock the directory
				err = l.endTakenOver()
			}
		case err == nil && ours:
			err = os.Rename(temp.Name(), l.path)
		case err == nil:
			err = l.endTakenOver()
		}
		if err != nil {
			return err
		}
		l.file.Close()
		l.file, l.value = temp, value
		l.acknowledge(time.Now())
		return nil
	})
	return err
}

// acknowledge records a heartbeat or a write. It requires l.mu.
func (l *lease) acknowledge(at time.Time) {
	l.beat, l.refused = at, time.Time{}
	l.Beat(at)
}

// Unregister implements discovery.Lease. The lease ends at once. After a failure
// the keep-alive removes the file as soon as it can.
func (l *lease) Unregister(ctx context.Context) error {
	s := l.store
	if l.isRemoved() {
		return nil
	}
	removing, done, err := s.call(ctx)
	if err != nil {
		return s.Shutdown(ctx) // which removes all files
	}
	s.mu.Lock()
	l.leave(discovery.ErrClosed)
	s.mu.Unlock()
	err = l.remove(removing)
	done()
	if err != nil && s.isClosed() {
		return s.Shutdown(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w; the file stays until it expires, within %v, or can be removed", err, s.opt.TTL)
	}
	return nil
}

func (l *lease) isRemoved() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.removed
}

// leave ends the lease, whose file must be removed. It requires store.mu.
func (l *lease) leave(cause error) {
	l.End(cause)
	if l.store.leases[l.path] == l {
		delete(l.store.leases, l.path)
	}
	l.store.leaving[l] = struct{}{}
}

// takenOver ends the lease, because this store has replaced its file.
func (l *lease) takenOver() {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.finish(discovery.ErrTakenOver)
}

// endTakenOver ends the lease, because another process has written its file. It
// returns the cause and requires l.mu.
func (l *lease) endTakenOver() error {
	l.store.log.Warn("file: another owner took over a registration; it is no longer kept alive here", "path", l.path)
	return l.finish(discovery.ErrTakenOver)
}

// finish ends the lease, whose file is gone or another owner's, and returns the
// cause. It requires l.mu.
func (l *lease) finish(cause error) error {
	l.End(cause)
	if !l.removed {
		l.removed = true
		l.file.Close()
	}
	s := l.store
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.leaving, l)
	if s.leases[l.path] == l {
		delete(s.leases, l.path)
	}
	return cause
}

// remove removes the file of a lease that has ended, unless another process has
// replaced it.
func (l *lease) remove(ctx context.Context) error {
	unlock, err := lock(ctx, l.dir(), exclusive)
	switch {
	case err == nil:
		defer unlock()
	case ignoreNotExist(err) != nil && !errors.Is(err, syscall.ENOTDIR):
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.removed {
		_ = l.finish(discovery.ErrClosed)
		return nil
	}
	ours, err := l.isOurs()
	if err == nil && ours {
		err = os.Remove(l.path)
	}
	if ignoreNotExist(err) != nil && !errors.Is(err, syscall.ENOTDIR) { // something else is in the place of the directory
		return err
	}
	_ = l.finish(discovery.ErrClosed)
	return nil
}

// isOurs reports whether the file under the lease's name is the one that the
// store wrote, with its content unchanged. The error wraps fs.ErrNotExist if
// there is no file. isOurs requires l.mu.
func (l *lease) isOurs() (bool, error) {
	found, err := os.Lstat(l.path)
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

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

// lease is a file that we wrote. We keep it open: as long as we do, its inode
// is given to no other file, so that the file under our name is ours if and
// only if it is the same one and holds what we wrote.
type lease struct {
	*discovery.LeaseEnd
	store     *Store
	dir, name string
	value     []byte

	mu   sync.Mutex // one does something to the file at a time
	file *os.File
}

func (l *lease) path() string { return filepath.Join(l.dir, l.name) }

// Register implements discovery.Store. What is there already under the same id
// is replaced, which is the runtime's way to change a value.
func (s *Store) Register(ctx context.Context, id discovery.ID, value []byte) (discovery.Lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	key, err := discovery.DynamoKey(id)
	if err != nil {
		return nil, err
	}
	name, err := encodeName(key)
	if err != nil {
		return nil, err
	}
	if len(value) > maxValue {
		return nil, fmt.Errorf("value of %d bytes: want at most %d", len(value), maxValue)
	}
	l := &lease{store: s, dir: s.dir(id.Kind), name: name, value: value, LeaseEnd: discovery.NewLeaseEnd()}
	if err := s.use(l.dir); err != nil {
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

// keep hands a lease to the keeper and returns the one whose place it took.
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

func (s *Store) forget(l *lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leases[l.path()] == l {
		delete(s.leases, l.path())
	}
}

// Unregister implements discovery.Lease. The lease has ended even if the file
// could not be removed.
func (l *lease) Unregister(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Ended() {
		return nil
	}
	defer l.end(discovery.ErrClosed)
	if err := l.remove(ctx); err != nil {
		return fmt.Errorf("%w; the file goes when it expires, within %v", err, l.store.opt.TTL)
	}
	return nil
}

func (l *lease) takenOver() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end(discovery.ErrTakenOver)
}

// end and those below are called with mu held.
func (l *lease) end(err error) {
	if l.Ended() {
		return
	}
	l.End(err)
	l.file.Close()
	l.store.forget(l)
}

// remove removes the file if it is ours.
func (l *lease) remove(ctx context.Context) error {
	unlock, err := lock(ctx, l.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the file went with its directory
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

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// isOurs looks whether the file under our name is the one that we wrote. The
// error wraps fs.ErrNotExist if there is none.
func (l *lease) isOurs() (bool, error) {
	there, err := os.Lstat(l.path())
	if err != nil {
		return false, err
	}
	ours, err := l.file.Stat()
	if err != nil {
		return false, err
	}
	if !os.SameFile(there, ours) || ours.Size() != int64(len(l.value)) {
		return false, nil
	}
	content := make([]byte, len(l.value))
	if _, err := l.file.ReadAt(content, 0); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return string(content) == string(l.value), nil
}

// beat touches the file. If it is gone it registers it again, and says so; if
// it is another's it gives up.
func (l *lease) beat(ctx context.Context) (again bool, err error) {
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
		if err = perr; errors.Is(err, fs.ErrExist) { // somebody was quicker
			ours, err = false, nil
		}
	}
	if err != nil {
		return false, fmt.Errorf("heartbeat of %s: %w", l.path(), err)
	}
	if !ours {
		l.store.log.Warn("discovery: somebody else wrote the file of a registration; it is not kept alive here any more", "path", l.path())
		l.end(discovery.ErrTakenOver)
	}
	return false, nil
}

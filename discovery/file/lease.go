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

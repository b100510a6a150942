package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// heartbeat touches the file, and reports whether it is missing. If another
// process has written it, the lease ends.
func (l *lease) heartbeat() (missing bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Ended() {
		return false, nil
	}
	now := time.Now()
	ours, err := l.isOurs()
	switch {
	case err == nil && !ours:
		_ = l.endTakenOver()
		return false, nil
	case err == nil:
		err = os.Chtimes(l.path, time.Time{}, now)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, l.failed(fmt.Errorf("heartbeat of %s: %w", l.path, err))
	}
	l.acknowledge(now)
	return false, nil
}

var errLost = errors.New("the file is lost; it is being written again")

// rewrite writes the file again after it was lost.
func (l *lease) rewrite(ctx context.Context) (rewritten bool, err error) {
	l.mu.Lock()
	value := l.value
	l.mu.Unlock()
	l.Lose(errLost)
	err = l.write(ctx, value)
	if err == nil || l.Ended() {
		return err == nil, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return false, l.failed(fmt.Errorf("register %s again: %w", l.path, err))
}

// failed records that the file could not be touched or written, and returns the
// error. A lease that can never be prolonged again ends. It requires l.mu.
func (l *lease) failed(err error) error {
	ttl := l.store.opt.TTL
	if time.Since(l.beat) > ttl {
		l.Lose(err)
	}
	if !isRefusal(err) {
		return err
	}
	if l.refused.IsZero() {
		l.refused = time.Now()
	}
	// The owner learns of it within a TTL, but permissions may be changed in
	// several steps.
	if time.Since(l.refused) >= ttl/2 {
		l.store.mu.Lock()
		defer l.store.mu.Unlock()
		l.leave(err)
	}
	return err
}

// isRefusal reports whether an operation fails until the permissions are
// changed, or what is in the place of a directory.
func isRefusal(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) ||
		errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP)
}

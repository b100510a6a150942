package file

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// ErrLocked is wrapped by the error of an operation whose directory another
// process kept locked for a second.
var ErrLocked = errors.New("the directory is locked by another process")

const (
	// lockTries and lockWait are those of the runtime.
	lockTries = 100
	lockWait  = 10 * time.Millisecond
)

// lock locks a directory as all who write or list in it do. It tries at least
// once, even if ctx is done.
func lock(ctx context.Context, dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	timer := time.NewTimer(lockWait)
	defer timer.Stop()
	for range lockTries {
		locked, err := tryLock(d)
		if locked {
			return func() { d.Close() }, nil
		}
		if err != nil {
			d.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		select {
		case <-timer.C:
			timer.Reset(lockWait)
		case <-ctx.Done():
			d.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, ctx.Err())
		}
	}
	d.Close()
	return nil, fmt.Errorf("lock %s: %w for %v", dir, ErrLocked, lockTries*lockWait)
}

package file

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/dynplane/dynplane/internal/wait"
)

// ErrLocked is wrapped by the error of an operation whose directory another
// process kept locked for a second.
var ErrLocked = errors.New("the directory is locked by another process")

// The number of attempts to lock a directory and the pause between them are
// Dynamo's.
const (
	lockAttempts = 100
	lockPause    = 10 * time.Millisecond
)

// lock locks a directory, as must every process that writes or lists there. It
// makes at least one attempt, even if ctx is done.
func lock(ctx context.Context, dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for range lockAttempts {
		locked, err := tryLock(d)
		if locked {
			return func() { d.Close() }, nil
		}
		if err == nil {
			err = wait.Sleep(ctx, lockPause)
		}
		if err != nil {
			d.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
	}
	d.Close()
	return nil, fmt.Errorf("lock %s: %w for %v", dir, ErrLocked, lockAttempts*lockPause)
}

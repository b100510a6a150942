package file

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/dynplane/dynplane/internal/wait"
)

// ErrLocked is wrapped by the error of an operation whose directory other
// processes kept locked for 5 s, or until its context was done.
var ErrLocked = errors.New("the directory is locked by another process")

// lockTimeout is longer than many processes need for one operation each.
const lockTimeout = 5 * time.Second

// lockMode is the kind of a lock. Dynamo locks exclusively for all purposes; lists
// of this package exclude only writers, so that many of them do not wait for each
// other.
type lockMode bool

const (
	exclusive lockMode = true
	shared    lockMode = false
)

// lock locks a directory, as must every process that writes or lists there. It
// makes at least one attempt, even if ctx is done.
func lock(ctx context.Context, dir string, mode lockMode) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	timeout, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	backoff := wait.Backoff{Min: 2 * time.Millisecond, Max: 20 * time.Millisecond}
	for {
		locked, err := tryLock(d, mode)
		if locked {
			return func() { d.Close() }, nil
		}
		if err == nil && wait.Sleep(timeout, backoff.Next()) != nil {
			err = ErrLocked
			if ctx.Err() != nil {
				err = fmt.Errorf("%w (%w)", ErrLocked, ctx.Err())
			}
		}
		if err != nil {
			d.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
	}
}

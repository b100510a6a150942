//go:build linux || darwin

package file

import (
	"errors"
	"os"
	"syscall"
)

const supported = true

// openFlags: a link or a pipe in the place of a file is not followed, and does
// not block.
const openFlags = os.O_RDONLY | syscall.O_NOFOLLOW | syscall.O_NONBLOCK

// tryLock locks d until it is closed, unless somebody else has it locked.
func tryLock(d *os.File) (bool, error) {
	err := syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR) {
		return false, nil
	}
	return err == nil, err
}

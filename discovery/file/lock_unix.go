//go:build linux || darwin

package file

import (
	"errors"
	"os"
	"syscall"
)

const supported = true

// openFlags neither follow a link in the place of a file nor block on a pipe.
const openFlags = os.O_RDONLY | syscall.O_NOFOLLOW | syscall.O_NONBLOCK

// tryLock locks d until d is closed. It reports whether it did: false means that
// another process holds the lock.
func tryLock(d *os.File, mode lockMode) (bool, error) {
	how := syscall.LOCK_SH
	if mode == exclusive {
		how = syscall.LOCK_EX
	}
	err := syscall.Flock(int(d.Fd()), how|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR) {
		return false, nil
	}
	return err == nil, err
}

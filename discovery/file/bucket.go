package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// ErrLocked is wrapped by the error of an operation whose directory another
// process kept locked for a second.
var ErrLocked = errors.New("the directory is locked by another process")

const (
	// lockTries and lockWait are those of the runtime.
	lockTries = 100
	lockWait  = 10 * time.Millisecond

	// maxName is what file systems take.
	maxName = 255

	// maxValue bounds what is read of a foreign file.
	maxValue = 16 << 20

	tempPrefix = ".tmp_"
)

const upperHex = "0123456789ABCDEF"

// encodeName writes a key as a file name: all but ASCII letters and digits
// become %XX, the escapes of the key itself too.
func encodeName(key string) (string, error) {
	var b strings.Builder
	for i := range len(key) {
		c := key[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', upperHex[c>>4], upperHex[c&15]})
		}
	}
	if b.Len() > maxName {
		return "", fmt.Errorf("key %.60q… makes a file name of %d bytes: want at most %d: shorten the names", key, b.Len(), maxName)
	}
	return b.String(), nil
}

// decodeName undoes encodeName. Like the runtime it does not mind bytes that
// need no escape and have one, or that need one and have none.
func decodeName(name string) (string, error) { return url.PathUnescape(name) }

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

// publish makes a file appear under name, whole and at once, and makes its
// directory if need be. Unless it may replace, the error wraps fs.ErrExist if
// there is one. It returns the file, open for reading.
func publish(ctx context.Context, dir, name string, value []byte, replace bool) (*os.File, error) {
	for try := 0; ; try++ {
		if err := os.MkdirAll(dir, 0o777); err != nil { // less the umask, like the runtime
			return nil, err
		}
		f, err := publishIn(ctx, dir, name, value, replace)
		// Somebody may remove the directory just now, but not for ever.
		if try == 2 || !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
	}
}

func publishIn(ctx context.Context, dir, name string, value []byte, replace bool) (_ *os.File, err error) {
	temp, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("%s%016x", tempPrefix, rand.Uint64())), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, err
	}
	defer func() {
		os.Remove(temp.Name()) // not there any more if it was renamed
		if err != nil {
			temp.Close()
		}
	}()
	if _, err := temp.Write(value); err != nil {
		return nil, err
	}
	unlock, err := lock(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	path := filepath.Join(dir, name)
	err = os.Link(temp.Name(), path)
	if replace && errors.Is(err, fs.ErrExist) {
		err = os.Rename(temp.Name(), path)
	}
	return temp, err
}

// errTooBig refuses a file that nobody should have written.
var errTooBig = fmt.Errorf("the file is larger than %d bytes", maxValue)

// read reads a regular file, and never blocks on one that is something else by
// now.
func read(path string) ([]byte, error) {
	f, err := os.OpenFile(path, openFlags, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: want a regular file, got %v", path, info.Mode().Type())
	}
	data, err := io.ReadAll(io.LimitReader(f, maxValue+1))
	if err == nil && len(data) > maxValue {
		err = errTooBig
	}
	return data, err
}

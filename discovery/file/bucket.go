package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
)

const (
	// maxValue bounds what is read of a foreign file.
	maxValue = 16 << 20

	tempPrefix = ".tmp_"
)

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

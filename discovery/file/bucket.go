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
	// maxValue bounds the memory that another process's file can take.
	maxValue = 16 << 20

	// tempPrefix marks files that are being written. Watches ignore them.
	tempPrefix = ".tmp_"
)

// publish creates the file name in dir with all of its content at once, and
// creates the directory if it is missing. An existing file is replaced if
// replace is set; otherwise the error wraps fs.ErrExist. The file is returned
// open for reading.
func publish(ctx context.Context, dir, name string, value []byte, replace bool) (*os.File, error) {
	for attempt := 0; ; attempt++ {
		if err := os.MkdirAll(dir, 0o777); err != nil { // less the umask, as Dynamo does
			return nil, err
		}
		f, err := publishIn(ctx, dir, name, value, replace)
		// Another process may be removing the directory, but not forever.
		if attempt == 2 || !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
	}
}

// publishIn writes a temporary file and links or renames it while the directory is
// locked, so that no reader finds a part of it.
func publishIn(ctx context.Context, dir, name string, value []byte, replace bool) (_ *os.File, err error) {
	temp, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("%s%016x", tempPrefix, rand.Uint64())), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, err
	}
	defer func() {
		os.Remove(temp.Name()) // fails if it was renamed
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

var errTooLarge = fmt.Errorf("the file is larger than %d bytes", maxValue)

// read reads a regular file. It never blocks, even if the file has been replaced
// by something else since it was examined.
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
		err = errTooLarge
	}
	return data, err
}

// ignoreNotExist returns nil for a file that another process has removed already.
func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
